"""The spool: every received instance as a file, durable before anyone is told so.

``<root>/<study key>/<sop key>.dcm``. Keys are hashes: received text never reaches a path.
The data set is written byte for byte as it came, behind a file meta group of our own (PS3.10 7.1).
It streams into ``<root>/incoming/*.part`` while it arrives, hashed on the way; a small one waits in
memory and costs one write.

An instance gets its name first and is synced then, file before folder: a file system with a journal
commits both at once. The file says the SHA-256 of its own data set, so a power cut at any point
leaves what can be told apart:

before the name        a part file, which the next start removes
before both syncs end  nobody was told Success. A whole instance under its name gets its row at the
                       next start, synced first; one that does not match its SHA-256 is set aside,
                       and stands in nobody's way before either
after them             data, inode and name are on the disk

Who finds the name taken while its writer has not synced waits for it: the writer holds a lock on
the file, which the kernel lets go when it is done, or dead. If its sync failed, the name is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import mmap
import os
import re
import shutil
import struct
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from limen.durable import sync_folder
from limen.errors import OutOfSpace, Unreadable
from limen.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from limen.uids import KEY_LENGTH, key_of
from scp.header import CutOff, Elements, Identity

__all__ = [
    "REFUSED",
    "TORN",
    "Kept",
    "Part",
    "Spool",
]

log = structlog.get_logger("scp.spool")

_INCOMING, _SUFFIX, _PART = "incoming", ".dcm", ".part"
_PREAMBLE = bytes(128) + b"DICM"  # zeroed: a received preamble may be a program (CVE-2019-11687)
_IN_MEMORY_BYTES = 64 * 1024
_CHECK_SPACE_BYTES = 16 << 20
TORN, REFUSED = ".torn", ".refused"
_STUDY = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")
_SEAL_BYTES = 32  # SHA-256, the last bytes of the file meta group
_OPEN_FOLDERS = 64
_CLOCK_GRAIN_S = 0.05  # file systems stamp with a coarser clock


@dataclass(frozen=True, slots=True)
class Kept:
    """An instance in the spool.

    Attributes
    ----------
    path
        Relative to the root of the spool.
    digest
        SHA-256 of the encoded data set, without file meta.
    size_bytes
        Size of the file.
    new
        False when the same bytes were kept before.
    """

    path: str
    digest: str
    size_bytes: int
    new: bool


class Spool:
    """The folder of received instances. Several processes may share it.

    Parameters
    ----------
    root
        Its folder; created when absent.
    min_free_bytes
        Watermark: with less free space nothing is written.
    owner
        Marks the part files of this process, so that another can remove them after its death.
    """

    def __init__(self, root: Path, min_free_bytes: int, owner: str = "") -> None:
        self.root = root
        self.owner = owner or uuid.uuid4().hex
        self._incoming = root / _INCOMING
        self._min_free_bytes = min_free_bytes
        self._failed = False
        self._making_folder = threading.Lock()
        self._folders: dict[str, _Folder] = {}
        self._numbers = itertools.count()
        self._started_s = time.time() - _CLOCK_GRAIN_S
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        sync_folder(root.parent)
        sync_folder(root)  # a folder that the run before made, but did not get to sync

    def check_space(self, wanted_bytes: int = 0) -> None:
        """Raise ``OutOfSpace`` under the watermark, or after the disk failed."""
        if self._failed:
            raise OutOfSpace("the disk failed; restart the receiver when it is repaired")
        free = shutil.disk_usage(self.root).free
        if free - wanted_bytes < self._min_free_bytes:
            raise OutOfSpace("no space is left under the watermark scp.min_free_bytes")

    def begin(self, sop_class_uid: str, sop_uid: str, transfer_syntax: str, peer: str) -> Part:
        """Return where the data set of an instance can be written to.

        Raises
        ------
        OutOfSpace
            Under the watermark, or the disk failed.
        """
        try:
            self.check_space()
        except OSError as exc:  # the folder is gone, or its disk
            raise self.failure(exc) from exc
        return Part(self, _file_meta(sop_class_uid, sop_uid, transfer_syntax, peer))

    def new_part(self) -> Path:
        """Return the path of a part file that is nobody's yet."""
        return self._incoming / f"{self.owner}-{next(self._numbers)}{_PART}"

    def publish(
        self, part: Path, descriptor: int, identity: Identity, digest: str
    ) -> tuple[str, bool]:
        """Give a written part its name, durably; return path and whether it is new.

        ``link`` never overwrites, so two senders, or two processes, can race.

        Parameters
        ----------
        descriptor
            Of the part; closing it ends the lock.
        """
        study_key, sop_key = key_of(identity.study_uid), key_of(identity.sop_uid)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            folder = self._open_folder(study_key)
            try:
                name, new = self._link(part, folder, sop_key, digest)
            except FileNotFoundError:  # purged a moment ago, or its writer failed
                self._folders.pop(study_key, None)
                folder = self._open_folder(study_key)
                name, new = self._link(part, folder, sop_key, digest)
        finally:
            with contextlib.suppress(OSError):  # the next start removes it
                part.unlink()
        try:
            if new:
                os.fsync(descriptor)
            os.fsync(folder.descriptor)  # the name may be another's, who is not here yet
        except OSError:
            if new:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder.descriptor)
            raise
        return f"{study_key}/{name}", new

    def set_aside(self, relative: str, suffix: str) -> None:
        """Take the name of an instance from a file; it is kept beside under a name of its own.

        Parameters
        ----------
        suffix
            ``TORN``: it is no whole instance. ``REFUSED``: the journal does not take its row.
        """
        path = self.root / relative
        aside = path.with_suffix(suffix)
        if aside.exists():
            aside = path.with_suffix(f".{uuid.uuid4().hex[:8]}{suffix}")
        with contextlib.suppress(OSError):  # the next start tries again
            path.rename(aside)

    def failure(self, error: OSError) -> OutOfSpace:
        """Return what an error of the disk means; after EIO nothing more is accepted.

        After a failed fsync the kernel may have dropped the pages: nothing that follows on this
        disk can be trusted.
        """
        if error.errno == errno.EIO:
            self._failed = True
        return OutOfSpace(f"the spool cannot be written ({os.strerror(error.errno or 0)})")

    def _open_folder(self, study_key: str) -> _Folder:
        """Open a study's folder; nobody may write into one that is not on the disk yet.

        Another process may have made it without having synced the root yet, so each syncs once. It
        stays open: names are given, and synced, through the descriptor, so that they cannot go to
        one folder and the sync to another that has taken its place.
        """
        folder = self._folders.get(study_key)
        if folder is not None:
            return folder
        with self._making_folder:
            if study_key not in self._folders:
                path = self.root / study_key
                path.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self.root)
                while len(self._folders) >= _OPEN_FOLDERS:
                    del self._folders[next(iter(self._folders))]
                self._folders[study_key] = _Folder(path)
            return self._folders[study_key]

    def _link(self, part: Path, folder: _Folder, sop_key: str, digest: str) -> tuple[str, bool]:
        for name in (f"{sop_key}{_SUFFIX}", f"{sop_key}-{digest[:16]}{_SUFFIX}"):
            try:
                os.link(part, name, dst_dir_fd=folder.descriptor)
            except FileExistsError:
                if _is_kept(folder.path / name, digest):
                    return name, False
                continue
            return name, True
        raise FileExistsError(errno.EEXIST, "instance exists with other bytes")

    def remove_parts(self, owner: str = "") -> int:
        """Remove what a crash left half-written; return how many files that was.

        What is younger than this object, or locked, is being written right now, by a thread of
        ours or another receiver, and is left alone; unless it is of ``owner``, a process that has
        ended.
        """
        removed = 0
        for part in self._incoming.glob(f"{owner}-*{_PART}" if owner else f"*{_PART}"):
            with contextlib.suppress(OSError):  # gone, or the next start removes it
                if owner or (part.stat().st_mtime < self._started_s and not _is_locked(part)):
                    part.unlink()
                    removed += 1
        return removed

    def studies(self) -> list[str]:
        """Return the key of every study that has a folder, the one that changed last first.

        Whatever else lies in the spool, such as ``lost+found``, is passed over.
        """
        found = []
        with os.scandir(self.root) as folders:
            for folder in folders:
                if _STUDY.fullmatch(folder.name):
                    with contextlib.suppress(FileNotFoundError):  # purged a moment ago
                        found.append((folder.stat().st_mtime_ns, folder.name))
        return [name for _, name in sorted(found, reverse=True)]

    def paths(self, study_key: str) -> list[str]:
        """Return the relative path of every kept instance of a study."""
        try:
            names = os.listdir(self.root / study_key)
        except FileNotFoundError:  # nothing came, or it was purged
            return []
        except OSError as exc:  # the disk failed: the other studies go on
            log.warning("spool.not_read", path=study_key, error=exc)
            return []
        return [f"{study_key}/{name}" for name in sorted(names) if name.endswith(_SUFFIX)]


