"""Result files that any worker can read, whichever host made them.

Where workers share the folder of results that is the outbox. Else what is made is packed, and put
into the archive before the journal commits it, in ``<study key>/made/``; whoever needs it fetches
it into the cache of its host. A pack is a ZIP file, not compressed, with the SHA-256 of each of its
files in ``digests.json``: a copy that is not what was made is fetched again, and never read. A
folder without that file was not put into the archive yet.

The document of a phase is the one whose digest the journal has committed. What has no such digest
(what bundles say in shadow, and DICOM objects) is what was put first: it is built once for all.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from limen.durable import beside
from limen.errors import Delayed, Permanent, Rejected, Transient
from limen.result import Phase, Result
from worker.destinations.archive import Archive, Content
from worker.work.cache import Cache
from worker.work.outbox import DOCUMENT, Outbox

__all__ = ["ArchivedResults", "ResultStore"]

_DIGESTS = "digests.json"
_SHADOW = "shadow-"
_DIGEST_LENGTH = 16
_DEPTH_OF_OBJECTS = 2  # <revision>/objects-<phase>/<kinds>
_LOCKS = 16


class ResultStore(Protocol):
    """Result files of every phase, and the DICOM objects that are built of them."""

    def write(
        self, study_key: str, result: Result, files: dict[str, bytes], shadow: str = ""
    ) -> str:
        """Keep a document and its files before the journal commits them; see ``Outbox.write``.

        Raises
        ------
        Transient
            They cannot be kept now.
        """

    def read(self, study_key: str, revision: int, phase: Phase) -> tuple[Result, bytes]:
        """Return a document, parsed and as its bytes.

        Raises
        ------
        Transient
            It is not there, or cannot be had now.
        """

    def files(self, study_key: str, result: Result) -> dict[str, Path]:
        """Return where each file is that a document names. Raises as ``read``."""

    def shadow(self, study_key: str, revision: int, name: str) -> bytes | None:
        """Return the document of a bundle that ran in shadow, or None when it did not yet.

        Raises
        ------
        Transient
            It cannot be had now.
        """

    def objects(self, study_key: str) -> Path:
        """Return the folder with all DICOM objects that were built of a study: see ``Sendable``.

        Raises
        ------
        Transient
            They cannot be had now.
        """

    def share(self, study_key: str, folder: Path) -> None:
        """Keep a folder of ``objects`` for all workers; one that was there before takes its place.

        Raises
        ------
        Transient
            It cannot be kept now.
        """


class ArchivedResults:
    """Results that go through the archive.

    Parameters
    ----------
    committed
        Returns the SHA-256 of the document that the journal has of a study, revision and phase;
        empty: it has none.
    """

    def __init__(
        self, cache: Cache, archive: Archive, committed: Callable[[str, int, Phase], str]
    ) -> None:
        self._root = cache.root
        self._outbox = Outbox(cache.root, durable=False)
        self._archive = archive
        self._committed = committed
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def write(
        self, study_key: str, result: Result, files: dict[str, bytes], shadow: str = ""
    ) -> str:
        """Write it here, and put it into the archive. See ``ResultStore``."""
        with _delayed("results cannot be put into the archive"):
            digest = self._outbox.write(study_key, result, files, shadow)
            part = f"{_SHADOW}{shadow}" if shadow else result.phase.value
            folder = self._root / study_key / str(result.revision) / part
            self._put(folder, _named(study_key, result.revision, part, digest))
        return digest

    def read(self, study_key: str, revision: int, phase: Phase) -> tuple[Result, bytes]:
        """Return the committed document. See ``ResultStore``."""
        self._have(study_key, revision, phase)
        return self._outbox.read(study_key, revision, phase)

    def files(self, study_key: str, result: Result) -> dict[str, Path]:
        """Return the files of a committed document. See ``ResultStore``."""
        for phase in {result.phase, Phase.PREDICTION}:
            self._have(study_key, result.revision, phase)
        return self._outbox.files(study_key, result)

    def shadow(self, study_key: str, revision: int, name: str) -> bytes | None:
        """Return what was put first. See ``ResultStore``."""
        folder = self._root / study_key / str(revision) / f"{_SHADOW}{name}"
        with _delayed("results cannot be fetched from the archive"):
            there = self._fetch(folder, _named(study_key, revision, folder.name))
        return self._outbox.shadow(study_key, revision, name) if there else None

    def objects(self, study_key: str) -> Path:
        """Fetch what was built anywhere. See ``ResultStore``."""
        root, prefix = self._root / study_key, f"{study_key}/made/"
        with _delayed("DICOM objects cannot be fetched from the archive"):
            names = [one.name for one in self._archive.below(study_key)]
            for name in names:
                inner = name.removeprefix(prefix).removesuffix(".zip")
                if name.startswith(prefix) and inner.count("/") == _DEPTH_OF_OBJECTS:
                    self._fetch(root / inner, name)
        return root

    def share(self, study_key: str, folder: Path) -> None:
        """Put it into the archive. See ``ResultStore``."""
        inner = folder.relative_to(self._root / study_key)
        if not _is_sound(folder, ""):
            with _delayed("DICOM objects cannot be put into the archive"):
                self._put(folder, f"{study_key}/made/{inner}.zip")

    def _have(self, study_key: str, revision: int, phase: Phase) -> None:
        """See to it that the committed files of a phase are here.

        Raises
        ------
        Transient
            They are not to be had, or not now.
        """
        digest = self._committed(study_key, revision, phase)
        if not digest:
            raise Transient(f"the journal does not know the {phase.value} of {study_key}")
        folder = self._root / study_key / str(revision) / phase.value
        with _delayed("results cannot be fetched from the archive"):
            if not self._fetch(folder, _named(study_key, revision, phase.value, digest), digest):
                raise Transient(f"result files of {study_key} are not in the archive")

    def _put(self, folder: Path, name: str) -> None:
        """Put a folder into the archive; where it holds another, that one is taken."""
        digests = json.dumps(_digests(folder), sort_keys=True).encode()
        with self._lock_of(folder):
            with _temporary(folder) as pack:
                _pack(folder, digests, pack)
                try:
                    self._archive.put(name, Content(pack))
                except Rejected:
                    if not self._get(folder, name):
                        raise
                    return
            (folder / _DIGESTS).write_bytes(digests)  # now it is sound: everybody has it

    def _fetch(self, folder: Path, name: str, digest: str = "") -> bool:
        """See to it that a pack is here, as it was made; return whether there is one.

        Parameters
        ----------
        digest
            Of the document in it; empty: it has none of its own.
        """
        with self._lock_of(folder):
            return _is_sound(folder, digest) or self._get(folder, name, digest)

    def _get(self, folder: Path, name: str, digest: str = "") -> bool:
        """Replace a folder by what a pack holds; return whether there is one."""
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _temporary(folder) as pack:
            if not self._archive.get(name, pack):
                return False
            with beside(folder) as part:
                if not _unpack(pack, part) or not _is_sound(part, digest):
                    raise Transient(f"{name} is damaged in the archive")
        return True

    def _lock_of(self, folder: Path) -> threading.Lock:
        """Return what is held while a folder is compared and replaced; folders may share one."""
        return self._locks[hash(folder) % len(self._locks)]


def _named(study_key: str, revision: int, part: str, digest: str = "") -> str:
    """Return the name of a pack; that of a shadow is the same whatever it says."""
    addressed = part if part.startswith(_SHADOW) else f"{part}-{digest[:_DIGEST_LENGTH]}"
    return f"{study_key}/made/{revision}/{addressed}.zip"


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Yield the path of a file on the disk of a folder, which is removed at the end."""
    with TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        yield Path(temporary) / "pack"


