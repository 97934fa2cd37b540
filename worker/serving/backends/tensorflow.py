"""The Keras model of a bundle, run by TensorFlow on this machine's GPU or CPU."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.bundles.bundle import Bundle, refuse_altered
from worker.bundles.manifest import Format
from worker.serving import keras_file
from worker.serving.facts import Facts
from worker.serving.numbers import LEAST_PROBABILITY

__all__ = ["TensorFlow", "concrete_function", "import_tensorflow", "read_facts"]


class TensorFlow:
    """The bundle as one frozen graph: its variables are constants, so batch norms are merged.

    That is faster on every model that was tried, and the Keras model can be let go.

    Raises
    ------
    BundleError
        The weights were altered, cannot be loaded, or do not fit the manifest.
    """

    smallest_batch = 8  # below it other kernels give other last digits, of some tensors only

    def __init__(self, bundle: Bundle) -> None:
        tensorflow, _ = import_tensorflow()
        settings = tensorflow.config.experimental
        # TensorFloat-32 keeps 10 bits of a factor: too few for the golden tensors.
        settings.enable_tensor_float_32_execution(False)
        for gpu in tensorflow.config.list_physical_devices("GPU"):
            settings.set_memory_growth(gpu, True)  # else one worker takes all of its memory
        from tensorflow.python.framework import convert_to_constants  # noqa: PLC0415

        function, _ = concrete_function(bundle)
        self._predict = convert_to_constants.convert_variables_to_constants_v2(function)
        self._tensor = tensorflow.constant

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend``."""
        (answer,) = self._predict(self._tensor(batch))
        found: NDArray[np.float32] = answer.numpy()
        return found


def concrete_function(bundle: Bundle) -> tuple[Any, Any]:
    """Return a bundle as a function of TensorFlow, and the Keras model that holds its weights.

    The function maps Limen's tensors (n, rows, columns, channels), 0..1, to the range that the
    model wants, and its raw output to calibrated probabilities (n, outputs): labels, then members;
    the cells of its own map come behind them.

    Raises
    ------
    BundleError
        The weights were altered, cannot be loaded, or do not fit the manifest.
    """
    refuse_altered(bundle.weights, bundle.sha256)
    tensorflow, keras = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras are not the operator's
        model = keras_file.open_model(keras, bundle.weights, bundle.weights_format)
        keras_file.refuse_other_shapes(model, bundle)

        def call(batch: Any) -> Any:
            given = _given(tensorflow, _scaled(batch, bundle), bundle)
            beside = bundle.map.output if bundle.map else ""
            raw, shown = keras_file.answer_and_map(model, model(given, training=False), beside)
            answer = _probability(tensorflow, tensorflow.cast(raw, tensorflow.float32), bundle)
            if shown is None:
                return answer
            return tensorflow.concat([answer, _relative(tensorflow, shown, bundle.cells)], axis=1)

        signature = tensorflow.TensorSpec((None, *bundle.input_shape), tensorflow.float32)
        function = tensorflow.function(call, input_signature=[signature], autograph=False)
        return function.get_concrete_function(), model


def read_facts(path: Path, file_format: Format, beside: str = "") -> Facts:
    """Open a Keras file and return what it says of itself.

    Parameters
    ----------
    beside
        The output that is a map of where the model looks; empty where none is.

    Raises
    ------
    BundleError
        It cannot be loaded, or it would run code.
    """
    _, keras = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras are not the operator's
        model = keras_file.open_model(keras, path, file_format)
        return keras_file.facts_of(keras, model, path, beside)


def import_tensorflow() -> tuple[Any, Any]:
    """Import TensorFlow quietly: its start-up notes are not for the operator."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with warnings.catch_warnings(), _held_back_stderr():
        warnings.simplefilter("ignore")
        import keras  # noqa: PLC0415 - seconds; only when an engine starts
        import tensorflow  # noqa: PLC0415
    return tensorflow, keras


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Keep file descriptor 2 back; show it only when the block fails.

    TensorFlow 2.21 writes its first lines before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(original, kept.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


def _given(tensorflow: Any, batch: Any, bundle: Bundle) -> Any:
    """Return the batch, or what of it each of several inputs is given."""
    if not bundle.tensors:
        return batch
    return {
        name: tensorflow.gather(batch, list(channels), axis=-1)
        for name, channels in bundle.tensors.items()
    }


def _scaled(batch: Any, bundle: Bundle) -> Any:
    """Map 0..1 to what the model was trained on; ``worker.serving.numbers`` does it in NumPy."""
    low, high = bundle.scale
    found = batch if (low, high) == (0, 1) else batch * (high - low) + low
    found = found - np.array(bundle.mean, np.float32) if bundle.mean else found
    return found / np.array(bundle.deviation, np.float32) if bundle.deviation else found


def _probability(tensorflow: Any, raw: Any, bundle: Bundle) -> Any:
    """Map the raw output to probabilities: activation, calibration, then the direction."""
    if bundle.output.activation == "softmax":
        return tensorflow.nn.softmax(raw / bundle.temperature)
    if bundle.output.activation == "sigmoid":
        found = tensorflow.sigmoid(raw / bundle.temperature)
    elif bundle.temperature != 1:
        inside = tensorflow.clip_by_value(raw, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logit = tensorflow.math.log(inside) - tensorflow.math.log1p(-inside)
        found = tensorflow.sigmoid(logit / bundle.temperature)
    else:
        found = raw
    return 1 - found if bundle.output.inverted else found


def _relative(tensorflow: Any, maps: Any, cells: int) -> Any:
    """Return (n, cells), 0..1; ``worker.serving.numbers.relative`` does it in NumPy."""
    flat = tensorflow.reshape(tensorflow.cast(maps, tensorflow.float32), (-1, cells))
    above = tensorflow.nn.relu(flat)
    return tensorflow.math.divide_no_nan(above, tensorflow.reduce_max(above, 1, keepdims=True))
