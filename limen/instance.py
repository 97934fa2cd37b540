"""What is known of a received instance; light, because a receiving process loads no SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["CommitmentReport", "NewCommitment", "NewInstance"]


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance that the spool has just made durable.

    Attributes
    ----------
    is_result
        It is an object that Limen made: a PACS that forwards what it gets sends it back.
    """

    study_key: str
    sop_key: str
    digest: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax: str
    path: str
    size_bytes: int
    peer: str
    accession: str
    received_at: datetime
    is_result: bool = False

    def row(self) -> list[str | int | bool]:
        """Return the values in order, as JSON has them."""
        *values, at, is_result = (getattr(self, name) for name in self.__slots__)
        return [*values, at.isoformat(), is_result]

    @classmethod
    def of(cls, row: list[Any]) -> NewInstance:
        """Return what ``row`` was made of."""
        values = dict(zip(cls.__slots__, row, strict=True))
        return cls(**(values | {"received_at": datetime.fromisoformat(values["received_at"])}))


@dataclass(frozen=True, slots=True)
class NewCommitment:
    """A request for storage commitment (PS3.4 J.3.2).

    Attributes
    ----------
    peer, address
        Who asked: calling AE title, and the address it called from.
    instances
        Pairs of SOP Class UID and SOP Instance UID.
    """

    transaction_uid: str
    peer: str
    address: str
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a peer says of our request for storage commitment (PS3.4 J.3.3).

    Attributes
    ----------
    kept
        SOP Instance UIDs that it vouches for.
    failed
        Those that it does not, with a failure reason (PS3.3 C.14.1.1).
    """

    transaction_uid: str
    kept: tuple[str, ...]
    failed: tuple[tuple[str, int], ...]
