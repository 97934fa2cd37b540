"""What each open association has carried so far, study by study, and what it was refused.

Counted as the journal takes the rows; told when the association ends, for `limen trace`. A receiver
that is killed takes the counts along: the rows of the instances say who sent them all the same.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from limen.instance import NewInstance
from limen.journal import Brought, Recorded

__all__ = ["Carried"]

_ASSOCIATIONS = 10_000  # of those whose end was never told
_REASONS = 10  # of one association
_OTHER = "other reasons"


@dataclass(slots=True)
class _Study:
    """What one association carried of one study."""

    first: NewInstance
    last: NewInstance
    revision: int = 0
    kept: int = 0
    again: int = 0
    conflicts: int = 0


@dataclass(slots=True)
class _Association:
    studies: dict[str, _Study] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    address: str = ""


class Carried:
    """The counts; shared by the threads of associations and that of the assembler."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, _Association] = {}

    def came(self, association: int, instance: NewInstance, row: Recorded) -> None:
        """Count an instance that has its row."""
        with self._lock:
            studies = self._of(association).studies
            study = studies.setdefault(instance.study_key, _Study(instance, instance))
            study.last = instance
            study.revision = max(study.revision, row.revision)
            study.kept += row.new
            study.again += not row.new
            study.conflicts += row.conflict

    def refused(self, association: int, reason: str) -> None:
        """Count an instance that was not kept."""
        with self._lock:
            refused = self._of(association).refused
            refused[reason if reason in refused or len(refused) < _REASONS else _OTHER] += 1

    def came_from(self, association: int, address: str) -> None:
        """Note where an association came from, before it ends; one that carried nothing is none."""
        with self._lock:
            if association in self._open:
                self._open[association].address = address

    def ended(self, association: int) -> list[Brought]:
        """Forget an association; return what it brought."""
        with self._lock:
            ended = self._open.pop(association, None)
        if ended is None:
            return []
        return [
            Brought(
                study_key=key,
                revision=study.revision,
                association=association,
                peer=study.first.peer,
                address=ended.address,
                first_at=study.first.received_at,
                last_at=study.last.received_at,
                kept=study.kept,
                again=study.again,
                refused=dict(ended.refused),
                conflicts=study.conflicts,
            )
            for key, study in ended.studies.items()
        ]

    def _of(self, association: int) -> _Association:
        if association not in self._open and len(self._open) >= _ASSOCIATIONS:
            del self._open[next(iter(self._open))]
        return self._open.setdefault(association, _Association())
