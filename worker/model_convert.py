"""The weights of a bundle in the form that OpenVINO runs: float32, and 8-bit integers if wanted.

Conversion starts from the same function that the TensorFlow backend runs, so scale, activation,
temperature and direction are inside the files. Every file is run before it is written, on the
golden tensors and on those that are given, and compared with the Keras model: what was measured
stands in bundle.toml beside the hashes, and ``worker.backends.choice`` goes by it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError, ConfigError
from worker import bundle as bundles
from worker.backends.choice import OPENVINO_TOLERANCE
from worker.backends.openvino import compiled, import_openvino
from worker.backends.tensorflow import concrete_function, import_tensorflow
from worker.bundle import MANIFEST, Bundle

__all__ = ["Variant", "convert", "read_tensors"]

BATCH: Final = 8
MOST_TENSORS: Final = 600
"""Half of them calibrate, the others compare; more change neither."""

_HEADER: Final = re.compile(r"^\s*\[")
_OURS: Final = re.compile(r"^\s*\[\s*openvino\s*[.\]]")

Tensors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Variant:
    """A file that was made, and how far its probabilities are from those of the Keras model.

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

    precision: str
    file: str
    sha256: str
    weights_sha256: str
    tensors: int
    max_probability_difference: float
    mean_probability_difference: float
    same_decision: float


def convert(
    folder: Path,
    *,
    int8: bool = False,
    tensors: NDArray[Any] | None = None,
    allow_legacy_h5: bool = False,
) -> tuple[Variant, ...]:
    """Make the OpenVINO files of a bundle, in its folder, and pin them in bundle.toml.

    What an earlier conversion left is replaced, int8 included.

    Parameters
    ----------
    int8
        Make an int8 file too.
    tensors
        (n, rows, columns, channels) float32 0..1, or uint8 where 255 stands for 1: images such as
        the model will see, to calibrate int8 and to compare. By default the golden tensors, which
        are few.

    Raises
    ------
    BundleError
        The bundle cannot be loaded or converted, or the float32 file answers differently.
    """
    bundle = bundles.load(folder, allow_legacy_h5=allow_legacy_h5, converted=False)
    openvino = import_openvino()
    tensorflow, _ = import_tensorflow()
    function, weights = concrete_function(bundle)
    calibration, compared = _divided(bundle, tensors)
    expected = np.concatenate(
        [function(tensorflow.constant(b)).numpy() for b in _batches(compared)]
    )
    with _quiet():
        try:
            network = openvino.convert_model(function)
            made = {"fp32": network}
            if int8:
                made["int8"] = _quantised(network.clone(), calibration)
        except Exception as exc:
            raise BundleError(
                f"{bundle.weights} cannot be converted by OpenVINO {openvino.__version__} "
                f"({type(exc).__name__}); it goes on running on TensorFlow"
            ) from exc
    del weights
    with tempfile.TemporaryDirectory(dir=bundle.folder) as scratch:
        found = []
        for precision, model in made.items():
            answers = _answers(compiled(openvino, model), compared)
            path = Path(scratch) / f"model-{precision}.xml"
            openvino.save_model(model, path, compress_to_fp16=False)
            found.append(_measured(precision, path, answers, expected, bundle))
        _refuse_inexact(found[0], bundle)
        text = _manifest_with(bundle, found)
        for path in bundle.folder.glob("model-*.*"):
            if path.stem in {"model-fp32", "model-int8"} and path.suffix in {".xml", ".bin"}:
                path.unlink()
        for path in sorted(Path(scratch).iterdir()):
            os.replace(path, bundle.folder / path.name)
        manifest = Path(scratch) / MANIFEST
        manifest.write_text(text, "utf-8")
        os.replace(manifest, bundle.folder / MANIFEST)
    return tuple(found)


