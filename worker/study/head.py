"""Whether slices show a head, by their pixels: for files that do not say what part they show."""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Shape", "body_area_mm2", "shape_of"]

BODY_HU: Final = -300.0
BONE_HU: Final = 200.0
LUNG_HU: Final = (-950.0, -500.0)
"""Aerated lung; air around and within the body is lower, fat is higher."""

LUNG_SHARE: Final = 0.06
"""Lung of the area inside the outline of the body; sinuses and mastoid cells are less."""

MAX_HEAD_MM2: Final = 45_000.0
"""A large head with its ears and a head rest has about 30,000."""

RAYS: Final = 72
SKULL_DEPTH_MM: Final = 30.0
"""The skull lies no deeper under the skin."""
RING: Final = 0.65
"""Share of rays from the middle outwards that meet bone near the skin."""
INSIDE_HU: Final = (-20.0, 100.0)
"""Where the median of what the ring encloses lies: brain and fluid, not air, not bone."""

_DEFAULT_PIXEL_MM: Final = 0.5
_COARSE_PX: Final = 160


class Shape(Enum):
    """What a slice shows."""

    HEAD = "a skull around soft tissue"
    LUNG = "air-filled lungs"
    OTHER = "neither"


def shape_of(hu: NDArray[np.float32], pixel_mm: float | None) -> Shape:
    """Return what a slice shows.

    Parameters
    ----------
    hu
        (rows, columns) float32, HU, of square pixels.
    pixel_mm
        Side of a pixel; None where it is unknown.
    """
    step = max(1, max(hu.shape) // _COARSE_PX)
    coarse = ndimage.uniform_filter(hu, step)[::step, ::step] if step > 1 else hu
    side_mm = (pixel_mm or _DEFAULT_PIXEL_MM) * step
    body = _largest(coarse > BODY_HU)
    outline = ndimage.binary_fill_holes(_closed(body))
    area = int(outline.sum())
    if area == 0:
        return Shape.OTHER
    lung = outline & (coarse > LUNG_HU[0]) & (coarse < LUNG_HU[1])
    if ndimage.binary_opening(lung, iterations=2).sum() > LUNG_SHARE * area:
        return Shape.LUNG
    if pixel_mm is not None and area * side_mm**2 > MAX_HEAD_MM2:
        return Shape.OTHER
    return Shape.HEAD if _has_ring(coarse, outline, side_mm) else Shape.OTHER


def body_area_mm2(hu: NDArray[np.float32], pixel_mm: float) -> float:
    """Return the cross section of the body in a slice, table and head rest included."""
    return float((hu > BODY_HU).sum()) * pixel_mm**2


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(ndimage.binary_opening(mask))
    if count == 0:
        return np.zeros_like(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found: NDArray[np.bool_] = labels == int(sizes.argmax())
    return found


def _closed(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    closed: NDArray[np.bool_] = ndimage.binary_closing(np.pad(body, 3), iterations=3)[3:-3, 3:-3]
    return closed


def _has_ring(hu: NDArray[np.float32], outline: NDArray[np.bool_], side_mm: float) -> bool:
    """Return True where rays from the middle meet bone near the skin, and soft tissue before."""
    middle = ndimage.center_of_mass(outline)
    reach = np.arange(0, float(np.hypot(*hu.shape)), 1.0)
    angles = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)
    rows = np.rint(middle[0] + np.outer(np.sin(angles), reach)).astype(int)
    columns = np.rint(middle[1] + np.outer(np.cos(angles), reach)).astype(int)
    within = (rows >= 0) & (rows < hu.shape[0]) & (columns >= 0) & (columns < hu.shape[1])
    rows, columns = rows.clip(0, hu.shape[0] - 1), columns.clip(0, hu.shape[1] - 1)
    inside = within & outline[rows, columns]
    skin = np.where(inside, reach, 0).max(axis=1)
    near_skin = inside & (reach >= skin[:, None] - SKULL_DEPTH_MM / side_mm)
    bone = near_skin & (hu[rows, columns] > BONE_HU)
    if bone.any(axis=1).mean() < RING:
        return False
    enclosed = inside & (reach < 0.6 * skin[:, None])
    median = float(np.median(hu[rows, columns][enclosed])) if enclosed.any() else -1000.0
    return INSIDE_HU[0] < median < INSIDE_HU[1]
