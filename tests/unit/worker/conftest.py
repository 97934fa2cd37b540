"""Fixtures of the worker's tests: a decoder, a real but tiny Keras bundle, the shared data."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import synthetic
from worker.dicom.decoder import Decoder
from worker.serving.backends.tensorflow import import_tensorflow
from worker.tools.model_convert import convert

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with Decoder(processes=2, timeout_s=20) as running:
        yield running


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (SHARED / "MANIFEST.tsv").is_file():
        pytest.skip(f"the shared test data are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with a real Keras model of a few weights."""
    folder = tmp_path_factory.mktemp("tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        _make_bundle(folder)
    return folder


def _make_bundle(folder: Path) -> None:
    _, keras = import_tensorflow()
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 3))
    found = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    found = keras.layers.GlobalAveragePooling2D()(found)
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(found))
    model.save(folder / "model.keras")
    tensor = np.random.default_rng(2).random((3, 32, 32, 3), dtype=np.float32)
    np.savez(folder / "golden.npz", tensor=tensor, probability=model(tensor).numpy())
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    (folder / "bundle.toml").write_text(synthetic.MANIFEST.format(sha256=digest), "utf-8")


@pytest.fixture(scope="session")
def converted_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny bundle with its OpenVINO files, fp32 and int8."""
    folder = tmp_path_factory.mktemp("converted") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    tensors = np.random.default_rng(4).integers(0, 256, (40, 32, 32, 3), np.uint8)
    convert(folder, int8=True, tensors=tensors)
    return folder
