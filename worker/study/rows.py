"""What can be analysed of a study: its series, each with its acquisitions as rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from worker.dicom.headers import Header
from worker.study import coverage
from worker.study.coverage import Span
from worker.study.eligibility import Fault
from worker.study.stacks import Place, Stack

__all__ = ["Members", "Row"]


@dataclass(frozen=True)
class Row:
    """One acquisition of a series that is analysed, or why it is not.

    Attributes
    ----------
    part
        The acquisition within its series, from 1.
    fault
        Why it is left out; empty where it is analysed.
    certain
        Whether what is left out is no part of what the model looks for.
    doubts
        Why nobody may call it complete.
    """

    series_uid: str
    part: int
    stack: Stack
    sharp: bool
    fault: str = ""
    certain: bool = True
    doubts: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        return self.stack.places

    @property
    def first(self) -> Header:
        return self.places[0].header

    @property
    def frame_of_reference(self) -> str:
        return self.first.frame_of_reference_uid

    @cached_property
    def spans(self) -> list[Span]:
        """Return what the slices cover along their normal."""
        return coverage.spans(self.places)

    @property
    def kind(self) -> tuple[float, bool]:
        """Return the thickness, and whether the kernel is sharp: rows of one protocol agree."""
        return round(self.places[0].frame.thickness_mm or 0.0, 1), self.sharp

    def rank(self) -> tuple[bool, float, int, float, int, str, int]:
        """Sort key: soft tissue, the longest (to 10 mm), most slices, then thinner and earlier."""
        number = self.first.series_number
        return (
            self.sharp,
            -round(coverage.extent_mm(self.spans) / 10),
            -len(self.places),
            self.places[0].frame.thickness_mm or 0.0,
            number if number is not None else 1 << 31,
            self.series_uid,
            self.part,
        )


@dataclass(frozen=True, slots=True)
class Members:
    """A series: its instances, the rows that can be made of it, and what cannot be looked at."""

    uid: str
    headers: tuple[Header, ...]
    rows: tuple[Row, ...]
    faulty: tuple[tuple[Place, Fault], ...]

    @property
    def analysed(self) -> list[Row]:
        """Return the rows that are not left out."""
        return [row for row in self.rows if not row.fault]

    @property
    def name(self) -> str:
        """Return what people call it."""
        first = self.headers[0]
        number = "" if first.series_number is None else f" {first.series_number}"
        described = next((h.series_description for h in self.headers if h.series_description), "")
        return f"series{number}" + (f" ({described})" if described else "")