@contextmanager
def _delayed(what: str) -> Iterator[None]:
    """Say of an archive that is away, and of a full disk, that they are no fault of the work."""
    try:
        yield
    except (Permanent, Delayed):
        raise
    except Transient as exc:
        raise Delayed(f"{what}: {exc}") from exc
    except OSError as exc:
        raise Delayed(f"{what} ({exc.strerror})") from exc


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _DIGESTS:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _is_sound(folder: Path, digest: str) -> bool:
    """Return whether a folder holds what was made, and the document that is asked for."""
    try:
        known: dict[str, str] = json.loads((folder / _DIGESTS).read_bytes())
        return known == _digests(folder) and digest in {"", known.get(DOCUMENT)}
    except (OSError, ValueError):
        return False


def _pack(folder: Path, digests: bytes, pack: Path) -> None:
    """Write the files of a folder as one, the same bytes each time."""
    with zipfile.ZipFile(pack, "w") as file:
        file.writestr(zipfile.ZipInfo(_DIGESTS), digests)
        for path in sorted(folder.iterdir()):
            if path.name != _DIGESTS:
                file.writestr(zipfile.ZipInfo(path.name), path.read_bytes())


def _unpack(pack: Path, folder: Path) -> bool:
    """Write what is in a pack into a new folder; return whether it could be read."""
    folder.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(pack) as file:
            for name in file.namelist():
                (folder / Path(name).name).write_bytes(file.read(name))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, NotImplementedError, EOFError):
        return False
    return True
