"""What OpenVINO runs on this machine's CPU: conversions of Keras weights, ONNX, its own files.

``limen model convert`` makes the conversions; bundle.toml pins the SHA-256 of each file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError
from worker.bundles.bundle import Bundle, Converted, refuse_altered
from worker.serving.backends import openvino_file
from worker.serving.backends.openvino_file import compiled, import_openvino
from worker.serving.numbers import probabilities, relative, scaled

__all__ = ["OpenVINO", "Own", "compiled", "import_openvino"]


class OpenVINO:
    """One compiled network that takes batches of any size.

    Parameters
    ----------
    files
        The variant of the bundle to run.

    Raises
    ------
    BundleError
        The files were altered, or cannot be read by this OpenVINO.
    """

    smallest_batch = 1

    def __init__(self, files: Converted) -> None:
        for path, sha256 in ((files.path, files.sha256), (files.weights, files.weights_sha256)):
            refuse_altered(path, sha256)
        openvino = import_openvino()
        try:
            network = openvino.Core().read_model(files.path, files.weights)
            self._request = compiled(openvino, network).create_infer_request()
        except RuntimeError as exc:
            raise BundleError(
                f"{files.path} cannot be run by OpenVINO {openvino.__version__}; "
                f"make it again with: limen model convert {files.path.parent}"
            ) from exc

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend``."""
        inside = np.ascontiguousarray(batch)
        # The answer lies in OpenVINO's own memory until the next call.
        answer: NDArray[np.float32] = self._request.infer({0: inside}, share_inputs=True)[0].copy()
        return answer


class Own:
    """The weights of a bundle that OpenVINO reads as they are: ONNX, or its own format.

    Raises
    ------
    BundleError
        The files were altered, cannot be read, or do not fit the manifest.
    """

    smallest_batch = 1

    def __init__(self, bundle: Bundle) -> None:
        refuse_altered(bundle.weights, bundle.sha256)
        if bundle.constants_sha256:
            refuse_altered(bundle.weights.with_suffix(".bin"), bundle.constants_sha256)
        network = openvino_file.open_network(bundle.weights)
        openvino_file.refuse_other_shapes(network, bundle)
        self._run = openvino_file.runner(
            network,
            bundle.weights,
            bundle.layout,
            bundle.input_shape,
            bundle.tensors,
            bundle.map.output if bundle.map else "",
        )
        self._bundle = bundle

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend``."""
        raw, shown = self._run(scaled(batch, self._bundle))
        answer = probabilities(raw, self._bundle.output, self._bundle.temperature)
        return answer if shown is None else np.concatenate([answer, relative(shown)], axis=1)
