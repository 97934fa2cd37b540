"""The weights of a bundle in the form that OpenVINO runs: float32, and 8-bit integers if wanted.

Conversion starts from the same function that the TensorFlow backend runs, so scale, activation,
temperature and direction are inside the files. Every file is run before it is kept, on the golden
tensors and on those that are given, and compared with the Keras model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError
from worker.bundles.bundle import Bundle, sha256_of
from worker.bundles.manifest import Precision
from worker.serving.backends.choice import OPENVINO_TOLERANCE
from worker.serving.backends.openvino import compiled, import_openvino
from worker.serving.backends.tensorflow import concrete_function, import_tensorflow

__all__ = ["Conversion", "make"]

BATCH: Final = 8
MOST_TENSORS: Final = 600
"""Half of them calibrate, the others compare; more change neither."""

Tensors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Conversion:
    """One file that was made, and how far its probabilities are from those of the Keras model.

    Attributes
    ----------
    precision
        ``fp32`` or ``int8``.
    tensors
        How many were compared; none of them calibrated int8, unless there were only the golden
        ones.
    same_decision
        Share of them that fall on the same side of the threshold.
    """

    precision: Precision
    file: str
    sha256: str
    weights_sha256: str
    tensors: int
    max_probability_difference: float
    mean_probability_difference: float
    same_decision: float


def make(
    bundle: Bundle, folder: Path, *, int8: bool, tensors: NDArray[Any] | None
) -> tuple[Conversion, ...]:
    """Write the OpenVINO files of a bundle into a folder, and say how exact they are.

    Parameters
    ----------
    int8
        Make an int8 file too.
    tensors
        (n, rows, columns, channels) float32 0..1, or uint8 where 255 stands for 1: what int8 is
        calibrated with and every file is compared on. None: the golden tensors, which are few.

    Raises
    ------
    BundleError
        The bundle cannot be converted, or the float32 file answers differently.
    """
    openvino = import_openvino()
    tensorflow, _ = import_tensorflow()
    function, weights = concrete_function(bundle)
    calibration, compared = _divided(bundle, tensors)
    expected = np.concatenate(
        [function(tensorflow.constant(b)).numpy() for b in _batches(compared)]
    )
    networks = _networks(function, bundle, calibration if int8 else None)
    del weights
    found = []
    for precision, network in networks.items():
        answers = _answers(compiled(openvino, network), compared)
        path = folder / f"model-{precision}.xml"
        openvino.save_model(network, path, compress_to_fp16=False)
        found.append(_measured(precision, path, answers, expected, bundle))
    _refuse_inexact(found[0], bundle)
    return tuple(found)


def _networks(function: Any, bundle: Bundle, calibration: Tensors | None) -> dict[Precision, Any]:
    """Return the networks of OpenVINO; int8 where there is something to calibrate it with."""
    openvino = import_openvino()
    with _quiet():
        try:
            network = openvino.convert_model(function)
            made: dict[Precision, Any] = {"fp32": network}
            if calibration is not None:
                made["int8"] = _quantised(network.clone(), calibration)
        except Exception as exc:
            raise BundleError(
                f"{bundle.weights} cannot be converted by OpenVINO {openvino.__version__} "
                f"({type(exc).__name__}); it goes on running on TensorFlow"
            ) from exc
    return made


def _divided(bundle: Bundle, given: NDArray[Any] | None) -> tuple[Tensors, Tensors]:
    """Return tensors to calibrate with and tensors to compare, float32."""
    if given is None or len(given) < 2:
        return bundle.golden_tensor, bundle.golden_tensor
    chosen = np.linspace(0, len(given) - 1, min(len(given), MOST_TENSORS)).astype(int)
    tensors = given[chosen].astype(np.float32)
    if given.dtype == np.uint8:
        tensors /= 255
    return tensors[0::2], np.concatenate([bundle.golden_tensor, tensors[1::2]])


def _quantised(network: Any, calibration: Tensors) -> Any:
    """Return the network with 8-bit weights and activations."""
    import nncf  # noqa: PLC0415 - seconds, and only here

    nncf.set_log_level(logging.ERROR)
    batches = list(_batches(calibration))
    return nncf.quantize(
        network,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
    )


def _batches(tensors: Tensors) -> Iterator[Tensors]:
    for start in range(0, len(tensors), BATCH):
        yield tensors[start : start + BATCH]


def _answers(compiled: Any, tensors: Tensors) -> Tensors:
    request = compiled.create_infer_request()
    return np.concatenate([request.infer({0: batch})[0].copy() for batch in _batches(tensors)])


def _measured(
    precision: Precision, path: Path, answers: Tensors, expected: Tensors, bundle: Bundle
) -> Conversion:
    answers, expected = (each[..., : bundle.outputs] for each in (answers, expected))
    difference = np.abs(answers - expected)
    decisions = [a[..., bundle.decision_index] >= bundle.threshold for a in (answers, expected)]
    return Conversion(
        precision=precision,
        file=path.name,
        sha256=sha256_of(path),
        weights_sha256=sha256_of(path.with_suffix(".bin")),
        tensors=len(expected),
        max_probability_difference=float(f"{difference.max():.2e}"),
        mean_probability_difference=float(f"{difference.mean():.2e}"),
        same_decision=round(float((decisions[0] == decisions[1]).mean()), 4),
    )


def _refuse_inexact(fp32: Conversion, bundle: Bundle) -> None:
    """The float32 file is the same model, or it is not written."""
    found = fp32.max_probability_difference
    if not found <= OPENVINO_TOLERANCE:  # a NaN too
        raise BundleError(
            f"{bundle.weights}: what OpenVINO makes of it answers differently by {found:g}, more "
            f"than {OPENVINO_TOLERANCE:g}; nothing was written, it goes on running on TensorFlow"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars of nncf away: standard output belongs to the command."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield
    sys.stdout.flush()
