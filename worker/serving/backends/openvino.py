"""The OpenVINO files of a bundle, run on this machine's CPU.

``limen model convert`` makes them; bundle.toml pins their SHA-256 as it pins the weights.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError
from worker.bundles.bundle import Converted, refuse_altered

__all__ = ["OpenVINO", "import_openvino"]


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


def compiled(openvino: Any, network: Any) -> Any:
    """Compile a network as it is served: all cores on one batch, in full float32.

    Threads are not pinned to cores: decoders and other processes want them too, and a pinned
    thread waits for its core while another one is free.
    """
    hints = openvino.properties.hint
    settings = {
        hints.performance_mode: hints.PerformanceMode.LATENCY,
        hints.inference_precision: openvino.Type.f32,  # some CPUs would take bfloat16
        hints.enable_cpu_pinning: False,
    }
    return openvino.Core().compile_model(network, "CPU", settings)


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would call home and write to ~/intel."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: PLC0415 - only where it is used
    import openvino.properties.hint  # noqa: PLC0415

    return openvino
