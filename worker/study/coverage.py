"""What of the body the analysed slices cover: gaps, missing numbers, extent."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from worker.dicom.headers import Header
from worker.study.stacks import SAME_POSITION_MM, Place, Stack

__all__ = [
    "Span",
    "counted",
    "covers",
    "extent_mm",
    "gaps",
    "holes_between",
    "joined",
    "missing_numbers",
    "spans",
    "stretches",
]

GAP: Final = 1.5
"""So many times the distance that slices should have is a gap."""

STATED_TOLERANCE: Final = 0.1
"""Relative: slices that are as far apart as Spacing Between Slices says were taken so."""

TOUCHING_MM: Final = 3.0
"""Stacks of one study may be planned that far apart, or half a slice."""

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Step:
    """The way from one slice to the next."""

    low_mm: float
    length_mm: float
    thickness_mm: float | None
    stated_mm: float | None


@dataclass(frozen=True, slots=True)
class _Gap:
    """A step that is too long, how long it should be, and about how many slices lack there."""

    step: _Step
    expected_mm: float
    lost: int


def gaps(stack: Stack) -> list[str]:
    """Return each gap of a stack in words.

    A slice is missing where the next one is 1.5 times as far as those of the same thickness
    mostly are, or as the slices are thick. Slices that are sparse because Spacing Between
    Slices says so have no gap.
    """
    found = _gaps(stack)
    if not found:
        return []
    total = sum(gap.lost for gap in found)
    largest = max(found, key=lambda gap: gap.step.length_mm)
    where = (
        f"the largest {largest.step.length_mm:.1f} mm where {largest.expected_mm:.1f} mm are usual"
    )
    return [f"{counted(len(found), 'gap')} between slices ({where}; about {total} missing)"]


def stretches(stack: Stack) -> list[int]:
    """Return which stretch without a gap each place of a stack is of, from 1 up."""
    beyond_mm = [gap.step.low_mm + gap.step.length_mm / 2 for gap in _gaps(stack)]
    last = len(beyond_mm) + 1
    return [
        last if p.position_mm is None else 1 + bisect.bisect(beyond_mm, p.position_mm)
        for p in stack.places
    ]


def _gaps(stack: Stack) -> list[_Gap]:
    steps = _steps(stack.places)
    usual: dict[float | None, list[float]] = defaultdict(list)
    for step in steps:
        usual[step.thickness_mm and round(step.thickness_mm, 1)].append(step.length_mm)
    middle = {key: median(lengths) for key, lengths in usual.items()}
    found = []
    for step in steps:
        common = middle[step.thickness_mm and round(step.thickness_mm, 1)]
        thick = max(step.thickness_mm or 0.0, step.stated_mm or 0.0)
        expected = min(common, thick) if thick else common
        if step.length_mm > GAP * expected and not _is_stated(step):
            lost = max(1, round(step.length_mm / expected) - 1)
            found.append(_Gap(step, expected, lost))
    return found


def _is_stated(step: _Step) -> bool:
    return (
        step.stated_mm is not None
        and abs(step.length_mm - step.stated_mm) <= STATED_TOLERANCE * step.stated_mm
    )


def _steps(places: Sequence[Place]) -> list[_Step]:
    distinct: list[Place] = []
    for place in places:
        last = distinct[-1].position_mm if distinct else None
        if place.position_mm is None:
            continue
        if last is None or place.position_mm - last > SAME_POSITION_MM:
            distinct.append(place)
    return [_step(a, b) for a, b in pairwise(distinct)]


def _step(one: Place, other: Place) -> _Step:
    low, high = one.position_mm or 0.0, other.position_mm or 0.0
    thick = [t for p in (one, other) if (t := p.frame.thickness_mm) and t > 0]
    stated = [abs(s) for p in (one, other) if (s := p.header.spacing_between_mm)]
    return _Step(
        low, high - low, sum(thick) / len(thick) if thick else None, max(stated, default=None)
    )


def missing_numbers(members: Iterable[Header], known: Container[int]) -> list[int]:
    """Return the InstanceNumbers that a series lacks, from 1 or where another series ends.

    A jump that is longer than the series is another block of numbers, not a loss.

    Parameters
    ----------
    members
        Every instance of the series, also those that are left out.
    known
        Every InstanceNumber of the study: a series may go on with those of another one.
    """
    members = list(members)
    numbers = sorted({n for h in members if (n := h.instance_number) is not None})
    if not numbers or any(len(h.frames) > 1 for h in members):
        return []
    found: list[int] = []
    first = numbers[0]
    if first <= len(numbers) + 1:
        while first > 1 and first - 1 not in known:
            first -= 1
        found += range(first, numbers[0])
    for low, high in pairwise(numbers):
        if 1 < high - low <= len(numbers) + 1:
            found += range(low + 1, high)
    return found


def spans(places: Iterable[Place]) -> list[Span]:
    """Return what slices cover along their normal in mm, joined where they touch.

    Slices that were taken sparsely stand for what lies between them.
    """
    placed = sorted(
        (p.position_mm, p.frame.thickness_mm or 0.0, abs(p.header.spacing_between_mm or 0.0))
        for p in places
        if p.position_mm is not None
    )
    steps = [b[0] - a[0] for a, b in pairwise(placed) if b[0] - a[0] > SAME_POSITION_MM]
    common = median(steps) if steps else 0.0
    found: list[Span] = []
    for at, thickness, stated in placed:
        half = (max(thickness, stated) or common) / 2
        low, high = at - half, at + half
        if found and low - found[-1][1] <= max(TOUCHING_MM, half):
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def joined(parts: Iterable[Span]) -> list[Span]:
    """Return spans of several stacks as one, joined where they touch."""
    found: list[Span] = []
    for low, high in sorted(parts):
        if found and low - found[-1][1] <= TOUCHING_MM:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def covers(covered: Sequence[Span], place: Place) -> bool:
    """Return True where a slice lies within what is covered (in order, none touching another)."""
    at = place.position_mm
    if at is None:
        return False
    n = bisect.bisect_right(covered, (at, math.inf))
    return n > 0 and covered[n - 1][1] >= at


def extent_mm(covered: Sequence[Span]) -> float:
    """Return the length of what is covered."""
    return sum(high - low for low, high in covered)


def holes_between(covered: Sequence[Span]) -> list[Span]:
    """Return what lies between the parts that are covered."""
    return [(a[1], b[0]) for a, b in pairwise(sorted(covered))]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is one."""
    return f"{number} {noun}{'s' if number > 1 else ''}"
