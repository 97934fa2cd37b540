"""How large something is that is marked in slices: each stands for what lies half way to the next.

Where several series show the same place, the larger area counts there, once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["MM3_PER_ML", "Slab", "slabs_mm", "volume_ml"]

MM3_PER_ML: Final = 1000.0
SAME_PLACE_MM: Final = 0.05
"""Slices that lie nearer than this show the same place."""


@dataclass(frozen=True, slots=True)
class Slab:
    """What is marked in a slice, and the part of the body that it stands for.

    Attributes
    ----------
    frame_of_reference
        Places of one of them can be compared; empty: unknown.
    low_mm, high_mm
        Along the normal.
    """

    frame_of_reference: str
    low_mm: float
    high_mm: float
    area_mm2: float


def slabs_mm(positions_mm: Sequence[float], alone_mm: float) -> list[tuple[float, float]]:
    """Return from where to where each slice of a stretch without a gap reaches.

    Half way to its neighbours; the first and the last as far outwards as inwards.

    Parameters
    ----------
    positions_mm
        In rising order.
    alone_mm
        How thick a slice is that has no neighbour at another place.
    """
    places: list[float] = []
    for at in positions_mm:
        if not places or at - places[-1] > SAME_PLACE_MM:
            places.append(at)
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    first = places[0] - middles[0] if middles else -alone_mm / 2
    last = places[-1] - middles[-1] if middles else alone_mm / 2
    edges = [places[0] + first, *middles, places[-1] + last] if places else []
    found, n = [], 0
    for at in positions_mm:
        if at - places[n] > SAME_PLACE_MM:
            n += 1
        found.append((edges[n], edges[n + 1]))
    return found


def volume_ml(slabs: Sequence[Slab]) -> float:
    """Return the volume of what is marked.

    Of several frames of reference, which say nothing of each other, the one with the most.
    """
    of_frame: dict[str, list[Slab]] = defaultdict(list)
    for slab in slabs:
        if slab.area_mm2 > 0:
            of_frame[slab.frame_of_reference].append(slab)
    return max((_of_one_frame(members) for members in of_frame.values()), default=0.0)


def _of_one_frame(slabs: Sequence[Slab]) -> float:
    edges = sorted({edge for slab in slabs for edge in (slab.low_mm, slab.high_mm)})
    total = 0.0
    for low, high in pairwise(edges):
        areas = [s.area_mm2 for s in slabs if s.low_mm <= low and high <= s.high_mm]
        total += max(areas, default=0.0) * (high - low)
    return total / MM3_PER_ML
