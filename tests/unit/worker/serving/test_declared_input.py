"""A model that takes the head at a scale, with neighbours: every backend, int8, golden tensors."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.errors import BundleError, ConfigError
from tests.support import synthetic
from tests.support.predictions import STAMP, instances
from tests.support.synthetic import STUDY
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.serving import self_test
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine
from worker.study.explanation import explain_study
from worker.study.parts import read_headers
from worker.study.prediction import predict_study
from worker.tools.model_convert import convert, read_tensors

SHAPE = (32, 24, 9)
DECLARED = 'crop = "head"\nspacing_mm = 1.0\nneighbours = 1\nsize = [32, 24]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with neighbours, a real Keras model, and its OpenVINO files."""
    made = tmp_path_factory.mktemp("neighbours") / "bundle"
    made.mkdir()
    _, keras = import_tensorflow()
    random = np.random.default_rng(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        keras.utils.set_random_seed(3)
        image = keras.Input(SHAPE)
        found = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
        found = keras.layers.GlobalAveragePooling2D()(found)
        model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(found))
        model.save(made / "model.keras")
        tensor = random.random((3, *SHAPE), dtype=np.float32)
        np.savez(made / "golden.npz", tensor=tensor, probability=model(tensor).numpy())
    digest = hashlib.sha256((made / "model.keras").read_bytes()).hexdigest()
    text = synthetic.MANIFEST.format(sha256=digest).replace("size = [32, 32]", DECLARED)
    text = text.replace("threshold = 0.5", "threshold = 0.0")
    (made / "bundle.toml").write_text(text, "utf-8")
    np.savez(made / "calibrate.npz", tensor=random.integers(0, 256, (40, *SHAPE), np.uint8))
    convert(made, int8=True, tensors=read_tensors(made / "calibrate.npz", SHAPE))
    return made


def test_golden_tensors_of_every_channel_are_checked_with_every_backend(folder: Path) -> None:
    found = self_test.check(folder)
    assert found.input_shape == SHAPE
    assert set(found.converted) == {"fp32", "int8"}
    assert found.part == "the head, 1 mm a pixel, 1 more slice on each side"


@pytest.mark.parametrize("backend", ["tensorflow", "openvino"])
def test_a_study_is_predicted_and_explained_by_what_the_bundle_declares(
    folder: Path, backend: str, tmp_path: Path, decoder: Decoder
) -> None:
    bundle = bundles.load(folder)
    paths = synthetic.series(tmp_path, 4, lesion_in=(2,))
    with Engine(bundle, config.Engine(backend=backend, precision="fp32")) as engine:
        read = read_headers(instances(paths), decoder)
        predicted = predict_study(STUDY, read, decoder, engine, bundle, STAMP)
        explained = explain_study(
            predicted.result, instances(paths), decoder, engine, bundle,
            config.Explain(samples=20, superpixels=6, max_explained=2), STAMP,
        )  # fmt: skip
    found = [image.probability["any"] for image in predicted.result.images if image.probability]
    assert len(set(found)) > 1  # the slices differ, and so do their neighbours
    for told in explained.result.explanations:
        (image,) = (i for i in predicted.result.images if i.sop_uid == told.sop_uid)
        assert image.probability is not None
        assert told.probability == pytest.approx(image.probability["any"], abs=1e-5)
    assert len(explained.files) == 2


def test_tensors_of_one_slice_do_not_calibrate_a_model_of_three(folder: Path) -> None:
    np.savez(folder / "single.npz", tensor=np.zeros((4, 32, 24, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"tensor must be of shape \(n, 32, 24, 9\)"):
        read_tensors(folder / "single.npz", bundles.load(folder).input_shape)


def test_a_bundle_with_other_neighbours_than_its_model_names_the_sum(
    folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = tmp_path / "bundle.toml"
    text = manifest.read_text("utf-8").split("[openvino")[0]
    manifest.write_text(text.replace("neighbours = 1", "neighbours = 2"), "utf-8")
    np.savez(
        tmp_path / "golden.npz",
        tensor=np.zeros((1, 32, 24, 15), np.float32),
        probability=np.zeros((1, 1), np.float32),
    )
    with pytest.raises(BundleError, match=r"takes 9 channels, .* 3 windows x 5 slices .* = 15"):
        self_test.check(tmp_path)
