"""What stands between Limen's tensors and a model's own numbers, where no graph holds it.

Tensors of 0..1 go to the range that the model wants; its raw output comes back as probabilities.
The TensorFlow backend has the same inside its graph.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.bundles.manifest import Output

__all__ = ["LEAST_PROBABILITY", "Wanted", "highest", "probabilities", "relative", "scaled"]

LEAST_PROBABILITY: Final = 1e-7
"""Probabilities this near to 0 or 1 have no logit of use to calibration."""

Array = NDArray[np.float32]


class Wanted(Protocol):
    """What a model wants of its input: a ``Bundle``, or one step of looking for that."""

    @property
    def scale(self) -> tuple[float, float]:
        """Range that 0..1 is mapped to."""

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted then: of each channel, of all, or nothing."""

    @property
    def deviation(self) -> tuple[float, ...]:
        """What is divided by then."""


def scaled(tensors: Array, wanted: Wanted) -> Array:
    """Return (..., channels) float32 of 0..1 as the model wants it."""
    low, high = wanted.scale
    found: Any = tensors
    if (low, high) != (0, 1):
        found = found * np.float32(high - low) + np.float32(low)
    if wanted.mean:
        found = found - np.array(wanted.mean, np.float32)
    if wanted.deviation:
        found = found / np.array(wanted.deviation, np.float32)
    return np.asarray(found, np.float32)


def probabilities(raw: Array, output: Output, temperature: float = 1.0) -> Array:
    """Return (..., outputs) float32: activation, calibration, then the direction."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if output.activation == "softmax":
            shifted = np.exp((raw - raw.max(axis=-1, keepdims=True)) / temperature)
            found = shifted / shifted.sum(axis=-1, keepdims=True)
        elif output.activation == "sigmoid":
            found = 1 / (1 + np.exp(-raw / temperature))
        elif temperature != 1:
            inside = np.clip(raw, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
            found = 1 / (1 + np.exp(-(np.log(inside) - np.log1p(-inside)) / temperature))
        else:
            found = raw
    return np.asarray(1 - found if output.inverted else found, np.float32)


def relative(maps: Array) -> Array:
    """Return (n, cells) float32, 0..1, of maps on any scale: shares of the highest cell of each.

    What is below 0 speaks against the finding and counts as 0; a map of nothing else is all 0.
    """
    above = np.maximum(maps, 0)
    most = above.max(axis=1, keepdims=True)
    return np.asarray(np.divide(above, most, out=above, where=most != 0), np.float32)


def highest(answers: Array) -> Array:
    """Return (n, outputs) float32: of a segmentation the most probable pixel, else as it is.

    Parameters
    ----------
    answers
        (n, ..., outputs) float32.
    """
    return np.asarray(answers.reshape(len(answers), -1, answers.shape[-1]).max(axis=1), np.float32)
