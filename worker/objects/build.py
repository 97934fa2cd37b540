"""From a result to its DICOM objects: built, checked, in the order to send them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from limen.errors import Permanent
from limen.result import Phase, Result, Task
from worker.dicom.decoder import Decoder
from worker.objects import Built, Kind, Objects, Reference, Refused, marks, source
from worker.objects.capture import captures, text_page
from worker.objects.check import check
from worker.objects.contours import contours
from worker.objects.evidence import Evidence, collect
from worker.objects.identity import Identity
from worker.objects.keys import of_interest, rejection
from worker.objects.marks import Marked
from worker.objects.report import Regions, report
from worker.objects.saliency import saliency
from worker.objects.segmentation import lesions, segmentation
from worker.objects.source import Source
from worker.objects.stack import Stack, stacks
from worker.objects.writing import finished
from worker.study.parts import Instance

__all__ = ["build", "build_rejection"]

_OF_EVIDENCE: Final = (Kind.SEG, Kind.SC, Kind.PM, Kind.PR)
_FAULTS: Final = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
"""What a library raises over a data set that it does not like."""


def build(  # noqa: PLR0917 - five different types, nothing to mix up
    result: Result,
    files: Mapping[str, Path],
    instances: Sequence[Instance],
    decoder: Decoder,
    wanted: Collection[Kind],
    *,
    replaces: Sequence[Reference] = (),
    validate: bool = True,
) -> Objects:
    """Build the objects of one phase of a study revision; see ``worker.objects``.

    One that cannot be built, or that is not sound, is refused with the reason; the others are
    returned.

    Raises
    ------
    Transient
        The decoder is gone: try again.
    """
    try:
        read = source.read(result, instances, decoder)
    except Permanent as exc:
        return Objects((), tuple(Refused(kind, str(exc)) for kind in Kind if kind in wanted))
    work = _Work(Identity(result), read, validate)
    regions = None
    if result.phase is Phase.EXPLANATION and result.explanations:
        regions = _of_evidence(work, files, wanted)
    elif Kind.SC in wanted and Kind.SR not in wanted:
        work.add(Kind.SC, lambda: [text_page(work.identity, read)])
    if Kind.SEG in wanted and result.task is Task.SEGMENTATION:
        _of_marks(work, files)
    if Kind.SR in wanted:
        work.add(Kind.SR, lambda: [report(work.identity, read, replaces, regions)])
    if Kind.KO in wanted and result.phase is Phase.PREDICTION:
        work.add(Kind.KO, lambda: of_interest(work.identity, read))
    return work.objects()


def build_rejection(
    result: Result,
    instances: Sequence[Instance],
    decoder: Decoder,
    rejected: Sequence[Reference],
    *,
    validate: bool = True,
) -> Objects:
    """Build the note that what was sent of earlier revisions must no longer be shown.

    Raises
    ------
    Transient
        The decoder is gone: try again.
    """
    try:
        read = source.read(result, instances, decoder)
    except Permanent as exc:
        return Objects((), (Refused(Kind.KO, str(exc)),))
    work = _Work(Identity(result), read, validate)
    work.add(Kind.KO, lambda: rejection(work.identity, read, rejected))
    return work.objects()


class _Work:
    """Builds the objects of one result, and keeps what became of them."""

    def __init__(self, identity: Identity, read: Source, validate: bool) -> None:
        self.identity, self.source = identity, read
        self.built: list[Built] = []
        self.refused: list[Refused] = []
        self._validate = validate

    def add(self, kind: Kind, make: Callable[[], Sequence[Dataset]]) -> list[Built]:
        """Build objects of a kind and return those that are sound."""
        try:
            found = [
                finished(kind, dataset, self.identity, self.source.carried) for dataset in make()
            ]
        except Permanent as exc:
            self.refuse(kind, str(exc))
            return []
        except _FAULTS as exc:  # its text may hold what the instances say of a patient
            self.refuse(kind, f"it cannot be built: {type(exc).__name__}")
            return []
        sound = [one for one in found if self._is_sound(one)]
        self.built += sound
        return sound

    def objects(self) -> Objects:
        """Return all of it, in the order to send it."""
        order = list(Kind)
        return Objects(
            tuple(sorted(self.built, key=lambda one: order.index(one.kind))),
            tuple(sorted(self.refused, key=lambda one: order.index(one.kind))),
        )

    def refuse(self, kind: Kind, reason: str) -> None:
        self.refused.append(Refused(kind, reason))

    def _is_sound(self, one: Built) -> bool:
        reason = check(one, validate=self._validate)
        if reason is not None:
            self.refuse(one.kind, reason)
        return reason is None


def _of_marks(work: _Work, files: Mapping[str, Path]) -> None:
    """Build what a segmentation marks, an object for each finding and grid."""
    try:
        grids = stacks(marks.collect(work.identity.result, files, work.source), work.source)
    except Permanent as exc:
        work.refuse(Kind.SEG, str(exc))
        return
    for number, grid in enumerate(grids, start=1):
        work.add(Kind.SEG, partial(_lesions, work, grid, number))


def _lesions(work: _Work, grid: Stack[Marked], number: int) -> list[Dataset]:
    return [lesions(work.identity, grid, number)]


def _of_evidence(
    work: _Work, files: Mapping[str, Path], wanted: Collection[Kind]
) -> Regions | None:
    """Build what shows the evidence; return what the report says of it."""
    try:
        evidence = collect(work.identity.result, files, work.source)
    except Permanent as exc:
        for kind in _OF_EVIDENCE:
            if kind in wanted:
                work.refuse(kind, str(exc))
        return None
    if Kind.SC in wanted:
        work.add(Kind.SC, lambda: captures(work.identity, work.source, evidence))
    if Kind.PR in wanted:
        work.add(
            Kind.PR,
            lambda: [
                contours(work.identity, work.source, one, number)
                for number, one in enumerate(evidence, start=1)
            ],
        )
    maps: dict[tuple[str, int], Reference] = {}
    for number, stack in enumerate(_stacks(work, evidence, wanted), start=1):
        for kind, make in _LAID_OVER.items():
            if kind not in wanted:
                continue
            for one in work.add(kind, partial(make, work, stack, number)):
                if kind is Kind.PM:
                    maps |= dict.fromkeys(stack.planes, one.reference)
    return Regions(tuple(evidence), maps)


def _stacks(
    work: _Work, evidence: Sequence[Evidence], wanted: Collection[Kind]
) -> Sequence[Stack[Evidence]]:
    try:
        return stacks(evidence, work.source)
    except Permanent as exc:
        for kind in _LAID_OVER:
            if kind in wanted:
                work.refuse(kind, str(exc))
        return ()


_LAID_OVER: Final[dict[Kind, Callable[[_Work, Stack[Evidence], int], list[Dataset]]]] = {
    Kind.SEG: lambda work, stack, n: [segmentation(work.identity, stack, n)],
    Kind.PM: lambda work, stack, n: [saliency(work.identity, stack, n)],
}
