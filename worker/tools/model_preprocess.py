"""``limen model preprocess``: what the model is given of a file, by the function of the worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limen.errors import ConfigError
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.numbers import scaled
from worker.tools.model_examples import Told, read
from worker.tools.model_steps import Answers, Recipe

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What was written.

    Attributes
    ----------
    tensor
        float32, as the model itself gets it: (slices, rows, columns, channels), or
        (slices, channels, rows, columns) where its layout is that.
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
    none = Told(source, {})
    (example,) = read([none], bundle, decoder)
    tensors = np.stack(Answers(bundle, [example]).tensors(Recipe.of(bundle)))
    given = scaled(tensors, bundle)
    if bundle.layout == "nchw":
        given = np.ascontiguousarray(given.transpose(0, 3, 1, 2))
    picture = output.with_suffix(".png")
    try:
        np.save(output, given)
        Image.fromarray(_sheet(_bright(tensors, bundle))).save(picture)
    except OSError as exc:
        raise ConfigError(f"{output} cannot be written: {exc.strerror}; choose another -o") from exc
    return Prepared(given, output, picture)


def _bright(tensors: NDArray[np.float32], bundle: Bundle) -> NDArray[np.float32]:
    """Return tensors to be looked at: z-scores lie close together in their range."""
    if bundle.preparation.normalise != "z-score":
        return tensors
    low, high = tensors.min(), tensors.max()
    return np.asarray((tensors - low) / max(high - low, np.finfo(np.float32).tiny), np.float32)


def _sheet(tensors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (slices * rows, channels * columns) uint8: slices below each other."""
    count, rows, columns, channels = tensors.shape
    beside = tensors.transpose(0, 1, 3, 2).reshape(count * rows, channels * columns)
    return np.round(beside * 255).astype(np.uint8)
