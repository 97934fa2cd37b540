"""``limen model preprocess``: what the model is given of a file, by the function of the worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limen.errors import BundleError, ConfigError, Unreadable
from limen.result import Task
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.numbers import scaled
from worker.study.inputs import Coded
from worker.tools.model_examples import Told, prepared, read, volumes_of
from worker.tools.model_probes import PIXEL_MM, head_hu

__all__ = ["Prepared", "prepare", "try_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What was written.

    Attributes
    ----------
    tensor
        float32, as the model itself gets it: (slices, rows, columns, channels), or
        (slices, channels, rows, columns) where its layout is that. Of volumes there is one for
        each part of an acquisition, and a depth before the rows.
    """

    tensor: NDArray[np.float32]
    path: Path
    picture: Path


def prepare(source: Path, bundle: Bundle, decoder: Decoder, output: Path) -> Prepared:
    """Write the input of the model for each slice of a file or folder, and a picture of it.

    The picture has a row for each slice, with its channels side by side, before the scale.

    Parameters
    ----------
    output
        An .npy file; the picture lies beside it.

    Raises
    ------
    ConfigError
        The file cannot be read, or the output cannot be written.
    """
    if output.suffix != ".npy":
        raise ConfigError(f"{output}: the tensor is written as .npy; name it so with -o FILE.npy")
    if bundle.task is Task.VOLUME:
        tensors = np.stack(volumes_of(source, bundle, decoder))
    else:
        (example,) = read([Told(source, {})], bundle, decoder)
        tensors = np.stack(prepared(example, bundle, decoder))
    given = scaled(tensors, bundle)
    if bundle.layout == "nchw":
        given = np.ascontiguousarray(np.moveaxis(given, -1, 1))
    picture = output.with_suffix(".png")
    try:
        np.save(output, given)
        Image.fromarray(_sheet(_bright(tensors, bundle))).save(picture)
    except OSError as exc:
        raise ConfigError(f"{output} cannot be written: {exc.strerror}; choose another -o") from exc
    return Prepared(given, output, picture)


def try_out(bundle: Bundle, decoder: Decoder) -> None:
    """Let code of a bundle prepare made-up heads, one of an unknown scale, and hold it to its word.

    Raises
    ------
    BundleError
        It is not allowed, fails, or gives something else than the model takes.
    """
    if bundle.code is None:
        return
    inputs = Coded(bundle, decoder)
    for level, spacing_mm in ((0.2, PIXEL_MM), (0.7, PIXEL_MM), (0.7, None)):
        hu = np.stack([head_hu(level)] * bundle.slices)
        facts = {"modality": bundle.accepts.modality[0], "thickness_mm": None, "kernel": ""}
        rows, columns = hu.shape[1:]
        try:
            inputs.run(hu, spacing_mm, facts | {"rows": rows, "columns": columns})
        except Unreadable as exc:
            raise BundleError(
                f"model bundle {bundle.folder}: {exc}; that was a made-up head of {rows} x "
                f"{columns} pixels, spacing_mm {spacing_mm}. Put it right, write its SHA-256 "
                "(sha256sum) into preprocess.sha256 of bundle.toml, and check it again"
            ) from exc


def _bright(tensors: NDArray[np.float32], bundle: Bundle) -> NDArray[np.float32]:
    """Return tensors to be looked at: z-scores lie close together in their range."""
    if bundle.preparation.normalise != "z-score":
        return tensors
    low, high = tensors.min(), tensors.max()
    return np.asarray((tensors - low) / max(high - low, np.finfo(np.float32).tiny), np.float32)


def _sheet(tensors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (slices * rows, channels * columns) uint8: slices below each other."""
    *counts, rows, columns, channels = tensors.shape
    count = int(np.prod(counts))
    tensors = tensors.reshape(count, rows, columns, channels)
    beside = tensors.transpose(0, 1, 3, 2).reshape(count * rows, channels * columns)
    return np.round(beside * 255).astype(np.uint8)
