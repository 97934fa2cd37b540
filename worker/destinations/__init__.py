"""Where results go. One interface: a parcel is delivered, or an error says whether to try again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from limen.result import Phase

__all__ = ["Destination", "Original", "Parcel"]


@dataclass(frozen=True, slots=True)
class Original:
    """A received instance that belongs to the study."""

    path: Path
    sop_key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """The result of one phase of one study revision, on its way to a destination.

    Attributes
    ----------
    document
        The result document, UTF-8 JSON.
    files
        File name in the document -> image file.
    originals
        The instances it was made from.
    shadow
        Name of the bundle when it ran in shadow: for the archive only. Empty otherwise.
    """

    study_key: str
    revision: int
    phase: Phase
    document: bytes
    files: dict[str, Path]
    originals: tuple[Original, ...]
    shadow: str = ""


class Destination(Protocol):
    """A place that results are delivered to."""

    def deliver(self, parcel: Parcel) -> None:
        """Deliver a parcel; the same parcel again changes nothing.

        Raises
        ------
        Transient
            It may arrive later: the journal tries again.
        Permanent
            It never will: the journal keeps the reason.
        """
