"""A SavedModel of TensorFlow: a folder, read by OpenVINO, which runs no code of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen import config
from limen.command.edge import FAILED, OK, USAGE
from worker.bundles import bundle as bundles
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool

SHAPE = (48, 64, 1)
FOLDER = "saved"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def exported(*, with_map: bool = False) -> Any:
    """Write the SavedModel of a Keras model, and return that."""
    _, keras = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        keras.utils.set_random_seed(5)
        image = keras.Input(SHAPE, name="image")
        found = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
        found = keras.layers.BatchNormalization()(found)
        answer = keras.layers.Dense(2, activation="softmax", name="answer")(
            keras.layers.GlobalMaxPooling2D()(found)
        )
        cam = keras.layers.Conv2D(1, 1, activation="sigmoid", name="cam")(
            keras.layers.AveragePooling2D(4)(found)
        )
        model = keras.Model(image, {"answer": answer, "cam": cam} if with_map else answer)
        model.export(FOLDER, verbose=False)
    return model


def saved(function: Callable[[Any, Any], Any]) -> None:
    """Write the SavedModel of a function of TensorFlow and a batch."""
    tensorflow, _ = import_tensorflow()

    class Module(tensorflow.Module):  # type: ignore[misc]
        @tensorflow.function(
            input_signature=[tensorflow.TensorSpec((None, *SHAPE), tensorflow.float32, "image")]
        )
        def __call__(self, batch: Any) -> Any:
            return function(tensorflow, batch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Module()
        tensorflow.saved_model.save(module, FOLDER, signatures=module.__call__)


def new(*said: str) -> int:
    return model_tool.main(["new", "mine", "--from", FOLDER, "--scale", "0", "1", *said])


def test_a_saved_model_answers_as_in_tensorflow_and_is_kept_as_a_file_of_openvino() -> None:
    model = exported()
    assert new() == OK
    assert model_tool.main(["check", "mine"]) == OK
    found = bundles.load(Path("mine"))
    assert found.weights_format == "openvino"
    assert (found.size, found.layout) == (SHAPE[:2], "nhwc")
    assert "by `limen model new` from saved;" in Path("mine/bundle.toml").read_text("utf-8")
    tensor = np.random.default_rng(2).random((5, *SHAPE), dtype=np.float32)
    with Engine(found, config.Engine()) as engine:
        answer = engine.answer(engine.submit(tensor, Lane.PREDICT))
    assert np.abs(answer - np.asarray(model(tensor, training=False))).max() <= 1e-4


def test_a_saved_model_may_have_a_map_of_its_own() -> None:
    model = exported(with_map=True)
    assert new("--map", "cam") == OK
    tensor = np.random.default_rng(2).random((3, *SHAPE), dtype=np.float32)
    true = model(tensor, training=False)
    cam = np.asarray(true["cam"]).reshape(3, -1)
    with Engine(bundles.load(Path("mine")), config.Engine()) as engine:
        both = engine.answer_and_map(engine.submit(tensor, Lane.PREDICT))
    assert np.abs(both[:, :2] - np.asarray(true["answer"])).max() <= 1e-4
    assert np.abs(both[:, 2:] - cam / cam.max(axis=1, keepdims=True)).max() <= 1e-4


def test_python_code_in_a_saved_model_is_refused_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def with_code(tensorflow: Any, batch: Any) -> Any:
        def mean(one: Any) -> Any:
            return tensorflow.reduce_mean(one, axis=[1, 2])

        return tensorflow.py_function(mean, [batch], tensorflow.float32)

    saved(with_code)
    assert new() == FAILED
    said = capsys.readouterr().err
    assert "EagerPyFunc" in said
    assert "model.save('model.keras')" in said
    assert not Path("mine").exists()


def test_what_is_wrong_with_a_saved_model_is_said_of_its_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved(lambda tensorflow, batch: tensorflow.reduce_mean(batch))
    assert new() == FAILED
    said = capsys.readouterr().err
    assert FOLDER in said
    assert ".xml" not in said


def test_a_folder_that_is_no_saved_model_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path(FOLDER).mkdir()
    assert new() == USAGE
    assert "no SavedModel: it has no saved_model.pb" in capsys.readouterr().err