def read_tensors(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array ``tensor`` of an .npz file.

    Raises
    ------
    ConfigError
        There is none, or it is of another shape or type than ``convert`` takes.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tensor: NDArray[Any] = arrays["tensor"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as exc:
        raise ConfigError(
            f"{path} must be an .npz file with an array 'tensor' ({type(exc).__name__})"
        ) from exc
    if tensor.ndim != 4 or not len(tensor) or tensor.shape[1:] != shape:
        raise ConfigError(f"{path}: tensor must be of shape (n, {', '.join(map(str, shape))})")
    within = tensor.dtype == np.uint8 or (
        tensor.dtype == np.float32 and tensor.min() >= 0 and tensor.max() <= 1
    )
    if not within:
        raise ConfigError(f"{path}: tensor must be float32 within 0..1, or uint8")
    return tensor


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


def _answers(model: Any, tensors: Tensors) -> Tensors:
    request = model.create_infer_request()
    return np.concatenate([request.infer({0: batch})[0].copy() for batch in _batches(tensors)])


def _measured(
    precision: str, path: Path, answers: Tensors, expected: Tensors, bundle: Bundle
) -> Variant:
    difference = np.abs(answers - expected)
    decisions = [a[:, bundle.decision_index] >= bundle.threshold for a in (answers, expected)]
    return Variant(
        precision=precision,
        file=path.name,
        sha256=bundles.sha256_of(path),
        weights_sha256=bundles.sha256_of(path.with_suffix(".bin")),
        tensors=len(expected),
        max_probability_difference=float(f"{difference.max():.2e}"),
        mean_probability_difference=float(f"{difference.mean():.2e}"),
        same_decision=round(float((decisions[0] == decisions[1]).mean()), 4),
    )


def _refuse_inexact(fp32: Variant, bundle: Bundle) -> None:
    """The float32 file is the same model, or it is not written."""
    found = fp32.max_probability_difference
    if not found <= OPENVINO_TOLERANCE:  # a NaN too
        raise BundleError(
            f"{bundle.weights}: what OpenVINO makes of it answers differently by {found:g}, more "
            f"than {OPENVINO_TOLERANCE:g}; nothing was written, it goes on running on TensorFlow"
        )


# -- bundle.toml -----------------------------------------------------------------------------------


def _manifest_with(bundle: Bundle, made: list[Variant]) -> str:
    """Return the text of bundle.toml with ``[openvino]`` replaced and every other line kept."""
    path = bundle.folder / MANIFEST
    old = path.read_text("utf-8")
    before = tomllib.loads(old)
    kept, place = _without_ours(old.splitlines(keepends=True))
    gate = before.pop("openvino", {}).get("gate")
    tables = ["" if gate is None else f"[openvino]\ngate = {gate}\n\n"]
    tables += [_table(variant, bundle.sha256) for variant in made]
    head, tail = "".join(kept[:place]).rstrip(), "".join(kept[place:])
    text = f"{head}\n\n{''.join(tables)}{tail}".rstrip() + "\n"
    after = tomllib.loads(text)
    after.pop("openvino")
    if after != before:
        raise BundleError(
            f"{path} cannot be edited in place; write every [openvino] key of it in a table "
            "of its own, [openvino], [openvino.fp32] or [openvino.int8]"
        )
    return text


def _without_ours(lines: list[str]) -> tuple[list[str], int]:
    """Return the lines outside ``[openvino]``, and where its tables go: before ``[[metrics]]``."""
    kept: list[str] = []
    ours = False
    for line in lines:
        if _HEADER.match(line):
            ours = bool(_OURS.match(line))
        elif line.startswith("#"):  # a comment at the margin belongs to what follows
            ours = False
        if not ours:
            kept.append(line)
    first = next((n for n, line in enumerate(kept) if line.startswith("[[metrics]]")), len(kept))
    while first and kept[first - 1].startswith("#"):
        first -= 1
    return kept, first


def _table(variant: Variant, made_from: str) -> str:
    return f"""\
[openvino.{variant.precision}]  # written by `limen model convert`
file = {json.dumps(variant.file)}
sha256 = "{variant.sha256}"
weights_sha256 = "{variant.weights_sha256}"
made_from = "{made_from}"
tensors = {variant.tensors}
max_probability_difference = {variant.max_probability_difference}
mean_probability_difference = {variant.mean_probability_difference}
same_decision = {variant.same_decision}

"""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars of nncf away: standard output belongs to the command."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield
    sys.stdout.flush()
