"""A channel brought to the size of a model's input, as PIL, OpenCV or PyTorch would.

They agree on where a pixel lies (its middle at half a pixel) and differ in what they weigh. Those
of Pillow widen their filter when they reduce, so that every pixel counts; OpenCV, TensorFlow and
``torch.nn.functional.interpolate`` look at the two or four nearest pixels only, unless told
otherwise. ``docs/bundles.md`` says which name is whose.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.bundles.preparation import Resize

__all__ = ["resized"]

Array = NDArray[np.float32]

_OF_PILLOW: Final[dict[Resize, Image.Resampling]] = {
    "bilinear-antialias": Image.Resampling.BILINEAR,
    "bicubic-antialias": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_CUBIC: Final = -0.75
"""The free number of Keys' cubic (1981), as OpenCV and PyTorch have it."""


def resized(channel: Array, size: tuple[int, int], how: Resize) -> Array:
    """Return a channel at another size.

    Parameters
    ----------
    channel
        (rows, columns) float32, 0..1.
    size
        Rows and columns.

    Returns
    -------
    Array
        float32, 0..1: what a cubic overshoots is clipped.
    """
    found: Array
    if channel.shape == size:
        return channel
    if how in _OF_PILLOW:
        image = Image.fromarray(channel).resize((size[1], size[0]), _OF_PILLOW[how])
        found = np.asarray(image, np.float32)
    else:
        rows = _weighed(channel, *_taps(how, size[0], channel.shape[0]))
        found = _weighed(rows.T, *_taps(how, size[1], channel.shape[1])).T
    return found.clip(0, 1)


def _weighed(values: Array, places: NDArray[np.intp], weights: Array) -> Array:
    """Return (n, columns): rows of ``values`` weighed, ``places`` and ``weights`` (taps, n)."""
    found: Array = values[places[0]] * weights[0][:, None]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        found += values[place] * weight[:, None]
    return found


@cache
def _taps(how: Resize, wanted: int, given: int) -> tuple[NDArray[np.intp], Array]:
    """Return which pixels make each pixel along one axis, and their weights: (taps, wanted)."""
    step = given / wanted
    if how == "nearest-corner":
        at = np.floor(np.arange(wanted) * step)
        return _within(at[None], given), np.ones((1, wanted), np.float32)
    if how == "nearest":
        at = np.floor((np.arange(wanted) + 0.5) * step)
        return _within(at[None], given), np.ones((1, wanted), np.float32)
    if how == "area":
        return _covered(wanted, given)
    at = (np.arange(wanted) + 0.5) * step - 0.5
    first = np.floor(at)
    beyond = at - first
    if how == "bilinear":
        places, weights = first + np.array([[0], [1]]), np.stack([1 - beyond, beyond])
    else:
        places = first + np.array([[-1], [0], [1], [2]])
        weights = _keys(np.abs(places - at))
    return _within(places, given), weights.astype(np.float32)


def _covered(wanted: int, given: int) -> tuple[NDArray[np.intp], Array]:
    """Return the pixels under each pixel, weighed by how much of them is: their mean."""
    edges = np.arange(wanted + 1) * (given / wanted)
    first = np.floor(edges[:-1])
    most = int((np.ceil(edges[1:]) - first).max())
    places = first + np.arange(most)[:, None]
    inside = np.minimum(places + 1, edges[1:]) - np.maximum(places, edges[:-1])
    weights = np.clip(inside, 0, None)
    return _within(places, given), (weights / weights.sum(axis=0)).astype(np.float32)


def _keys(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic of Keys at distances of up to 2 pixels."""
    a = _CUBIC
    near = ((a + 2) * apart - (a + 3)) * apart**2 + 1
    far = ((apart - 5) * apart + 8) * apart * a - 4 * a
    return np.where(apart <= 1, near, np.where(apart < 2, far, 0.0))


def _within(places: NDArray[np.float64], given: int) -> NDArray[np.intp]:
    """Return places with what is beyond the edge on it."""
    return np.clip(places, 0, given - 1).astype(np.intp)
