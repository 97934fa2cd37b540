"""The archive: originals and results as objects that are created once and never changed.

Names are content-addressed: a retry after a lost answer finds its own object there and is done. All
of a study is below its key: ``instances/``, and ``results/<revision>-<phase>/`` with the document,
its pictures, and the DICOM objects that a PACS is sent. An original that is no longer in the spool
is brought back from here. What workers of several hosts hand on to each other is in ``made/``: see
``worker.work.results``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Protocol

from limen.durable import beside, sync_file, sync_folder
from limen.errors import OutOfSpace, Rejected, Transient
from limen.uids import key_of
from worker.destinations import ARRIVED, Original, Parcel, Receipt

__all__ = ["Archive", "ArchiveDestination", "Content", "Stored"]

_DIGEST_LENGTH = 16
_BLOCK_BYTES = 1 << 20
_AT_ONCE = 4
_META_END = 144  # of the group length of the file meta information (PS3.10 7.1)


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of an object: in memory, or in a file that is read as it is needed."""

    source: bytes | Path

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it at its beginning.

        Raises
        ------
        Transient
            The file cannot be read.
        """
        if isinstance(self.source, bytes):
            yield BytesIO(self.source)
            return
        try:
            stream = self.source.open("rb")
        except OSError as exc:
            raise _unreadable(exc) from exc
        with stream:
            yield stream

    def blocks(self) -> Iterator[bytes]:
        """Return the bytes in blocks of at most 1 MiB. Raises as ``open``."""
        with self.open() as stream:
            while block := _block(stream):
                yield block

    def sha256(self) -> str:
        """Return the digest in hexadecimal digits. Raises as ``open``."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of an archive: its name, and when it was stored, in seconds of Unix time."""

    name: str
    at_s: float


class _NotThere(Exception):
    """The archive does not hold what was received."""


class Archive(Protocol):
    """Objects that are created once and never changed."""

    def put(self, name: str, content: Content) -> None:
        """Store ``content`` as ``name``; the same again changes nothing.

        Raises
        ------
        Rejected
            ``name`` is there with other content.
        Transient
            It may work later.
        """

    def get(self, name: str, path: Path) -> bool:
        """Write an object into a new file; return False when there is no such object.

        Raises
        ------
        Transient
            It may work later.
        """

    def studies(self) -> Iterator[str]:
        """Yield the key of every study of which there is an object. Raises as ``get``."""

    def below(self, study_key: str) -> Iterator[Stored]:
        """Yield every object of a study. Raises as ``get``."""

    def remove(self, name: str) -> bool:
        """Remove an object; return False where we may not, which is as it should be in a bucket.

        Raises
        ------
        Transient
            It may work later.
        """


