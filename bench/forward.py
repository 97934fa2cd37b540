"""Models as functions of a batch, on the runtimes that the worker has."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.bundles.bundle import Bundle
from worker.serving.backends.openvino import OpenVINO, compiled, import_openvino

__all__ = ["Forward", "has_openvino", "keras_model", "of_bundle", "openvino", "tensorflow"]

Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps (n, rows, columns, channels) float32, 0..1, to (n, labels) float32 probabilities."""


def keras_model(name: str, bundle_weights: Path) -> Any:
    """Return ``ich``, or a network of keras.applications with the weights of a fixed seed.

    Drawn weights cost what trained ones do; what they explain means nothing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "ich":
            return keras.models.load_model(bundle_weights, safe_mode=True, compile=False)
        keras.utils.set_random_seed(1)
        return getattr(keras.applications, name)(weights=None)


def tensorflow(model: Any) -> Forward:
    """Return the model as one frozen graph: constants folded, batch norms merged."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    signature = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    function = tf.function(lambda x: model(x, training=False), input_signature=[signature])
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())

    def forward(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        (answer,) = frozen(tf.constant(batch, tf.float32))
        return np.asarray(answer.numpy(), np.float32)

    return forward


def has_openvino() -> bool:
    """Tell whether OpenVINO is installed."""
    return bool(importlib.util.find_spec("openvino"))


def of_bundle(bundle: Bundle, precision: str) -> Forward:
    """Return a bundle's own OpenVINO file, as the worker runs it."""
    return OpenVINO(bundle.converted[precision]).predict


def openvino(model: Any) -> Forward:
    """Return the model as OpenVINO runs it in fp32, compiled as the worker compiles it."""
    library = import_openvino()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(folder, verbose=False)
        request = compiled(library, library.convert_model(folder)).create_infer_request()

    def forward(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        inside = np.ascontiguousarray(batch, np.float32)
        answer: NDArray[np.float32] = request.infer({0: inside}, share_inputs=True)[0].copy()
        return answer

    return forward
