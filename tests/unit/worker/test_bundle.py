"""A bundle is loaded whole and unaltered, or refused with every fault named."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import BaseModel

from limen import config
from limen.config import SHIPPED_BUNDLES
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


def test_an_old_bundle_without_the_optional_sections_has_the_defaults(tiny_bundle: Path) -> None:
    found = bundle.load(tiny_bundle)
    assert (found.weights_format, found.scale, found.temperature) == ("keras", (0.0, 1.0), 1.0)
    assert found.output == bundle.Output(activation="none", inverted=False)
    assert found.explain == bundle.Explain(mode="settled", samples=96, superpixels=20)


def test_the_bundle_that_ships_loads() -> None:
    assert bundle.load(SHIPPED_BUNDLES / "ich").name == "ich"


def test_every_optional_key_is_read(copy: Path) -> None:
    edit(
        copy,
        "[input]",
        '[output]\nactivation = "sigmoid"\ninverted = true\n[calibration]\ntemperature = 1.5\n'
        '[explain]\nsamples = 100\n[input]\ndtype = "float32"\nscale = [-1, 1]',
    )
    found = bundle.load(copy)
    assert found.output == bundle.Output(activation="sigmoid", inverted=True)
    assert (found.scale, found.temperature) == ((-1.0, 1.0), 1.5)
    assert found.explain == bundle.Explain(samples=100)


def test_settings_go_before_the_explain_section_of_a_bundle_only_where_they_are_set() -> None:
    asked = bundle.Explain(samples=100, superpixels=30).overridden_by(
        config.Explain(samples=40, max_explained=0)
    )
    assert (asked.samples, asked.superpixels, asked.max_explained) == (40, 30, 0)


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ("[input]\nscale = [1, 0]", r"input: scale must be \[low, high\] with low < high"),
        ("[input]\nscale = [0, inf]", r"input\.scale\.1"),
        ('[input]\ndtype = "float16"', r"input\.dtype: Input should be 'float32'"),
        ('[output]\nactivation = "softmax"\n[input]', "a softmax needs two outputs"),
        ('[output]\nactivation = "relu"\n[input]', r"output\.activation.*'softmax'"),
        ("[calibration]\ntemperature = 0\n[input]", r"calibration\.temperature"),
        ("[explain]\nsamples = 1\n[input]", r"explain\.samples"),
        ("[explain]\nseed = 1\n[input]", r"explain\.seed: unknown key"),
    ],
)
def test_a_fault_of_an_optional_key_is_named(copy: Path, section: str, fault: str) -> None:
    edit(copy, "[input]", section)
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('name = "tiny"\n', "bundle.toml: name: is missing; expected a name in lower case"),
        ('meaning = "Intracranial hemorrhage"\n', "label.0.meaning: is missing; expected what"),
        ("size = [32, 32]\n", r"input.size: is missing; expected [rows, columns]"),
        ("threshold = 0.5\n", "decision.threshold: is missing; expected the least positive"),
    ],
)
def test_a_missing_key_says_what_was_expected(copy: Path, line: str, fault: str) -> None:
    edit(copy, line, "")
    with pytest.raises(BundleError) as caught:
        bundle.load(copy)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "windows = [[40, 80], [80, 200], [40, 380]]",
            "windows = [[40, 80]]",
            r"model\.keras takes 3 channels, but input\.windows of bundle\.toml lists 1",
        ),
        (
            "size = [32, 32]",
            "size = [16, 32]",
            r"model\.keras takes images of 32 x 32, but input\.size .* expected \[32, 32\]",
        ),
        (
            "[decision]",
            '[[label]]\nname = "b"\nmeaning = "b"\ncode = ["b", "99X"]\n[decision]',
            r"gives 1 outputs, but bundle\.toml has 2 \[\[label\]\] \(any, b\)",
        ),
    ],
)
def test_a_model_that_does_not_fit_the_manifest_is_refused_by_key(
    copy: Path, old: str, new: str, fault: str
) -> None:
    edit(copy, old, new)
    found = replace_golden(copy)
    with pytest.raises(BundleError, match=fault):
        bundle.check(found)


def replace_golden(folder: Path) -> Path:
    """Write golden tensors of the shapes that the manifest asks for."""
    tree = tomllib.loads((folder / "bundle.toml").read_text("utf-8"))
    shape = (1, *tree["input"]["size"], len(tree["input"]["windows"]))
    np.savez(
        folder / "golden.npz",
        tensor=np.zeros(shape, np.float32),
        probability=np.zeros((1, len(tree["label"])), np.float32),
    )
    return folder


def test_every_key_of_the_manifest_is_documented() -> None:
    page = (SHIPPED_BUNDLES.parent / "docs" / "bundles.md").read_text("utf-8")
    missing = []
    for name, field in bundle._Manifest.model_fields.items():
        parts = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        inner = next((t for t in parts if issubclass(t, BaseModel)), None)
        keys = [name] if inner is None else [f"{name}.{key}" for key in inner.model_fields]
        missing += [key for key in keys if f"`{key}`" not in page]
    assert missing == []