class ArchiveDestination:
    """Stores a parcel object by object; the document last, so that it proves the rest.

    Parameters
    ----------
    originals
        Whether the instances are stored too, not only what was made of them.
    kinds
        Sets of kinds of DICOM objects that are stored too: those that each PACS is sent.
    """

    def __init__(
        self, archive: Archive, *, originals: bool, kinds: Iterable[frozenset[str]] = ()
    ) -> None:
        self._archive = archive
        self._originals = originals
        self._kinds = tuple(dict.fromkeys(kinds))

    def deliver(self, parcel: Parcel) -> Receipt:
        """Store originals, images and document. See ``Destination``."""
        if self._originals:
            with ThreadPoolExecutor(_AT_ONCE) as pool:  # a prediction may wait for them
                list(pool.map(lambda one: self._keep(parcel, one), parcel.originals))
        if parcel.document:
            for name, content in self._objects(parcel):
                self._archive.put(name, content)
        return ARRIVED

    def _keep(self, parcel: Parcel, original: Original) -> None:
        """Store an instance; of one that was purged, or is damaged, look that it is there."""
        if _as_received(original):
            self._archive.put(_instance(parcel.study_key, original), Content(original.path))
            return
        with TemporaryDirectory(prefix="limen-") as folder:
            copy = replace(original, path=Path(folder) / "copy.dcm")
            if self.restore(parcel.study_key, copy, durable=False):
                return
        if not parcel.document and original.path.parent.is_dir():
            # A prediction waits for them: it goes on without this one, and says so.
            raise Rejected("an instance is not as it was received in the spool, nor in the archive")
        raise Transient(
            "an original cannot be read: it is not as it was received in the spool, nor in the "
            "archive; look whether the disk of the spool fails"
        )

    def restore(self, study_key: str, original: Original, *, durable: bool = True) -> bool:
        """Bring an instance back to its path, byte for byte; return whether it is there.

        What does not have the digest that the journal knows is not what was received: in the
        archive it is left, at the path its place is taken.

        Parameters
        ----------
        durable
            Whether a power cut may not take it away again.

        Raises
        ------
        Transient
            The archive does not answer, or the disk is full.
        """
        if is_received(original.path, original.digest):
            return True
        try:
            original.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with beside(original.path) as part:
                there = self._archive.get(_instance(study_key, original), part)
                if not there or digest_of(part) != original.digest:
                    raise _NotThere
                if durable:
                    sync_file(part)
        except _NotThere:
            return False
        except OSError as exc:
            raise OutOfSpace(f"an original cannot be brought back ({exc.strerror})") from exc
        if durable:
            sync_folder(original.path.parent)
        return True

    def kept(self, study_key: str, part: str, name: str, digest: str) -> bytes | None:
        """Return a result file with that SHA-256; None when there is none.

        Parameters
        ----------
        part
            ``<revision>-<phase>``.

        Raises
        ------
        Transient
            The archive does not answer.
        """
        stem, dot, suffix = name.rpartition(".")
        addressed = f"{stem}-{digest[:_DIGEST_LENGTH]}{dot}{suffix}"
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            if not self._archive.get(f"{study_key}/results/{part}/{addressed}", path):
                return None
            body = path.read_bytes()
        return body if hashlib.sha256(body).hexdigest() == digest else None

    def _objects(self, parcel: Parcel) -> Iterator[tuple[str, Content]]:
        part = f"shadow-{parcel.shadow}" if parcel.shadow else parcel.phase.value
        folder = f"{parcel.study_key}/results/{parcel.revision}-{part}"
        for name, path in parcel.files.items():
            yield _addressed(folder, name, Content(path))
        for kinds in self._kinds:
            for one in parcel.objects(kinds):
                if one.path is not None:
                    name = f"{one.kind}-{key_of(one.sop_uid)}.dcm"
                    yield _addressed(folder, name, Content(one.path))
        yield _addressed(folder, "result.json", Content(parcel.document))


def _instance(study_key: str, original: Original) -> str:
    name = f"{original.sop_key}-{original.digest[:_DIGEST_LENGTH]}.dcm"
    return f"{study_key}/instances/{name}"


def _as_received(original: Original) -> bool:
    try:
        return digest_of(original.path) == original.digest
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise _unreadable(exc) from exc


def is_received(path: Path, digest: str) -> bool:
    """Return whether a file is there, can be read, and holds the data set of that digest."""
    try:
        return digest_of(path) == digest
    except OSError:
        return False


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the encoded data set of a file as the receiver writes it."""
    with path.open("rb") as file:
        head = file.read(_META_END)
        file.seek(_META_END + int.from_bytes(head[-4:], "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _addressed(folder: str, name: str, content: Content) -> tuple[str, Content]:
    stem, dot, suffix = name.rpartition(".")
    return f"{folder}/{stem}-{content.sha256()[:_DIGEST_LENGTH]}{dot}{suffix}", content


def _block(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_BLOCK_BYTES)
    except OSError as exc:
        raise _unreadable(exc) from exc


def _unreadable(error: OSError) -> Transient:
    return Transient(f"a file of the parcel cannot be read ({error.strerror})")
