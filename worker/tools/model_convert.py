"""``limen model convert``: OpenVINO files beside the weights, pinned in bundle.toml.

What was measured of them stands beside the hashes, and ``worker.serving.backends.choice`` goes
by it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError, ConfigError
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import MANIFEST
from worker.serving import conversion
from worker.serving.conversion import Conversion

__all__ = ["convert", "read_tensors"]

_HEADER: Final = re.compile(r"^\s*\[")
_OURS: Final = re.compile(r"^\s*\[\s*openvino\s*[.\]]")


def convert(
    folder: Path,
    *,
    int8: bool = False,
    tensors: NDArray[Any] | None = None,
    allow_legacy_h5: bool = False,
) -> tuple[Conversion, ...]:
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
    with tempfile.TemporaryDirectory(dir=bundle.folder) as scratch:
        made = conversion.make(bundle, Path(scratch), int8=int8, tensors=tensors)
        text = _manifest_with(bundle, made)
        for path in bundle.folder.glob("model-*.*"):
            if path.stem in {"model-fp32", "model-int8"} and path.suffix in {".xml", ".bin"}:
                path.unlink()
        for path in sorted(Path(scratch).iterdir()):
            os.replace(path, bundle.folder / path.name)
        manifest = Path(scratch) / MANIFEST
        manifest.write_text(text, "utf-8")
        os.replace(manifest, bundle.folder / MANIFEST)
    return made


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
    if not tensor.ndim or not len(tensor) or tensor.shape[1:] != shape:
        raise ConfigError(
            f"{path}: tensor must be of shape (n, {', '.join(map(str, shape))}); "
            "limen model preprocess writes such slices"
        )
    within = tensor.dtype == np.uint8 or (
        tensor.dtype == np.float32 and tensor.min() >= 0 and tensor.max() <= 1
    )
    if not within:
        raise ConfigError(f"{path}: tensor must be float32 within 0..1, or uint8; save it so")
    return tensor


# -- bundle.toml -----------------------------------------------------------------------------------


def _manifest_with(bundle: Bundle, made: tuple[Conversion, ...]) -> str:
    """Return the text of bundle.toml with ``[openvino]`` replaced and every other line kept."""
    path = bundle.folder / MANIFEST
    old = path.read_text("utf-8")
    before = tomllib.loads(old)
    kept, place = _without_ours(old.splitlines(keepends=True))
    gate = before.pop("openvino", {}).get("gate")
    tables = ["" if gate is None else f"[openvino]\ngate = {gate}\n\n"]
    tables += [_table(variant, bundle) for variant in made]
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


def _table(variant: Conversion, bundle: Bundle) -> str:
    return f"""\
[openvino.{variant.precision}]  # written by `limen model convert`
file = {json.dumps(variant.file)}
sha256 = "{variant.sha256}"
weights_sha256 = "{variant.weights_sha256}"
made_from = "{bundle.sha256}"
made_with = "{bundle.answer_sha256}"
tensors = {variant.tensors}
max_probability_difference = {variant.max_probability_difference}
mean_probability_difference = {variant.mean_probability_difference}
same_decision = {variant.same_decision}

"""
