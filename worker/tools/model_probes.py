"""Images that a new model is asked about before anything is guessed: flat ones, made-up heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.bundles.preparation import Preparation
from worker.study.tensors import to_tensor

__all__ = ["View", "extremes", "flat", "head_hu", "heads"]

Array = NDArray[np.float32]
SIDE_PX: Final = 256
PIXEL_MM: Final = 0.9
SEED: Final = 20240301


@dataclass(frozen=True, slots=True)
class View:
    """What a tensor is made for; see ``worker.study.tensors.TensorInput``."""

    size: tuple[int, int]
    windows: tuple[tuple[float, float], ...]
    crop: str = "none"
    spacing_mm: float | None = None
    neighbours: int = 0
    preparation: Preparation = Preparation()
    depth: int | None = None


def head_hu(level: float = 0.5, *, blood: bool = False) -> Array:
    """Return (rows, columns) float32, HU: an axial slice of a made-up head in air.

    Parameters
    ----------
    level
        0 is near the base, 1 near the vertex: how large the head and its ventricles are.
    """
    y, x = (np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX - 0.5).astype(np.float32)
    size = 0.36 + 0.06 * np.sin(np.pi * level)
    radius = np.hypot(y / (1.15 * size), x / size)
    noise = np.random.default_rng(SEED).normal(0, 4, y.shape).astype(np.float32)
    hu = np.full(y.shape, -1000, np.float32)
    hu[radius < 1.08] = -20  # scalp
    hu[radius < 1.0] = 1000
    hu[radius < 0.9] = 8
    hu[radius < 0.87] = 38
    hu[(radius < 0.75) & (radius > 0.3)] = 29
    hu[np.hypot(y / 0.5, (np.abs(x) - 0.05) / 0.16) < 0.28 * (1 - level) + 0.05] = 6
    if blood:
        hu[np.hypot(y + 0.08, x - 0.14) < 0.07] = 68
    inside = hu > -900
    hu[inside] += noise[inside]
    return hu


def heads(view: View) -> Array:
    """Return (n, rows, columns, channels) float32, 0..1: heads with and without blood.

    Of a volume (n, depth, rows, columns, channels): the same slice at every depth.
    """
    slices = [head_hu(level, blood=blood) for level in (0.2, 0.7) for blood in (False, True)]
    found = np.stack([to_tensor(hu, view, PIXEL_MM) for hu in slices])
    return found if view.depth is None else np.repeat(found[:, None], view.depth, axis=1)


def flat(shape: tuple[int, ...]) -> Array:
    """Return (3, *shape) float32: zeros, mid-grey, ones."""
    return np.stack([np.full(shape, level, np.float32) for level in (0.0, 0.5, 1.0)])


def extremes(shape: tuple[int, ...]) -> Array:
    """Return (n, *shape) float32: noise far outside of any range."""
    random = np.random.default_rng(SEED)
    noise = random.normal(size=(1, *shape)).astype(np.float32)
    return np.concatenate([noise, noise * 30, noise * 1000, noise * 0 + 500])
