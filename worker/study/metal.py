"""Metal inside the skull: clips, coils, splinters, and the streaks that they throw."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.study.head import BODY_HU, BONE_HU
from worker.study.series import Slice
from worker.study.tensors import Upright

__all__ = ["Metal", "metal_mm2"]

METAL_HU: Final = 2500.0
"""Teeth and the densest bone are lower; what many scanners can write ends at 3071."""

WALL_MM: Final = 14.0
"""The skull and what lies on it: plates and screws, staples, sharp edges of a bone kernel."""

BRAIN_MM2: Final = 3000.0
"""Within that wall is at least so much where there is brain; a jaw with its teeth has less."""

BRAIN_HU: Final = (-20.0, 120.0)
"""Where its median lies."""

_GAP_MM: Final = 12.0
"""Openings of the skull of this width are closed: sutures, canals, burr holes."""

_USUAL_PIXEL_MM: Final = 0.5
_COARSE_PX: Final = 160


class Metal:
    """Collects how much metal the slices of a study show inside the skull.

    Parameters
    ----------
    most_mm2
        ``accepts.max_metal_mm2`` of the bundle; None asks nothing.
    """

    def __init__(self, most_mm2: float | None) -> None:
        self._most_mm2 = most_mm2
        self._areas_mm2: list[float] = []

    def add(self, one: Slice, shown: Upright) -> None:  # noqa: ARG002 - as Top
        """Note a slice."""
        if self._most_mm2 is not None:
            self._areas_mm2.append(metal_mm2(shown.hu, shown.pixel_mm))

    def doubts(self) -> list[str]:
        """Return in words that there is more than the model knows, or nothing."""
        most = self._most_mm2
        above = [area for area in self._areas_mm2 if most is not None and area > most]
        if not above:
            return []
        where = "1 slice" if len(above) == 1 else f"{len(above)} slices"
        return [
            f"metal inside the skull in {where}, up to {max(above):.0f} mm² of "
            f"{METAL_HU:.0f} HU or more in one"
        ]


def metal_mm2(hu: NDArray[np.float32], pixel_mm: float | None) -> float:
    """Return the area of metal that lies within the skull, away from its wall.

    Parameters
    ----------
    hu
        (rows, columns) float32, HU, of square pixels.
    pixel_mm
        Side of a pixel; None where it is unknown.
    """
    metal = hu >= METAL_HU
    if not metal.any():
        return 0.0
    side_mm = pixel_mm or _USUAL_PIXEL_MM
    step = max(1, max(hu.shape) // _COARSE_PX)
    coarse = ndimage.uniform_filter(hu, step)[::step, ::step] if step > 1 else hu
    inside = _within_skull(coarse, side_mm * step)
    rows, columns = np.nonzero(metal)
    last = inside.shape[0] - 1, inside.shape[1] - 1
    hits = inside[np.minimum(rows // step, last[0]), np.minimum(columns // step, last[1])]
    return float(hits.sum()) * side_mm**2


def _within_skull(hu: NDArray[np.float32], side_mm: float) -> NDArray[np.bool_]:
    """Return what lies deeper than the wall of a closed skull; nothing where there is no brain."""
    around = max(1, round(_GAP_MM / 2 / side_mm))
    bone = np.pad(hu > BONE_HU, around)
    closed = ndimage.binary_closing(bone, iterations=around)[around:-around, around:-around]
    skull = ndimage.binary_fill_holes(closed)
    depth_mm = ndimage.distance_transform_edt(np.pad(skull, 1))[1:-1, 1:-1] * side_mm
    inside: NDArray[np.bool_] = depth_mm > WALL_MM
    soft = hu[inside & (hu > BODY_HU) & (hu <= BONE_HU)]
    has_brain = soft.size and BRAIN_HU[0] < float(np.median(soft)) < BRAIN_HU[1]
    return inside if has_brain and soft.size * side_mm**2 > BRAIN_MM2 else np.zeros_like(inside)
