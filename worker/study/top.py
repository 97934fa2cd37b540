"""Whether the slices reach the top of the head: the cross section has to become smaller there."""

from __future__ import annotations

from typing import Final

from worker.study.head import body_area_mm2
from worker.study.series import Slice
from worker.study.tensors import Upright

__all__ = ["Top"]

OPEN: Final = 0.85
"""An uppermost slice of so much of the largest cross section is not near the vertex."""


class Top:
    """Collects the cross sections of the slices of a study."""

    def __init__(self) -> None:
        self._areas: dict[str, list[tuple[float, float]]] = {}

    def add(self, one: Slice, shown: Upright) -> None:
        """Note the cross section of a slice whose place and size are known."""
        if one.position_mm is None or shown.pixel_mm is None:
            return
        found = self._areas.setdefault(one.header.frame_of_reference_uid, [])
        found.append((one.position_mm, body_area_mm2(shown.hu, shown.pixel_mm)))

    def doubts(self) -> list[str]:
        """Return in words that the top of the head is not among the slices, or nothing."""
        shares = [
            max(areas)[1] / largest
            for areas in self._areas.values()
            if (largest := max(area for _, area in areas)) > 0
        ]
        if not shares or min(shares) < OPEN:
            return []
        return [
            f"the uppermost slice shows {min(shares):.0%} of the largest cross section, "
            "so the top of the head is not among the slices"
        ]