class _Folder:
    """An open folder, closed when nobody holds it any more: never while another thread syncs it."""

    __slots__ = ("descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.descriptor)


class Part:
    """A data set on its way into the spool. Used by one thread; ``keep`` or ``discard`` ends it.

    The first 64 KiB stay in memory, where the UIDs are read; what is longer goes to a part file as
    it comes.
    """

    def __init__(self, spool: Spool, meta: bytes) -> None:
        self._spool = spool
        self._meta = meta
        self._head = bytearray()
        self._sha = hashlib.sha256()
        self._path: Path | None = None
        self._descriptor = -1
        self._checked_bytes = 0
        self.size_bytes = 0

    def write(self, chunk: memoryview) -> None:
        """Take the next bytes.

        Raises
        ------
        OutOfSpace
            The disk is full or failed; the part is gone.
        """
        self._sha.update(chunk)
        self.size_bytes += len(chunk)
        before, rest = len(self._head), chunk
        if self._descriptor < 0:
            self._head += chunk[: _IN_MEMORY_BYTES - before]
            if self.size_bytes <= _IN_MEMORY_BYTES:
                return
            rest = chunk[len(self._head) - before :]
        try:
            if self._descriptor < 0:
                self._open()
            if self.size_bytes - self._checked_bytes >= _CHECK_SPACE_BYTES:
                self._checked_bytes = self.size_bytes
                self._spool.check_space()
            _write(self._descriptor, rest)
        except OSError as exc:
            self.discard()
            raise self._spool.failure(exc) from exc
        except OutOfSpace:
            self.discard()
            raise

    def identity(self, transfer_syntax: str) -> Identity:
        """Read the UIDs of the data set, once it is whole.

        Raises
        ------
        Unreadable
            It cannot be parsed, or a UID is missing or malformed.
        """
        try:
            return Identity.of(self._head, transfer_syntax)
        except CutOff:
            if self._descriptor < 0:
                raise
        start = len(self._meta)
        with (
            mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as whole,
            memoryview(whole) as view,
            view[start:] as data_set,
        ):
            return Identity.of(data_set, transfer_syntax)

    def keep(self, identity: Identity) -> Kept:
        """Make the instance durable; return only when file and folder are on the disk.

        The same bytes again are kept once. Other bytes under the same SOP Instance UID are kept
        beside the first.

        Raises
        ------
        OutOfSpace
            Under the watermark, or the disk failed; nothing is left behind.
        """
        digest, unsealed = self._sha.hexdigest(), len(self._meta) - _SEAL_BYTES
        try:
            if self._descriptor < 0:
                self._spool.check_space(self.size_bytes)
                self._meta = self._meta[:unsealed] + self._sha.digest()
                self._open()
            else:
                os.pwrite(self._descriptor, self._sha.digest(), unsealed)
            assert self._path is not None  # noqa: S101 - set by _open
            path, new = self._spool.publish(self._path, self._descriptor, identity, digest)
            self._path = None  # publish leaves no part behind
        except OSError as exc:
            raise self._spool.failure(exc) from exc
        finally:
            self.discard()
        return Kept(path, digest, len(self._meta) + self.size_bytes, new)

    def discard(self) -> None:
        """Leave nothing behind. Does nothing after ``keep``, or the second time."""
        self._close()
        if self._path is not None:
            with contextlib.suppress(OSError):  # the next start removes it
                self._path.unlink(missing_ok=True)
            self._path = None

    def _open(self) -> None:
        self._path = self._spool.new_part()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # until it is closed: this part is alive
        _write(self._descriptor, memoryview(self._meta + self._head))

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Found:
    """What the spool itself knows of a kept instance; enough to write its journal row again."""

    identity: Identity
    transfer_syntax: str
    peer: str
    digest: str
    size_bytes: int
    received_s: float


def examine(path: Path) -> Found:
    """Read a kept instance back, and sync it: its writer may have died before it did.

    Raises
    ------
    Unreadable
        It is not a file that ``Part.keep`` wrote, or not all of it.
    """
    with path.open("rb") as file:
        _settle(file, path)
        stat = os.fstat(file.fileno())
        try:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as exc:  # an empty file
            raise Unreadable("not an instance of the spool (empty)") from exc
        with whole, memoryview(whole) as view:
            start = _offset(view)
            with view[144:start] as meta:
                syntax, peer = _meta_text(meta, 0x00020010), _meta_text(meta, 0x00020016)
                seal = _meta_bytes(meta, 0x00020102)
            if not syntax:
                raise Unreadable("not an instance of the spool (no transfer syntax)")
            with view[start:] as data_set:
                digest = hashlib.sha256(data_set).hexdigest()
                if seal.hex() != digest:
                    raise Unreadable("not all of an instance (its SHA-256 does not match)")
                identity = Identity.of(data_set, syntax)
    sync_folder(path.parent)
    return Found(identity, syntax, peer, digest, stat.st_size, stat.st_mtime)


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_kept(path: Path, digest: str) -> bool:
    """Return whether a file holds this data set, and on the disk.

    Raises
    ------
    FileNotFoundError
        It is gone, or its writer has just taken it back.
    """
    with path.open("rb") as file, contextlib.suppress(Unreadable):
        _settle(file, path)
        return _digest(file) == digest
    return False


def _settle(file: BinaryIO, path: Path) -> None:
    """Wait for whoever is writing a file, and sync it, which is for nothing if they have."""
    fcntl.flock(file, fcntl.LOCK_SH)
    if not os.path.samestat(path.stat(), os.fstat(file.fileno())):
        raise FileNotFoundError(errno.ENOENT, "its writer failed, and another has come since")
    os.fsync(file.fileno())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the encoded data set in a kept file.

    Raises
    ------
    Unreadable
        It is not a file that ``Part.keep`` wrote.
    """
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    file.seek(_offset(file.read(144)))
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _offset(head: bytes | memoryview) -> int:
    """Where the data set starts: behind (0002,0000), the length of the file meta group."""
    if len(head) < 144 or bytes(head[128:140]) != b"DICM\x02\0\0\0UL\x04\0":
        raise Unreadable("not an instance of the spool (no file meta information)")
    return 144 + int.from_bytes(head[140:144], "little")


def _meta_text(meta: memoryview, wanted: int) -> str:
    return _meta_bytes(meta, wanted).decode("latin-1").strip("\0 ")


def _meta_bytes(meta: memoryview, wanted: int) -> bytes:
    for tag, start, end in Elements(meta, implicit_vr=False):
        if tag == wanted:
            return bytes(meta[start:end])
    return b""


def _file_meta(sop_class_uid: str, sop_uid: str, transfer_syntax: str, peer: str) -> bytes:
    """Return preamble, prefix and file meta group (PS3.10 Table 7.1-1).

    Private Information (0002,0102), its last element, is zeros for the SHA-256 of the data set.
    """
    group = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01"
    for element, vr, text in (
        (0x0002, b"UI", sop_class_uid),
        (0x0003, b"UI", sop_uid),
        (0x0010, b"UI", transfer_syntax),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        (0x0016, b"AE", peer),
        (0x0100, b"UI", IMPLEMENTATION_CLASS_UID),
    ):
        group += _element(element, vr, text)
    group += struct.pack("<HH2sHI", 0x0002, 0x0102, b"OB", 0, _SEAL_BYTES) + bytes(_SEAL_BYTES)
    return _PREAMBLE + struct.pack("<HH2sHI", 0x0002, 0, b"UL", 4, len(group)) + group


@functools.lru_cache(maxsize=256)
def _element(element: int, vr: bytes, text: str) -> bytes:
    """Encode an element of the file meta group; all but one are the same again and again."""
    value = text.encode("latin-1", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _write(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]
