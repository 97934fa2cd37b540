"""A model is run only when it answers what it answered when its bundle was made."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from limen.errors import BundleError
from tests.support.synthetic import fake_bundle
from worker.serving import self_test
from worker.serving.engine import Engine


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_the_self_test_passes_on_the_model_it_was_made_with(tiny_bundle: Path) -> None:
    assert self_test.check(tiny_bundle).name == "tiny"


def test_the_self_test_notices_another_answer(copy: Path) -> None:
    with np.load(copy / "golden.npz") as arrays:
        tensor, probability = arrays["tensor"], arrays["probability"]
    np.savez(copy / "golden.npz", tensor=tensor, probability=np.abs(probability - 0.1))
    with pytest.raises(BundleError, match="3 of 3 golden tensors differ"):
        self_test.check(copy)


def test_the_golden_check_fails_on_another_model() -> None:
    with Engine(fake_bundle(), backend=_Half()) as engine, pytest.raises(BundleError, match="0.49"):
        self_test.golden_check(engine, fake_bundle())


class _Half:
    def predict(self, batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 1), 0.5, np.float32)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "windows = [[40, 80], [80, 200], [40, 380]]",
            "windows = [[40, 80]]",
            r"model\.keras takes 3 channels, but input\.windows of bundle\.toml lists 1",
        ),
        (
            "[input]",
            "[input]\nneighbours = 2",
            r"takes 3 channels, but bundle\.toml describes 3 windows x 5 slices .* = 15; change",
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
    manifest = copy / "bundle.toml"
    manifest.write_text(manifest.read_text("utf-8").replace(old, new, 1), "utf-8")
    found = replace_golden(copy)
    with pytest.raises(BundleError, match=fault):
        self_test.check(found)


def replace_golden(folder: Path) -> Path:
    """Write golden tensors of the shapes that the manifest asks for."""
    tree = tomllib.loads((folder / "bundle.toml").read_text("utf-8"))
    slices = 2 * tree["input"].get("neighbours", 0) + 1
    shape = (1, *tree["input"]["size"], len(tree["input"]["windows"]) * slices)
    np.savez(
        folder / "golden.npz",
        tensor=np.zeros(shape, np.float32),
        probability=np.zeros((1, len(tree["label"])), np.float32),
    )
    return folder
