"""Which backend runs a bundle on this machine.

``auto`` looks for what is installed and has its files. OpenVINO goes before TensorFlow on a CPU
without asking: it has been the faster one on every model measured, and loading TensorFlow only to
measure it again would take longer than all the rest of the start. Measured at the start is what
can change the answer: both precisions of OpenVINO where int8 is exact enough, and TensorFlow
where there is a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from limen import config
from limen.errors import BundleError
from worker.bundles.bundle import Bundle
from worker.serving.backends import Backend

__all__ = ["Chosen", "choose", "has_gpu", "installed", "largest_batch", "possible"]

OPENVINO_TOLERANCE: Final = 1e-4
"""Largest difference from the golden probabilities in fp32."""

INT8_MARGIN: Final = 0.01
"""What another CPU may add to the difference that was measured when the int8 file was made."""

OF_OPENVINO: Final = {"onnx", "openvino"}
"""Formats of weights that OpenVINO reads as they are."""

MOST_BYTES: Final = 128 << 20
"""Of a batch: 218 slices of 224 x 224 in three windows, or 20 volumes of 32 of them in one."""

MAP_TOLERANCE: Final = 0.05
"""Largest difference of a cell of the model's own map, of its highest."""

RUNS: Final = 3

SLOW_S: Final = 0.25
"""Where a tensor takes this long one is enough to measure with: a worker has to start some time."""

_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd")

Tensor = NDArray[np.float32]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend with its name and how near it has to come to the golden probabilities and maps."""

    name: str
    backend: Backend
    tolerance: float
    remedy: str = ""
    map_tolerance: float = MAP_TOLERANCE


def installed(package: str) -> bool:
    """Return whether a library is there, without loading it."""
    return find_spec(package) is not None


def has_gpu() -> bool:
    """Return whether the driver of a GPU that TensorFlow may use is there."""
    return any(Path(device).exists() for device in _GPU_DEVICES)


def choose(bundle: Bundle, settings: config.Engine) -> Chosen:
    """Return the backend that the settings ask for, or the fastest that is possible.

    Raises
    ------
    BundleError
        None is possible, or its files do not fit the manifest.
    """
    if bundle.remote is not None:
        from worker.serving.backends.remote import Remote  # noqa: PLC0415 - only where it is used

        remedy = "the server does not run the model that was released"
        backend = Remote(bundle, settings.remote)
        return Chosen("remote", backend, bundle.golden_tolerance, remedy)
    names = possible(bundle, settings)
    if len(names) == 1:
        return _open(names[0], bundle)
    opened = [_open(name, bundle) for name in names]
    batch = np.zeros((largest_batch(bundle, settings), *bundle.input_shape), np.float32)
    seconds = _measured(opened, batch[:1])
    if max(seconds.values()) < SLOW_S:
        seconds = _measured(opened, batch)
    for name, took_s in seconds.items():
        _log.info("engine.measured", bundle=bundle.name, backend=name, seconds=round(took_s, 4))
    return min(opened, key=lambda one: seconds[one.name])


def largest_batch(bundle: Bundle, settings: config.Engine) -> int:
    """Return how many tensors may run together: of large ones fewer than the settings say."""
    each_bytes = 4 * math.prod(bundle.input_shape)
    return max(1, min(settings.max_batch, MOST_BYTES // each_bytes))


def possible(
    bundle: Bundle,
    settings: config.Engine,
    *,
    installed: Callable[[str], bool] = installed,
    gpu: Callable[[], bool] = has_gpu,
) -> list[str]:
    """Return the backends to choose from: one, unless measuring them may change the answer.

    Raises
    ------
    BundleError
        None; the text says what is missing and what to do.
    """
    if bundle.weights_format in OF_OPENVINO:
        if (
            installed("openvino")
            and settings.backend != "tensorflow"
            and settings.precision != "int8"
        ):
            return ["openvino"]
        raise BundleError(_why_not_openvino(bundle, settings, is_there=installed("openvino")))
    precision = settings.precision
    converted = [name for name in bundle.converted if precision in {"auto", name}]
    if precision == "auto" and "int8" in converted and not bundle.converted["int8"].exact_enough:
        converted.remove("int8")
    openvino = [f"openvino-{n}" for n in converted] if installed("openvino") else []
    tensorflow = ["tensorflow"] if precision != "int8" and installed("tensorflow") else []
    if settings.backend == "openvino" or precision == "int8":
        found = openvino
    elif settings.backend == "tensorflow":
        found = tensorflow
    else:
        found = [*openvino, *(tensorflow if gpu() or not openvino else [])]
    if found:
        return found
    raise BundleError(_why_none(bundle, settings, has_openvino=installed("openvino")))


def _why_not_openvino(bundle: Bundle, settings: config.Engine, *, is_there: bool) -> str:
    where = f"model bundle {bundle.folder}: {bundle.weights.name} runs on OpenVINO, in full float32"
    if not is_there:
        return f"{where}, which is not installed; install limen[openvino]"
    return (
        f"{where}, and the settings ask for engine.backend = {settings.backend!r}, "
        f'engine.precision = {settings.precision!r}; set both to "auto"'
    )


def _why_none(bundle: Bundle, settings: config.Engine, *, has_openvino: bool) -> str:
    asked = f"engine.backend = {settings.backend!r}, engine.precision = {settings.precision!r}"
    where = f"model bundle {bundle.folder} cannot be run with {asked}: "
    if settings.backend == "tensorflow" and settings.precision == "int8":
        return where + 'int8 is for OpenVINO; set engine.backend = "openvino"'
    if settings.backend == "tensorflow" or (settings.backend == "auto" and not has_openvino):
        return where + "TensorFlow is not installed; install limen[worker]"
    if not has_openvino:
        return where + "OpenVINO is not installed; install limen[openvino]"
    int8 = " --int8" if settings.precision == "int8" else ""
    return (
        where + f"it has no such files; make them with: limen model convert {bundle.folder}{int8}"
    )


def _open(name: str, bundle: Bundle) -> Chosen:
    if name == "tensorflow":
        from worker.serving.backends.tensorflow import TensorFlow  # noqa: PLC0415 - seconds

        remedy = "the weights, or the TensorFlow that runs them, are not those of the release"
        return Chosen(name, TensorFlow(bundle), bundle.golden_tolerance, remedy)
    from worker.serving.backends.openvino import OpenVINO, Own  # noqa: PLC0415

    if name == "openvino":
        remedy = "the weights, or the OpenVINO that runs them, are not those of the release"
        return Chosen(name, Own(bundle), bundle.golden_tolerance, remedy)
    files = bundle.converted[name.removeprefix("openvino-")]
    tolerance, map_tolerance = OPENVINO_TOLERANCE, MAP_TOLERANCE
    if name == "openvino-int8":
        tolerance = files.max_probability_difference + INT8_MARGIN
        map_tolerance = 1.0  # of 8 bits, where it looks is not what the weights say of it
    remedy = (
        f"make its OpenVINO files again with: limen model convert {bundle.folder}, "
        'or set engine.backend = "tensorflow"'
    )
    return Chosen(name, OpenVINO(files), tolerance, remedy, map_tolerance)


def _measured(opened: list[Chosen], batch: Tensor) -> dict[str, float]:
    """Return the least seconds that each takes for a batch; its first run is for the kernels."""
    found = {}
    for one in opened:
        one.backend.predict(batch)
        runs: list[float] = []
        while len(runs) < RUNS and sum(runs) < RUNS * SLOW_S:
            began_s = time.perf_counter()
            one.backend.predict(batch)
            runs.append(time.perf_counter() - began_s)
        found[one.name] = min(runs)
    return found
