"""DICOM files named on a command line, grouped into studies, and what it takes to analyse them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limen import __version__, config
from limen.errors import ConfigError
from limen.result import Provenance, Timings

if TYPE_CHECKING:  # pydicom, Pillow and TensorFlow: --help does not wait for them
    from worker.bundles.bundle import Bundle
    from worker.dicom.decoder import Decoder
    from worker.serving.engine import Engine
    from worker.study.parts import Instance, Read, Stamp

__all__ = [
    "bundle_folder",
    "by_study",
    "find_files",
    "instances",
    "open_decoder",
    "open_engine",
    "paths_of",
    "stamp",
]

_PREAMBLE_BYTES: Final = 128
_PREFIX: Final = b"DICM"


def find_files(given: Sequence[Path]) -> tuple[list[Path], int]:
    """Return the files to read, sorted, and how many others lay in the folders.

    A file that was named is always tried; of a folder, what starts like DICOM.
    """
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(missing)}; check the path")
    found: set[Path] = set()
    skipped = 0
    for path in given:
        inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else []
        dicom = {p for p in inside if _looks_like_dicom(p)}
        skipped += len(inside) - len(dicom)
        found |= dicom if path.is_dir() else {path}
    if not found:
        raise ConfigError("no DICOM file there; give files, or a folder that holds some")
    return sorted(found), skipped


def _looks_like_dicom(path: Path) -> bool:
    """Return True for a file with the DICM prefix (PS3.10 7.1) that is no DICOMDIR."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + len(_PREFIX))[_PREAMBLE_BYTES:] == _PREFIX
    except OSError:
        return True  # it is told as unreadable


def bundle_folder(settings: config.Config, name: str) -> Path:
    """Return the folder of a bundle that ships with Limen, or of a path."""
    folder = settings.bundle_dir(name)
    if not folder.is_dir():
        raise ConfigError(
            f"no model bundle {name!r}: neither shipped nor a folder; "
            f"shipped are those in {config.SHIPPED_BUNDLES}"
        )
    from worker.bundles import versions  # noqa: PLC0415 - --help waits for nothing

    if versions.has_versions(folder):
        there = versions.versions(folder)
        raise ConfigError(
            f"{folder} is a folder of versions ({', '.join(there)}); name one of them: "
            f"{folder / there[-1]}"
        )
    return folder


@contextmanager
def open_decoder(settings: config.Config) -> Iterator[Decoder]:
    """Yield a decoder with the limits of the settings."""
    from worker.dicom.decoder import Decoder  # noqa: PLC0415

    worker = settings.worker
    with Decoder(
        worker.decode_processes,
        worker.decode_timeout_s,
        worker.decode_memory_bytes,
        worker.max_pixels,
        runs_code=settings.engine.allow_code,
    ) as running:
        yield running


@contextmanager
def open_engine(settings: config.Config, bundle: Bundle) -> Iterator[Engine]:
    """Yield the engine of a bundle."""
    from worker.serving.engine import Engine  # noqa: PLC0415

    with Engine(bundle, settings.engine) as running:
        yield running


def by_study(paths: list[Path], decoder: Decoder) -> tuple[dict[str, Read], list[tuple[Path, str]]]:
    """Return what the headers say, by StudyInstanceUID, and the files that say nothing.

    A file that says nothing may be a slice of any study that has files in its folder, or of the
    only one: none of these is whole without it.
    """
    from worker.study.parts import Instance, Read, read_headers  # noqa: PLC0415

    read = read_headers([Instance(path, "", "") for path in paths], decoder)
    groups: dict[str, list[Any]] = {}
    for header in read.headers:
        groups.setdefault(header.study_uid, []).append(header)
    unreadable = [(instance.path, reason) for instance, reason in read.unreadable]
    studies = {
        uid: Read(tuple(found), tuple(_perhaps_of(found, read.unreadable, alone=len(groups) == 1)))
        for uid, found in groups.items()
    }
    return studies, unreadable


def _perhaps_of(
    headers: Sequence[Any], unreadable: Sequence[tuple[Instance, str]], *, alone: bool
) -> Iterator[tuple[Instance, str]]:
    folders = {header.path.parent for header in headers}
    return (lost for lost in unreadable if alone or lost[0].path.parent in folders)


def instances(read: Read) -> list[Instance]:
    """Return where the instances of a study are."""
    from worker.study.parts import Instance  # noqa: PLC0415

    return [Instance(h.path, h.sop_uid, h.series_uid) for h in reversed(read.headers)]


def paths_of(read: Read) -> dict[tuple[str, int], Path]:
    """Return the files of a study by SOP Instance UID and which of its contents each is."""
    from worker.study import identity  # noqa: PLC0415

    numbers = identity.copies((h.sop_uid, h.series_uid, h.path) for h in read.headers)
    return {(h.sop_uid, numbers[h.path]): h.path for h in reversed(read.headers)}


def stamp(settings: config.Config) -> Stamp:
    """Return the stamp of an analysis that begins now."""
    from worker.study.parts import Stamp  # noqa: PLC0415

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Stamp(
        revision=1,
        timings=Timings(received=now, complete=now),
        provenance=Provenance(__version__, socket.gethostname(), settings.sha256()),
    )
