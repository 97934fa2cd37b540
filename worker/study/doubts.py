"""Why nobody may call what is analysed of a study the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from worker.bundles.bundle import Bundle
from worker.dicom.headers import Header
from worker.study import anatomy, contrast, coverage
from worker.study.anatomy import Part
from worker.study.choice import Look, covered_by
from worker.study.contrast import Contrast
from worker.study.crop import ASSUMED_MM
from worker.study.rows import Members, Row
from worker.study.stacks import Stack

__all__ = [
    "of_budget",
    "of_coverage",
    "of_identity",
    "of_input",
    "of_parts",
    "of_series",
    "of_stack",
    "set_aside",
    "shortened",
]

MAX_DOUBTS: Final = 6
"""So many are told of one study; the others are counted."""


def of_stack(stack: Stack) -> list[str]:
    """Return what is doubtful of one acquisition by itself."""
    doubts = coverage.gaps(stack)
    if not stack.is_placed and len(stack.places) > 1:
        doubts.append("no slice says where it lies, so a gap would not be seen")
    if alike := _alike(stack):
        doubts.append(
            f"{coverage.counted(alike, 'slice')} with the place or number of another one, and "
            "nothing that tells acquisitions apart, so a gap would not be seen"
        )
    contradicted = sum(
        contrast.of(p.header, p.frame) is Contrast.CONTRADICTED for p in stack.places
    )
    if contradicted:
        doubts.append(f"{coverage.counted(contradicted, 'slice')}: {Contrast.CONTRADICTED.value}")
    return doubts


def _alike(stack: Stack) -> int:
    """Return how many instances have the place or the InstanceNumber of another one."""
    numbers = Counter(n for h in _headers(stack) if (n := h.instance_number) is not None)
    return max(stack.repeated, sum(count - 1 for count in numbers.values()))


def _headers(stack: Stack) -> list[Header]:
    return list({place.header.path: place.header for place in stack.places}.values())


def of_series(members: Members, known: Container[int], unreadable: int) -> list[str]:
    """Return why a series that is analysed may not be whole.

    Parameters
    ----------
    known
        Every InstanceNumber of the study.
    unreadable
        Instances of the series that cannot be read: they are told as such, not as missing.
    """
    told = [doubt for row in members.analysed for doubt in row.doubts]
    missing = coverage.missing_numbers(members.headers, known)
    if len(missing) > unreadable:
        which = f"{missing[0]}" if len(missing) == 1 else f"{missing[0]} to {missing[-1]}"
        told.append(f"gap in the instance numbers: {len(missing)} missing ({which})")
    lost = Counter(set_aside(members))
    return told + [
        f"{coverage.counted(n, 'slice')} left out: {why}" for why, n in sorted(lost.items())
    ]


def set_aside(members: Members) -> list[str]:
    """Return why each slice was left out of a series whose others are analysed.

    Also where another slice covers its place: nobody can say that the two show the same.
    """
    if not members.analysed:
        return []
    return [fault.reason for _, fault in members.faulty if not fault.harmless]


def of_parts(found: list[Members], wanted: frozenset[Part], look: Look | None) -> list[str]:
    """Return series that the header calls another part while their pixels show the wanted one."""
    doubts = []
    for members in found:
        other = [
            place
            for place, fault in members.faulty
            if not fault.harmless
            and fault.reason == anatomy.judge(place.header, place.frame, wanted).reason
        ]
        if other and not members.rows and look is not None and look(other) is None:
            doubts.append(f"{members.name} is left out by its header, but its pixels show a head")
        doubts += [f"{members.name} is left out {r.fault}" for r in members.rows if not r.certain]
    return doubts


def of_coverage(rows: Sequence[Row], bundle: Bundle) -> list[str]:
    """Return what of the body lies between the rows, and whether they are all of it."""
    told: list[str] = []
    longest_mm = 0.0
    for frame_of_reference, covered in covered_by(rows).items():
        longest_mm = max(longest_mm, coverage.extent_mm(covered))
        near = [r.spans for r in rows if r.frame_of_reference == frame_of_reference and r.spans]
        told += [
            f"gap of {high - low:.0f} mm between the series"
            for low, high in coverage.holes_between(covered)
            if not any(own[0][0] < low and high < own[-1][1] for own in near)
        ]
    wanted_mm = bundle.accepts.min_extent_mm
    if longest_mm < wanted_mm:
        told.append(
            f"{longest_mm:.0f} mm of the {wanted_mm:.0f} mm that a whole one has at least "
            "are covered"
        )
    return told + [doubt for row in rows for doubt in _fragment(row, rows, wanted_mm)]


def _fragment(row: Row, rows: Sequence[Row], wanted_mm: float) -> list[str]:
    """Return that a row is a piece of what another row of its kind has whole, or nothing.

    A series of thinner slices of a part of the head is planned; one of the same thickness
    that ends within another has lost its rest, or was broken off.
    """
    length_mm = coverage.extent_mm(row.spans)
    longer = (
        other
        for other in rows
        if length_mm < wanted_mm
        and row.kind == other.kind
        and coverage.extent_mm(other.spans) > length_mm
    )
    for other in longer:
        inside = sum(coverage.covers(other.spans, place) for place in row.places)
        if 2 * inside > len(row.places):
            whole_mm = coverage.extent_mm(other.spans)
            return [
                f"an acquisition of {length_mm:.0f} mm beside one of its kind of {whole_mm:.0f} mm"
            ]
    return []


def of_identity(copies: Mapping[Path, int], headers: Sequence[Header]) -> list[str]:
    """Return how many SOP Instance UIDs stand for several contents."""
    clashes = len({h.sop_uid for h in headers if copies[h.path] > 1})
    if not clashes:
        return []
    which = "SOP Instance UID stands" if clashes == 1 else "SOP Instance UIDs stand"
    return [f"{clashes} {which} for several contents, and all were analysed"]


def of_budget(too_many: int, bundle: Bundle) -> list[str]:
    """Return how many slices are left out because a study has too many."""
    if not too_many:
        return []
    most = bundle.accepts.max_slices
    return [f"{too_many} slices are beyond the {most} that one study may have (max_slices)"]


def of_input(
    without_size: int, without_neighbour: int, beside_a_gap: int, cut_off: int
) -> list[str]:
    """Return what the model was shown otherwise than its bundle asks for.

    Parameters
    ----------
    without_size
        Slices whose scale was assumed, because nothing says how large their pixels are.
    without_neighbour
        Slices beside which one cannot be read.
    beside_a_gap
        Slices whose neighbour is missing from the study.
    cut_off
        Slices whose head reaches beyond the part that the model is shown.
    """
    told = []
    if without_size:
        told.append(
            f"the size of a pixel of {coverage.counted(without_size, 'slice')} is not said, or "
            f"cannot be true; a field of view of {ASSUMED_MM:g} mm was assumed"
        )
    if without_neighbour:
        told.append(
            f"{coverage.counted(without_neighbour, 'slice')} looked at beside one that cannot be "
            "read; another stood in for it"
        )
    if beside_a_gap:
        told.append(
            f"{coverage.counted(beside_a_gap, 'slice')} looked at beside a gap; another stood in "
            "for the missing one"
        )
    if cut_off:
        told.append(
            f"the head reaches beyond the middle of {coverage.counted(cut_off, 'slice')}, which is "
            "all that the model is shown"
        )
    return told


def shortened(doubts: Iterable[str]) -> list[str]:
    """Return the first doubts, each once, and how many more there are."""
    distinct = list(dict.fromkeys(doubts))
    more = len(distinct) - MAX_DOUBTS
    return distinct[:MAX_DOUBTS] + ([f"and {more} more doubts"] if more > 0 else [])
