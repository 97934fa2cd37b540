"""The spool: every received instance as a file, durable before anyone is told so.

``<root>/<study key>/<sop key>.dcm``. Keys are hashes: received text never reaches a path.
The data set is written byte for byte as it came, behind a file meta group of our own (PS3.10 7.1).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import UID, ImplicitVRLittleEndian

from limen import __version__
from limen.durable import sync_folder, write_new
from limen.errors import OutOfSpace, Unreadable
from limen.uids import derived_uid, is_uid, key_of

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME", "Identity", "Kept", "Spool"]

IMPLEMENTATION_CLASS_UID = derived_uid("limen", "implementation")
IMPLEMENTATION_VERSION_NAME = f"LIMEN_{__version__}"[:16]

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_SUFFIX, _PART = ".dcm", ".part"
_PREAMBLE = bytes(128) + b"DICM"  # zeroed: a received preamble may be a program (CVE-2019-11687)


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs that place an instance (PS3.3 C.7.2.1, C.7.3.1, C.12.1)."""

    sop_class_uid: str
    sop_uid: str
    study_uid: str
    series_uid: str

    @classmethod
    def of(cls, data_set: bytes, transfer_syntax: str) -> Identity:
        """Read the UIDs from the beginning of an encoded data set.

        Raises
        ------
        Unreadable
            It cannot be parsed up to (0020,000E), or a UID is missing or malformed.
        """
        syntax = UID(transfer_syntax)

        def past_series(tag: BaseTag, _vr: str | None, _length: int) -> bool:
            return int(tag) > _SERIES

        try:
            ds = read_dataset(
                BytesIO(data_set),
                is_implicit_VR=syntax == ImplicitVRLittleEndian,
                is_little_endian=True,
                stop_when=past_series,
                specific_tags=[BaseTag(t) for t in (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES)],
            )
            uids = [_uid(ds, t) for t in (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES)]
        except Unreadable:
            raise
        # Whatever a stranger's bytes provoke in the parser, deep nesting included.
        except (Exception, RecursionError) as exc:
            raise Unreadable(f"data set cannot be parsed ({type(exc).__name__})") from exc
        return cls(*uids)


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
    """The folder of received instances.

    Parameters
    ----------
    root
        Its folder; created when absent.
    min_free_bytes
        Watermark: with less free space nothing is written.
    """

    def __init__(self, root: Path, min_free_bytes: int) -> None:
        self.root = root
        self._min_free_bytes = min_free_bytes
        self._failed = False
        self._making_folder = threading.Lock()
        self._started_s = time.time()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync_folder(root.parent)
        sync_folder(root)  # a folder that the run before made, but did not get to sync

    def check_space(self, wanted_bytes: int = 0) -> None:
        """Raise ``OutOfSpace`` under the watermark, or after the disk failed."""
        if self._failed:
            raise OutOfSpace("the disk failed; restart the receiver when it is repaired")
        free = shutil.disk_usage(self.root).free
        if free - wanted_bytes < self._min_free_bytes:
            raise OutOfSpace("no space is left under the watermark scp.min_free_bytes")

    def keep(self, identity: Identity, data_set: bytes, transfer_syntax: str, peer: str) -> Kept:
        """Write an instance; return only when file and folder are on the disk.

        The same bytes again are kept once. Other bytes under the same SOP Instance UID are kept
        beside the first.

        Raises
        ------
        OutOfSpace
            Under the watermark, or the disk failed; nothing is left behind.
        """
        self.check_space(len(data_set))
        digest = hashlib.sha256(data_set).hexdigest()
        head = _file_meta(identity, transfer_syntax, peer)
        folder = self.root / key_of(identity.study_uid)
        sop_key = key_of(identity.sop_uid)
        part = folder / f"{uuid.uuid4().hex}{_PART}"
        try:
            with self._making_folder:  # nobody may see a folder that is not on the disk yet
                if not folder.exists():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    sync_folder(self.root)
            write_new(part, head, data_set)
            name, new = self._publish(part, folder, sop_key, digest)
        except OSError as exc:
            with contextlib.suppress(OSError):  # the next start removes it
                part.unlink(missing_ok=True)
            # After a failed fsync the kernel may have dropped the pages: nothing that follows
            # on this disk can be trusted, so nothing more is accepted.
            if exc.errno == errno.EIO:
                self._failed = True
            raise OutOfSpace(
                f"the spool cannot be written ({os.strerror(exc.errno or 0)})"
            ) from exc
        path = folder / name
        return Kept(str(path.relative_to(self.root)), digest, path.stat().st_size, new)

    def _publish(self, part: Path, folder: Path, sop_key: str, digest: str) -> tuple[str, bool]:
        """Give the finished part its name. ``link`` never overwrites, so two senders can race."""
        try:
            for name in (f"{sop_key}{_SUFFIX}", f"{sop_key}-{digest[:16]}{_SUFFIX}"):
                try:
                    os.link(part, folder / name)
                except FileExistsError:
                    if digest_of(folder / name) == digest:
                        return name, False
                    continue
                return name, True
            raise FileExistsError(errno.EEXIST, "instance exists with other bytes")
        finally:
            part.unlink(missing_ok=True)
            sync_folder(folder)

    def remove_parts(self) -> int:
        """Remove what a crash left half-written; return how many files that was.

        What is younger than this object is being written right now, and is left alone.
        """
        removed = 0
        for part in self.root.glob(f"*/*{_PART}"):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < self._started_s:
                    part.unlink()
                    removed += 1
        return removed

    def paths(self) -> Iterator[str]:
        """Yield the relative path of every kept instance."""
        with os.scandir(self.root) as folders:
            for folder in folders:
                if not folder.is_dir():
                    continue
                with os.scandir(folder) as files:
                    names = [f.name for f in files if f.name.endswith(_SUFFIX)]
                yield from (f"{folder.name}/{name}" for name in sorted(names))


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
    """Read a kept instance back.

    Raises
    ------
    Unreadable
        It is not a file that ``Spool.keep`` wrote.
    """
    try:
        with path.open("rb") as file:
            meta = dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta
            syntax = str(meta.TransferSyntaxUID)
            peer = str(meta.get("SourceApplicationEntityTitle", ""))
            offset = _offset(file)
            file.seek(offset)
            data_set = file.read()
    except (Exception, RecursionError) as exc:
        raise Unreadable(f"not an instance of the spool ({type(exc).__name__})") from exc
    stat = path.stat()
    digest = hashlib.sha256(data_set).hexdigest()
    return Found(Identity.of(data_set, syntax), syntax, peer, digest, stat.st_size, stat.st_mtime)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the encoded data set in a kept file."""
    with path.open("rb") as file:
        file.seek(_offset(file))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _offset(file: object) -> int:
    """Where the data set starts: behind (0002,0000), the length of the file meta group."""
    file.seek(132 + 8)  # type: ignore[attr-defined]
    length = int.from_bytes(file.read(4), "little")  # type: ignore[attr-defined]
    return 132 + 12 + length


def _file_meta(identity: Identity, transfer_syntax: str, peer: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(identity.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(identity.sop_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = peer
    buffer = BytesIO()
    buffer.write(_PREAMBLE)
    write_file_meta_info(buffer, meta)  # type: ignore[arg-type]
    return buffer.getvalue()


def _uid(ds: Dataset, tag: int) -> str:
    if tag not in ds:
        raise Unreadable(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing")
    raw = ds.get_item(tag)  # pydicom hands out what there is of a value that was cut off
    whole = not isinstance(raw, RawDataElement) or len(raw.value or b"") == raw.length
    value = str(ds[tag].value or "").strip("\0 ")
    if not whole or not is_uid(value):
        raise Unreadable(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not a UID")
    return value
