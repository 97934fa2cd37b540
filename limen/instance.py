"""What is known of a received instance; light, because a receiving process loads no SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["NewInstance"]


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance that the spool has just made durable."""

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
    received_at: datetime
