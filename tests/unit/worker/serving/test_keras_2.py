"""Files of a real Keras 2: Keras 3 says of them what Keras 2 said, or they are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen import config
from limen.command.edge import OK
from limen.errors import BundleError
from tests.support import keras_2_models as models
from worker.bundles import bundle as bundles
from worker.bundles.manifest import Format
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.serving.keras_file import open_model
from worker.tools import model_tool

ENDINGS: dict[str, Format] = {"h5": "h5-legacy", "keras": "keras"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras-2")
    words = [sys.executable, "-W", "ignore", "-m", models.__name__, str(path)]
    subprocess.run(words, check=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}, timeout=300)
    return path


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_tensorflow()[1]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", [build.__name__ for build in models.READ])
def test_keras_3_says_what_keras_2_said(name: str, ending: str, folder: Path, keras: Any) -> None:
    model = open_model(keras, folder / f"{name}.{ending}", ENDINGS[ending])
    known = np.load(folder / f"{name}.npz")
    assert np.ptp(known["said"]) > 1e-3
    found = np.asarray(model(known["image"], training=False))
    np.testing.assert_allclose(found, known["said"], atol=2e-3 if "half" in name else 1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_bundle_is_made_of_such_a_file_and_answers(
    ending: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMEN_ENGINE__ALLOW_LEGACY_H5", "true")
    source = str(folder / f"transfer.{ending}")
    assert model_tool.main(["new", "mine", "--from", source, "--scale", "0", "1"]) == OK
    assert model_tool.main(["check", "mine"]) == OK
    bundle = bundles.load(Path("mine"), allow_legacy_h5=True)
    known = np.load(folder / "transfer.npz")
    with Engine(bundle, config.Engine(allow_legacy_h5=True)) as engine:
        found = engine.answer(engine.submit(known["image"], Lane.PREDICT))
    np.testing.assert_allclose(found, known["said"], atol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hard_sigmoid", "has a hard_sigmoid, which is 0.2 x"),
        ("operators", "holds a TFOpLambda layer, which is an operation between layers"),
        ("attention", "cannot be loaded by Keras 3.* as a file of Keras 2 .*Unrecognized keyword"),
    ],
)
def test_what_keras_3_cannot_say_is_refused_with_what_helps(
    name: str, reason: str, ending: str, folder: Path, keras: Any
) -> None:
    with pytest.raises(BundleError, match=reason) as refused:
        open_model(keras, folder / f"{name}.{ending}", ENDINGS[ending])
    assert "tf.saved_model.save(model, 'folder')" in str(refused.value)


def test_an_h5_file_by_the_name_of_keras_is_told_by_its_first_bytes(
    folder: Path, tmp_path: Path, keras: Any
) -> None:
    named = shutil.copy(folder / "in_a_row.h5", tmp_path / "in_a_row.keras")
    with pytest.raises(BundleError, match=r"is an HDF5 file .*; give it the ending \.h5"):
        open_model(keras, named, "keras")


@pytest.mark.parametrize("told", [b"", b"[]", b"null", b'{"keras_version": 2}', b"\xff"])
def test_an_archive_that_does_not_say_what_it_is_is_refused(
    told: bytes, tmp_path: Path, keras: Any
) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", told)
    with pytest.raises(BundleError, match="cannot be loaded by Keras 3"):
        open_model(keras, path, "keras")


def test_a_file_that_is_gone_is_refused(tmp_path: Path, keras: Any) -> None:
    with pytest.raises(BundleError, match="cannot be loaded by Keras 3"):
        open_model(keras, tmp_path / "model.keras", "keras")
