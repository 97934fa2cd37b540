"""A bundle is loaded whole and unaltered, or refused with every fault named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from limen.errors import BundleError
from worker import bundle


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "bundle.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_it_loads_what_the_manifest_says(tiny_bundle: Path) -> None:
    found = bundle.load(tiny_bundle)
    assert (found.name, found.input_shape, found.label_names) == ("tiny", (32, 32, 3), ["any"])
    assert found.threshold == 0.5
    assert found.decision_index == 0


def test_the_self_test_passes_on_the_model_it_was_made_with(tiny_bundle: Path) -> None:
    assert bundle.check(tiny_bundle).name == "tiny"


def test_every_fault_is_named_at_once(copy: Path) -> None:
    edit(copy, 'licence = "Apache-2.0"\n', "")
    edit(copy, "threshold = 0.5", "threshold = 2")
    edit(copy, "[input]", "[input]\ncolour = 1")
    with pytest.raises(BundleError) as caught:
        bundle.load(copy)
    text = str(caught.value)
    for fault in ("licence: is missing", "decision.threshold", "input.colour: unknown key"):
        assert fault in text


def test_altered_weights_are_refused(copy: Path) -> None:
    with (copy / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="model.keras: SHA-256"):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../model.keras", "inside the folder"),
        ("model.h5", r"must be a \.keras file"),
        ("absent.keras", "does not exist"),
    ],
)
def test_weights_outside_of_another_kind_or_absent_are_refused(
    copy: Path, name: str, fault: str
) -> None:
    (copy / "model.h5").write_bytes(b"")
    edit(copy, 'file = "model.keras"', f'file = "{name}"')
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)


def test_a_link_out_of_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "model.keras", tmp_path / "model.keras")
    (copy / "model.keras").symlink_to(tmp_path / "model.keras")
    with pytest.raises(BundleError, match="inside the folder"):
        bundle.load(copy)


def test_golden_probabilities_for_other_labels_are_refused(copy: Path) -> None:
    with np.load(copy / "golden.npz") as arrays:
        tensor = arrays["tensor"]
    np.savez(copy / "golden.npz", tensor=tensor, probability=np.zeros((3, 2), np.float32))
    with pytest.raises(BundleError, match=r"probability must be float32 of shape \(3, 1\)"):
        bundle.load(copy)


def test_golden_file_of_objects_is_refused(copy: Path) -> None:
    np.savez(copy / "golden.npz", tensor=np.array([{}], object), probability=np.zeros(1))
    with pytest.raises(BundleError, match=r"golden\.npz"):
        bundle.load(copy)


def test_the_self_test_notices_another_answer(copy: Path) -> None:
    with np.load(copy / "golden.npz") as arrays:
        tensor, probability = arrays["tensor"], arrays["probability"]
    np.savez(copy / "golden.npz", tensor=tensor, probability=np.abs(probability - 0.1))
    with pytest.raises(BundleError, match="3 of 3 golden tensors differ"):
        bundle.check(copy)


def test_a_folder_without_manifest_says_what_a_bundle_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a model bundle is a folder with bundle\.toml"):
        bundle.load(tmp_path)


def test_a_manifest_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle.toml").write_text("name = ", "utf-8")
    with pytest.raises(BundleError, match="not valid TOML"):
        bundle.load(tmp_path)


def test_the_decision_names_one_of_the_labels(copy: Path) -> None:
    edit(copy, 'label = "any"', 'label = "other"')
    with pytest.raises(BundleError, match=r"decision\.label must be one of the labels \(any\)"):
        bundle.load(copy)
