"""Where a row stands in the order of the worklist: what an address says of where a page begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from web.results.models import Study

__all__ = ["Place"]

_WORD = re.compile(r"[0-9]{1,9}\.[01]\.[0-9]{1,18}\.[0-9]{1,18}")
# The first day there is: no clock of a node was ever before it.
_BEGIN = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in the order, for somebody who has read it or not."""

    urgency: int
    is_read: bool
    received_at: datetime
    pk: int

    @classmethod
    def of(cls, study: Study, *, is_read: bool) -> Place:
        """Return the place of a study."""
        return cls(study.urgency, is_read, study.received_at, study.pk)

    @property
    def order(self) -> tuple[int, bool, timedelta, int]:
        """Return what the order goes by, the first the smallest.

        Urgency; unread before read; of the unread who waits longest, of the read the latest.
        """
        since, pk = self.received_at - _BEGIN, self.pk
        return (self.urgency, self.is_read, *((-since, -pk) if self.is_read else (since, pk)))

    @classmethod
    def read(cls, word: str) -> Place:
        """Read the word of an address.

        Raises
        ------
        ValueError
            It is none that ``str`` gave.
        """
        if not _WORD.fullmatch(word):
            raise ValueError("no place in the worklist")
        urgency, is_read, micros, pk = map(int, word.split("."))
        try:
            return cls(urgency, bool(is_read), _BEGIN + timedelta(microseconds=micros), pk)
        except OverflowError as exc:
            raise ValueError("no place in the worklist") from exc

    def __str__(self) -> str:
        """Return the word for an address."""
        micros = (self.received_at - _BEGIN) // timedelta(microseconds=1)
        return f"{self.urgency}.{self.is_read:d}.{micros}.{self.pk}"
