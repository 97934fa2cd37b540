"""Which series of a study the model looks at, and their slices in the order of the body.

Every eligible series is looked at. Every series gets a reason in plain words, chosen or not,
and whatever was left out that may have shown something is a doubt: no study with a doubt is
called negative. The order comes from the geometry (PS3.3 C.7.6.2.1.1), then SliceLocation,
then InstanceNumber.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limen.result import Series
from worker.bundles.bundle import Bundle
from worker.dicom.headers import Frame, Header
from worker.study import choice, coverage, doubts, eligibility, identity
from worker.study.anatomy import Part
from worker.study.choice import Look
from worker.study.eligibility import Fault
from worker.study.kernels import is_sharp
from worker.study.rows import Members, Row
from worker.study.stacks import Place, stacks

__all__ = ["Selection", "Slice", "select"]


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice that is analysed.

    Attributes
    ----------
    frame
        Frame number within the instance, from 1.
    index
        Place in the order, from 0: row by row, each from its lowest (most caudal) slice.
    position_mm
        Along the slice normal, which points towards the head; None where nothing tells.
    part
        The acquisition within its series, from 1.
    copy
        Which content of its SOP Instance UID this is, from 1.
    stretch
        The stretch of its part, from 1: between two of them slices are missing.
    """

    header: Header
    frame: int
    index: int
    position_mm: float | None
    part: int = 1
    copy: int = 1
    stretch: int = 1


@dataclass(frozen=True, slots=True)
class Selection:
    """What is analysed of a study.

    Attributes
    ----------
    series
        Every series, one entry for each of its acquisitions that is analysed.
    rows
        What is analysed, the most useful first.
    left_out
        Slices that were set aside and may have shown something.
    doubts
        Why nobody may call what is analysed the whole.
    reason
        Why ``slices`` is empty, or is empty itself.
    """

    series: list[Series]
    rows: list[Row]
    slices: list[Slice]
    left_out: int
    doubts: list[str]
    reason: str

    @property
    def series_uid(self) -> str:
        """Return the most useful series, or an empty text."""
        return self.rows[0].series_uid if self.rows else ""


def select(
    headers: Sequence[Header],
    bundle: Bundle,
    look: Look | None = None,
    unreadable: Sequence[str] = (),
) -> Selection:
    """Choose the series that the bundle was made for, and order their slices.

    Deterministic: the order of ``headers`` does not matter.

    Parameters
    ----------
    headers
        The readable instances of one study.
    look
        Asked where the header does not say what part of the body it is.
    unreadable
        Series Instance UID of each instance that cannot be read.
    """
    copies = identity.copies((h.sop_uid, h.series_uid, h.path) for h in headers)
    by_series: dict[str, list[Header]] = defaultdict(list)
    for header in _distinct(headers, copies):
        by_series[header.series_uid].append(header)
    wanted = eligibility.wanted_parts(bundle)
    found = [_members(uid, m, bundle, wanted) for uid, m in sorted(by_series.items())]
    found = choice.without_other_parts(found, bundle, wanted, look)
    found = choice.without_needless_bone(found)
    found, too_many = choice.within_budget(found, bundle)
    rows = sorted((row for m in found for row in m.analysed), key=Row.rank)
    slices = _slices(rows, copies)
    if len(slices) < bundle.accepts.min_slices:
        return _nothing(found, rows, headers, bundle)
    told = [
        *_of_each_series(found, headers, unreadable),
        *doubts.of_parts(found, wanted, look),
        *doubts.of_coverage(rows, bundle),
        *doubts.of_identity(copies, headers),
        *doubts.of_budget(too_many, bundle),
    ]
    left_out = too_many + sum(len(doubts.set_aside(m)) for m in found)
    return Selection(_listed(found), rows, slices, left_out, doubts.shortened(told), "")


def _distinct(headers: Sequence[Header], copies: Mapping[Path, int]) -> list[Header]:
    """Return the instances in a fixed order, the same content once."""
    kept: dict[tuple[str, int], Header] = {}
    for header in sorted(headers, key=lambda h: (h.series_uid, h.sop_uid, str(h.path))):
        kept.setdefault((header.sop_uid, copies[header.path]), header)
    return list(kept.values())


# -- what can be made of a series ------------------------------------------------------------------


