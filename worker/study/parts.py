"""The parts of a study: what goes in, what its headers say, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limen.errors import Unreadable
from limen.result import Provenance, Result, Timings
from worker.dicom.decoder import Decoder, Header

__all__ = [
    "Instance",
    "Places",
    "Progress",
    "Read",
    "Stamp",
    "StudyOutput",
    "path_of",
    "read_headers",
]

Progress = Callable[[int, int], None]
"""Called with how many slices are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as the journal knows it; the file itself may be unreadable.

    Attributes
    ----------
    fault
        Why there is no file; empty where there is one.
    """

    path: Path
    sop_uid: str
    series_uid: str
    fault: str = ""


Places = Mapping[tuple[str, int], Instance]
"""Where the instances of a study are, by SOP Instance UID and copy."""


def path_of(instance: Instance | None) -> Path:
    """Return the file of an instance that a result names.

    Raises
    ------
    Unreadable
        There is none, with the reason.
    """
    if instance is None:
        raise Unreadable("its instance is not among those of the study")
    if instance.fault:
        raise Unreadable(instance.fault)
    return instance.path


@dataclass(frozen=True, slots=True)
class Read:
    """What the headers of a study say, and the instances that say nothing, with the reason."""

    headers: tuple[Header, ...]
    unreadable: tuple[tuple[Instance, str], ...]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What only the caller knows of a document; it goes in as it is."""

    revision: int
    timings: Timings
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class StudyOutput:
    """A result document and the new files it names: file name to PNG."""

    result: Result
    files: dict[str, bytes]


def read_headers(instances: Sequence[Instance], decoder: Decoder) -> Read:
    """Read the headers of a study; what cannot be read is kept with its reason."""
    headers: list[Header] = []
    unreadable: list[tuple[Instance, str]] = []
    unreadable += [(instance, instance.fault) for instance in instances if instance.fault]
    there = [instance for instance in instances if not instance.fault]
    found = decoder.headers([instance.path for instance in there])
    for instance, header in zip(there, found, strict=True):
        if isinstance(header, Unreadable):
            unreadable.append((instance, str(header)))
        else:
            headers.append(header)
    return Read(tuple(headers), tuple(unreadable))
