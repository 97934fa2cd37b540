"""Where results go. One interface: a parcel is delivered, or an error says whether to try again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from limen.result import Phase, Result
from limen.states import WorkState

__all__ = ["ARRIVED", "Destination", "DicomObject", "Original", "Parcel", "Receipt"]


@dataclass(frozen=True, slots=True)
class Original:
    """A received instance that belongs to the study."""

    path: Path
    sop_key: str
    digest: str


@dataclass(frozen=True, slots=True)
class DicomObject:
    """A DICOM object that says what was found, built and checked, or why it was not.

    Attributes
    ----------
    kind
        As in the settings: ``sr``, ``seg``, ``sc``, ``ko``, ``pm`` or ``pr``.
    path
        The file (PS3.10), explicit VR little endian; None: it must not leave.
    fault
        Why it must not leave; names no patient.
    """

    kind: str
    sop_class_uid: str
    sop_uid: str
    path: Path | None
    fault: str = ""


def _no_sentences() -> Sequence[str]:
    return ()


def _no_objects(kinds: Collection[str]) -> Sequence[DicomObject]:
    return ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """The result of one phase of one study revision, on its way to a destination.

    Attributes
    ----------
    document
        The result document, UTF-8 JSON; empty where only the originals are brought.
    files
        File name in the document -> image file.
    originals
        The instances it was made from.
    shadow
        Name of the bundle when it ran in shadow: for the archive only. Empty otherwise.
    delivery
        Key of the delivery that brings it.
    result
        The document, read; None where no destination asks for more than its bytes.
    objects
        Returns the DICOM objects of these kinds, in the order to send them; they are built when
        they are asked for. Raises ``Transient``.
    rejection
        Returns the DICOM object, or none, that rejects what a PACS has of earlier revisions, from
        the SOP Instance UIDs that it has of this study. Raises ``Transient``.
    sentences
        Returns what the report says of the result, for people.
    update
        How the delivery of a phase to another destination stands, UTF-8 JSON, where that is what
        is brought; empty for a result.
    """

    study_key: str
    revision: int
    phase: Phase
    document: bytes
    files: dict[str, Path]
    originals: tuple[Original, ...]
    shadow: str = ""
    delivery: str = ""
    result: Result | None = None
    objects: Callable[[frozenset[str]], Sequence[DicomObject]] = _no_objects
    rejection: Callable[[Collection[str]], Sequence[DicomObject]] = _no_objects
    sentences: Callable[[], Sequence[str]] = _no_sentences
    update: bytes = b""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a parcel that arrived.

    Attributes
    ----------
    state
        ``DONE``; or ``SENT``: whether it is kept is yet to be said; or ``COMMITTED``: it is.
    note
        What people should know of it; names no patient.
    wait_s
        How long a parcel that is ``SENT`` waits for that word.
    reached
        Whether the destination was asked: False where nothing had to be sent.
    """

    state: WorkState = WorkState.DONE
    note: str = ""
    wait_s: float = 0.0
    reached: bool = True


ARRIVED = Receipt()
"""There, and nothing more to say."""


class Destination(Protocol):
    """A place that results are delivered to."""

    def deliver(self, parcel: Parcel) -> Receipt:
        """Deliver a parcel; the same parcel again changes nothing.

        Raises
        ------
        Unwelcome
            The destination rejects this node: nothing goes there until a person says so.
        Transient
            It may arrive later: the journal tries again.
        Permanent
            It never will: the journal keeps the reason.
        """
