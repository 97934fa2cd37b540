"""What a DIMSE status says: one table for whatever a peer answers, in words (PS3.7 C, PS3.4 B, J).

Failure reasons of storage commitment (PS3.3 C.14.1.1) and of STOW-RS (PS3.18 10.5.3) are of the
same numbers, and read here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["UNKNOWN", "Kind", "Meaning", "in_words", "meaning", "rows"]


class Kind(StrEnum):
    """What to do about it."""

    SUCCESS = "success"
    WARNING = "warning"
    """The peer has the instance, and says that something about it is odd."""
    PRESENT = "present"
    """The peer has an instance with this UID already."""
    TRANSIENT = "transient"
    """The same instance may be taken by another try."""
    FULL = "full"
    """The peer has no room, for this instance or any other."""
    PERMANENT = "permanent"
    """It will never be taken as it is."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one status value says."""

    kind: Kind
    words: str

    @property
    def is_stored(self) -> bool:
        """Whether the peer has taken the instance: Success, or Warning (PS3.4 B.2.3)."""
        return self.kind in {Kind.SUCCESS, Kind.WARNING}

    @property
    def may_pass_later(self) -> bool:
        """Whether another try may help."""
        return self.kind in {Kind.TRANSIENT, Kind.FULL}


_TABLE: dict[int, tuple[Kind, str]] = {
    0x0000: (Kind.SUCCESS, "stored"),
    0x0001: (Kind.WARNING, "stored, with a warning"),
    0x0105: (Kind.PERMANENT, "no such attribute"),
    0x0106: (Kind.PERMANENT, "invalid attribute value"),
    0x0107: (Kind.WARNING, "stored, some attributes not understood"),
    0x0110: (Kind.TRANSIENT, "processing failure"),
    0x0111: (Kind.PRESENT, "duplicate SOP instance"),
    0x0112: (Kind.TRANSIENT, "no such SOP instance"),
    0x0113: (Kind.PERMANENT, "no such event type"),
    0x0115: (Kind.PERMANENT, "invalid argument value"),
    0x0116: (Kind.WARNING, "stored, some values out of range"),
    0x0117: (Kind.PERMANENT, "invalid SOP instance"),
    0x0118: (Kind.PERMANENT, "no such SOP class"),
    0x0119: (Kind.PERMANENT, "SOP class and instance do not belong together"),
    0x0120: (Kind.PERMANENT, "missing attribute"),
    0x0121: (Kind.PERMANENT, "missing attribute value"),
    0x0122: (Kind.PERMANENT, "SOP class not supported"),
    0x0123: (Kind.PERMANENT, "no such action type"),
    0x0124: (Kind.PERMANENT, "not authorised"),
    0x0131: (Kind.TRANSIENT, "duplicate transaction UID"),
    0x0210: (Kind.TRANSIENT, "duplicate invocation"),
    0x0211: (Kind.PERMANENT, "unrecognised operation"),
    0x0212: (Kind.PERMANENT, "mistyped argument"),
    0x0213: (Kind.FULL, "peer is out of resources"),
    0xB000: (Kind.WARNING, "stored, with a warning: data elements were coerced"),
    0xB006: (Kind.WARNING, "stored, with a warning: data elements were discarded"),
    0xB007: (Kind.WARNING, "stored, with a warning: data set does not match the SOP class"),
    0xFE00: (Kind.TRANSIENT, "cancelled by the peer"),
}
_RANGES: tuple[tuple[int, int, Kind, str], ...] = (
    (0xA700, 0xA7FF, Kind.FULL, "peer is out of resources"),
    (0xA800, 0xA8FF, Kind.PERMANENT, "SOP class not supported"),
    (0xA900, 0xA9FF, Kind.PERMANENT, "data set does not match the SOP class"),
    (0xA000, 0xAFFF, Kind.PERMANENT, "refused"),
    (0xB000, 0xBFFF, Kind.WARNING, "stored, with a warning"),
    (0xC000, 0xCFFF, Kind.PERMANENT, "peer cannot understand it"),
)
UNKNOWN = Meaning(Kind.TRANSIENT, "an answer that the standard does not know")


def meaning(status: int) -> Meaning:
    """Return what a status value says; of one that nobody knows, that it may pass."""
    if status in _TABLE:
        return Meaning(*_TABLE[status])
    for low, high, kind, words in _RANGES:
        if low <= status <= high:
            return Meaning(kind, words)
    return UNKNOWN


def rows() -> Iterator[tuple[int, int, Meaning]]:
    """Yield the whole table: first and last value of a range, and what it says."""
    for status, found in _TABLE.items():
        yield status, status, Meaning(*found)
    for low, high, kind, words in _RANGES:
        yield low, high, Meaning(kind, words)


def in_words(status: int) -> str:
    """Return a status as people read it: ``0xA700, peer is out of resources``."""
    return f"0x{status:04X}, {meaning(status).words}"
