"""Frames of a series as stacks: where each lies, which acquisition it is of, in which order.

A classifier of slices needs no common matrix and no position. Whatever does not fit is placed
as well as can be and stays in its stack; nothing is dropped here.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from worker.dicom.headers import Frame, Header, Vector

__all__ = ["SAME_POSITION_MM", "Place", "Stack", "stacks"]

SAME_POSITION_MM: Final = 0.01
"""Closer than that is the same place."""

SAME_DIRECTION_COSINE: Final = 0.999
"""Of the normals of one stack: about 2.5 degrees."""

MAX_DIRECTIONS: Final = 64
MAX_GROUPS: Final = 2000
"""More directions or acquisitions than that are made to keep us busy."""

FEWEST: Final = 3
"""Fewer frames of another direction or acquisition are strays of the largest stack."""


@dataclass(frozen=True, slots=True)
class Place:
    """A frame and where it lies.

    Attributes
    ----------
    position_mm
        Along the normal, up towards the head; None where nothing tells.
    told_by
        What tells: ``geometry``, ``SliceLocation``, ``InstanceNumber`` (between neighbours), or
        empty.
    """

    header: Header
    frame: Frame
    position_mm: float | None = None
    told_by: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames of one acquisition of a series in the order of the body, and what is odd of them."""

    places: tuple[Place, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Return True where more than the order of the slices is known."""
        return any(p.told_by in {"geometry", "SliceLocation"} for p in self.places)

    @property
    def repeated(self) -> int:
        """Return how many frames lie where another one lies."""
        return _repeated(self.places)


def stacks(frames: Iterable[tuple[Header, Frame]]) -> list[Stack]:
    """Return the acquisitions of a series, the largest first.

    They are told apart by temporal position, AcquisitionNumber or AcquisitionTime where their
    slices lie between each other, and by the restart of the slices else; never by UID.
    """
    places = sorted((Place(h, f) for h, f in frames), key=_tie)
    found = [
        _stack(part)
        for direction in _directions(places)
        for part in _acquisitions(_placed(direction))
    ]
    return sorted(found, key=lambda s: (-len(s.places), _tie(s.places[0])))


def _tie(place: Place) -> tuple[int, str, int, str]:
    number = place.header.instance_number
    return (
        number if number is not None else 1 << 31,
        place.header.sop_uid,
        place.frame.number,
        str(place.header.path),
    )


# -- direction -------------------------------------------------------------------------------------


def _directions(places: Sequence[Place]) -> list[list[Place]]:
    """Return the frames by their normal; a few of another one stay with the most."""
    groups: list[tuple[Vector, list[Place]]] = []
    strays = []
    for place in places:
        normal = place.frame.normal
        if normal is None:
            strays.append(place)
            continue
        for known, members in groups:
            if sum(a * b for a, b in zip(known, normal, strict=True)) >= SAME_DIRECTION_COSINE:
                members.append(place)
                break
        else:
            if len(groups) < MAX_DIRECTIONS:
                groups.append((normal, [place]))
            else:
                strays.append(place)
    by_size = sorted((members for _, members in groups), key=len, reverse=True)
    large = [m for m in by_size if len(m) >= FEWEST] or by_size[:1]
    strays += [place for m in by_size[len(large) :] for place in m]
    if not large:
        return [strays] if strays else []
    return [sorted([*large[0], *strays], key=_tie), *large[1:]]


# -- position --------------------------------------------------------------------------------------


def _placed(places: Sequence[Place]) -> list[Place]:
    """Return the frames with their positions, from whatever tells the most of them apart."""
    normal = next((p.frame.normal for p in places if p.frame.normal is not None), None)
    geometry = [_along_mm(p, normal) for p in places]
    location = [p.frame.location_mm for p in places]
    if _distinct(location) > _distinct(geometry):
        found = _filled(location, geometry, "SliceLocation", "geometry")
    else:
        found = _filled(geometry, location, "geometry", "SliceLocation")
    placed = [
        replace(p, position_mm=None if mm is None else round(mm, 4) + 0.0, told_by=told)
        for p, (mm, told) in zip(places, found, strict=True)
    ]
    return _between_neighbours(placed)


def _along_mm(place: Place, normal: Vector | None) -> float | None:
    """Return the place of the middle of a frame along ``normal``."""
    frame, header = place.frame, place.header
    if normal is None or frame.position_mm is None or frame.orientation is None:
        return None
    row_mm, column_mm = frame.spacing_mm or (0.0, 0.0)
    along_row, along_column = (header.columns - 1) / 2 * column_mm, (header.rows - 1) / 2 * row_mm
    right, down = frame.orientation
    middle = (
        corner + r * along_row + d * along_column
        for corner, r, d in zip(frame.position_mm, right, down, strict=True)
    )
    return sum(n * m for n, m in zip(normal, middle, strict=True))


def _distinct(values: Sequence[float | None]) -> int:
    return len({round(v, 2) for v in values if v is not None})


def _filled(
    first: Sequence[float | None], second: Sequence[float | None], name: str, other: str
) -> list[tuple[float | None, str]]:
    """Return ``first``, and where it is silent ``second``, moved to the same zero."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    sign, shift = 1.0, 0.0
    if both:
        a, b = (np.array(column) for column in zip(*both, strict=True))
        if len(both) > 1 and np.dot(a - a.mean(), b - b.mean()) < 0:
            sign = -1.0
        shift = float(np.median(a - sign * b))
    return [
        (a, name) if a is not None else (sign * b + shift, other) if b is not None else (None, "")
        for a, b in zip(first, second, strict=True)
    ]


def _between_neighbours(places: list[Place]) -> list[Place]:
    """Place what has no position where its InstanceNumber stands among the others."""
    known: dict[int, float] = {}
    for p in places:
        if p.position_mm is not None and p.header.instance_number is not None:
            known.setdefault(p.header.instance_number, p.position_mm)
    numbers = sorted(known)
    if len(numbers) < 2:
        return places
    return [
        replace(
            p,
            position_mm=_interpolated(p.header.instance_number, numbers, known),
            told_by="InstanceNumber",
        )
        if p.position_mm is None and p.header.instance_number is not None and not p.told_by
        else p
        for p in places
    ]


def _interpolated(number: int, numbers: Sequence[int], known: dict[int, float]) -> float:
    at = min(max(bisect.bisect_left(numbers, number), 1), len(numbers) - 1)
    low, high = numbers[at - 1], numbers[at]
    step = (known[high] - known[low]) / (high - low)
    return round(known[low] + (number - low) * step, 4) + 0.0


# -- acquisition -----------------------------------------------------------------------------------


def _acquisitions(places: list[Place]) -> list[list[Place]]:
    """Return the acquisitions that lie between each other; all in one where none do."""
    keys: tuple[Callable[[Place], Hashable], ...] = (
        lambda p: (p.frame.stack, p.frame.temporal_index),
        lambda p: p.frame.acquisition_number,
        lambda p: p.header.acquisition_uid,
        lambda p: p.frame.acquisition_time,
        lambda p: p.header.content_time,
    )
    for key in keys:
        groups = _groups(places, key)
        passes = _passes(groups) if 1 < len(groups) <= MAX_GROUPS else []
        if _explains(passes, places):
            return _without_crumbs(passes)
    passes = _restarts(places)
    return _without_crumbs(passes) if _explains(passes, places) else [places]


def _groups(places: Sequence[Place], key: Callable[[Place], Hashable]) -> list[list[Place]]:
    found: dict[Hashable, list[Place]] = defaultdict(list)
    for place in places:
        found[key(place)].append(place)
    return list(found.values())


def _passes(groups: list[list[Place]]) -> list[list[Place]]:
    """Join groups that lie beside each other into one pass over the body.

    A scanner may number each rotation as an acquisition; those of one pass never lie between
    each other.
    """
    passes: list[tuple[list[Place], list[tuple[float, float]]]] = []
    for group in groups:
        at = [p.position_mm for p in group if p.position_mm is not None]
        low, high = (min(at), max(at)) if at else (0.0, 0.0)
        for members, taken in passes:
            if not at or all(
                high < a - SAME_POSITION_MM or low > b + SAME_POSITION_MM for a, b in taken
            ):
                members.extend(group)
                taken.append((low, high))
                break
        else:
            passes.append((list(group), [(low, high)] if at else []))
    return [members for members, _ in passes]


def _explains(passes: list[list[Place]], places: Sequence[Place]) -> bool:
    """Return True where passes are acquisitions: several slices each, no place taken twice."""
    large = [p for p in passes if len(p) >= FEWEST]
    return (
        len(large) > 1
        and sum(map(len, large)) >= len(places) - FEWEST
        and all(_repeated(p) < FEWEST for p in large)
    )


def _repeated(places: Sequence[Place]) -> int:
    """Return how many frames lie where another one lies."""
    at = [round(p.position_mm, 2) for p in places if p.position_mm is not None]
    return len(at) - len(set(at))


def _restarts(places: Sequence[Place]) -> list[list[Place]]:
    """Part frames, in the order of InstanceNumber, wherever a place is reached again."""
    if _repeated(places) < FEWEST or len(_numbers(places)) < len(places):
        return [list(places)]
    passes: list[list[Place]] = [[]]
    seen: set[float] = set()
    for place in sorted(places, key=_tie):
        if place.position_mm is not None:
            at = round(place.position_mm, 2)
            if at in seen:
                passes.append([])
                seen = set()
            seen.add(at)
        passes[-1].append(place)
    return passes


def _numbers(places: Iterable[Place]) -> set[int]:
    return {n for p in places if (n := p.header.instance_number) is not None}


def _without_crumbs(passes: list[list[Place]]) -> list[list[Place]]:
    large = [p for p in passes if len(p) >= FEWEST]
    largest = max(large, key=len)
    largest += [place for p in passes if len(p) < FEWEST for place in p]
    return large


# -- order -----------------------------------------------------------------------------------------


def _stack(places: Sequence[Place]) -> Stack:
    """Return frames in the order of the body; those without a place are the last."""

    def order(place: Place) -> tuple[bool, float, tuple[int, str, int, str]]:
        at = place.position_mm
        return at is None, at or 0.0, _tie(place)

    told = Counter(p.told_by for p in places)
    notes = []
    for name in ("SliceLocation", "InstanceNumber"):
        if told[name]:
            which = "slices are" if told[name] < len(places) else "all slices are"
            count = f"{told[name]} " if told[name] < len(places) else ""
            notes.append(f"{count}{which} placed by {name}, as positions are missing or the same")
    if told[""]:
        count = f"{told['']} slices" if told[""] < len(places) else "the slices"
        notes.append(f"positions of {count} are missing, so the order is that of InstanceNumber")
    if repeated := _repeated(places):
        notes.append(f"{repeated} at a position that is already there")
    return Stack(tuple(sorted(places, key=order)), tuple(notes))