def _members(uid: str, headers: list[Header], bundle: Bundle, wanted: frozenset[Part]) -> Members:
    good: dict[bool, list[tuple[Header, Frame]]] = defaultdict(list)
    faulty: list[tuple[Place, Fault]] = []
    for header in headers:
        for frame in header.frames:
            fault = eligibility.fault(header, frame, bundle, wanted)
            if fault is None:
                good[is_sharp(frame.kernel, header.series_description)].append((header, frame))
            else:
                faulty.append((Place(header, frame, frame.along_mm, "geometry"), fault))
    made = [(sharp, stack) for sharp in (False, True) for stack in stacks(good[sharp])]
    rows = tuple(
        Row(uid, part, stack, sharp, doubts=tuple(doubts.of_stack(stack)))
        for part, (sharp, stack) in enumerate(made, start=1)
    )
    return Members(uid, tuple(headers), rows, tuple(faulty))


def _slices(rows: Sequence[Row], copies: Mapping[Path, int]) -> list[Slice]:
    places = [
        (row, place, stretch)
        for row in rows
        for place, stretch in zip(row.places, coverage.stretches(row.stack), strict=True)
    ]
    return [
        Slice(
            header=p.header,
            frame=p.frame.number,
            index=index,
            position_mm=p.position_mm,
            part=row.part,
            copy=copies[p.header.path],
            stretch=stretch,
        )
        for index, (row, p, stretch) in enumerate(places)
    ]


# -- what is said ----------------------------------------------------------------------------------


def _of_each_series(
    found: Sequence[Members], headers: Sequence[Header], unreadable: Sequence[str]
) -> list[str]:
    """Return what is doubtful of each series, with its name where there are several."""
    known = {n for h in headers if (n := h.instance_number) is not None}
    lost = Counter(unreadable)
    analysed = [m for m in found if m.analysed]
    return [
        f"{members.name}: {doubt}" if len(analysed) > 1 else doubt
        for members in analysed
        for doubt in doubts.of_series(members, known, lost[members.uid])
    ]


def _listed(found: Sequence[Members]) -> list[Series]:
    return [entry for members in found for entry in _entries(members)]


def _entries(members: Members) -> list[Series]:
    """Return an entry for each row that is analysed; the first tells the rest of the series."""
    kept = members.analysed
    rest = [f"{len(row.places)} left out: {row.fault}" for row in members.rows if row.fault]
    counted = Counter(fault.reason for _, fault in members.faulty)
    rest += [f"{n} left out: {why}" for why, n in sorted(counted.items())]
    if not kept:
        whys = {row.fault for row in members.rows} | set(counted)
        return [_describe(members, "; ".join(sorted(whys)), None)]
    entries = []
    for row in kept:
        count = len(row.places)
        which = f" of acquisition {row.part}" if len(kept) > 1 else ""
        said = [
            f"selected: {coverage.counted(count, 'slice')}{which}",
            *row.stack.notes,
            *row.doubts,
        ]
        entries.append(_describe(members, "; ".join(said + rest), row))
        rest = []
    return entries


def _describe(members: Members, reason: str, row: Row | None) -> Series:
    of_row = {place.header.sop_uid for place in row.places} if row else None
    headers = members.headers
    return Series(
        series_uid=members.uid,
        description=next((h.series_description for h in headers if h.series_description), ""),
        modality=headers[0].modality,
        instances=len(of_row or {h.sop_uid for h in headers}),
        selected=row is not None,
        reason=reason,
        part=row.part if row else 1,
        slices=len(row.places) if row else 0,
    )


def _nothing(
    found: Sequence[Members], rows: Sequence[Row], headers: Sequence[Header], bundle: Bundle
) -> Selection:
    """Return a selection of nothing: no slice, or so few that no model should judge."""
    if rows:
        count = sum(len(row.places) for row in rows)
        asked = bundle.accepts.min_slices
        why = f"{coverage.counted(count, 'slice')}; the model asks for at least {asked}"
        found = [
            replace(m, rows=tuple(replace(r, fault=r.fault or why) for r in m.rows)) for m in found
        ]
        return Selection(_listed(found), [], [], 0, [], f"too few slices to judge: {why}")
    return Selection(_listed(found), [], [], 0, [], _why_nothing(found, headers, bundle))


def _why_nothing(found: Sequence[Members], headers: Sequence[Header], bundle: Bundle) -> str:
    wanted = " or ".join(bundle.accepts.modality)
    modalities = sorted({h.modality or "unknown" for h in headers})
    if not set(modalities) & set(bundle.accepts.modality):
        told = ", ".join(modalities) or "nothing readable"
        return f"no {wanted} image in this study (found: {told})"
    reasons = {
        entry.reason
        for m in found
        for entry in _entries(m)
        if m.headers[0].modality in bundle.accepts.modality
    }
    return f"no {wanted} series that the model can look at: {'; '.join(sorted(reasons))}"
