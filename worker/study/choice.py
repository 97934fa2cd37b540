"""Which acquisitions are left out, though each could be looked at by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from worker.bundles.bundle import Bundle
from worker.study import anatomy, coverage
from worker.study.anatomy import Anatomy, Part
from worker.study.coverage import Span
from worker.study.eligibility import Fault
from worker.study.rows import Members, Row
from worker.study.stacks import Place

__all__ = ["Look", "covered_by", "within_budget", "without_needless_bone", "without_other_parts"]

STANDS_IN: Final = 0.9
"""Soft tissue that covers so much of a bone series stands in for it."""

Look = Callable[[Sequence[Place]], Fault | None]
"""Returns why the pixels of slices do not show the wanted part of the body, or None."""


def without_other_parts(
    found: list[Members], bundle: Bundle, wanted: frozenset[Part], look: Look | None
) -> list[Members]:
    """Leave out what the pixels show to be another part, where the header does not say."""
    if look is None or not bundle.accepts.looks_like:
        return found

    def judged(row: Row) -> Row:
        said = {anatomy.judge(p.header, p.frame, wanted).anatomy for p in row.places}
        why = None if said == {Anatomy.WANTED} else look(row.places)
        if why is None:
            return row
        told = f"by its pixels no {bundle.accepts.looks_like}: {why.reason}"
        return replace(row, fault=told, certain=why.harmless)

    return [replace(m, rows=tuple(judged(row) for row in m.rows)) for m in found]


def without_needless_bone(found: list[Members]) -> list[Members]:
    """Leave out bone series where soft tissue of the same place is there; doubt them else.

    What a series has of another kernel beside its soft tissue is no such series: nobody can say
    that it was planned, and it is looked at.
    """
    soft = [row for m in found for row in m.analysed if not row.sharp]
    covered = covered_by(soft)

    def judged(row: Row, *, mixed: bool) -> Row:
        if not row.sharp or row.fault:
            return row
        if _is_covered(row, soft, covered):
            return (
                row if mixed else replace(row, fault="bone kernel; a soft-tissue series is there")
            )
        return replace(row, doubts=(*row.doubts, "bone kernel, and no soft tissue of its place"))

    return [
        replace(
            m, rows=tuple(judged(row, mixed=not all(r.sharp for r in m.rows)) for row in m.rows)
        )
        for m in found
    ]


def _is_covered(row: Row, soft: Sequence[Row], covered: dict[str, list[Span]]) -> bool:
    if not any(p.position_mm is not None for p in row.places):
        return any(len(other.places) >= len(row.places) for other in soft)
    near = covered.get(row.frame_of_reference, [])
    inside = sum(coverage.covers(near, place) for place in row.places)
    return inside >= STANDS_IN * len(row.places)


def covered_by(rows: Iterable[Row]) -> dict[str, list[Span]]:
    """Return what rows cover together, by frame of reference."""
    found: dict[str, list[Span]] = defaultdict(list)
    for row in rows:
        found[row.frame_of_reference] += row.spans
    return {uid: coverage.joined(spans) for uid, spans in found.items()}


def within_budget(found: list[Members], bundle: Bundle) -> tuple[list[Members], int]:
    """Leave out the least useful rows that are too much for one study; return how many slices.

    Where the first one alone is too much, every n-th slice of it is looked at.
    """
    most = bundle.accepts.max_slices
    left, too_many = most, 0
    judged: dict[tuple[str, int], Row] = {}
    for row in sorted((row for m in found for row in m.analysed), key=Row.rank):
        key, count = (row.series_uid, row.part), len(row.places)
        if count <= left:
            judged[key] = row
            left -= count
            continue
        if judged:
            why = f"beyond the {most} slices that one study may have (max_slices)"
            judged[key] = replace(row, fault=why)
            too_many += count
            continue
        some = row.places[:: -(-count // most)]
        judged[key] = replace(row, stack=replace(row.stack, places=some))
        left, too_many = 0, count - len(some)
    kept = [
        replace(m, rows=tuple(judged.get((r.series_uid, r.part), r) for r in m.rows)) for m in found
    ]
    return kept, too_many
