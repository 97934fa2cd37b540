"""Bytes on the disk: new files and folders that survive a power cut once these return.

``fsync`` of a file does not make its name durable; the folder it stands in has to be synced too.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["beside", "sync_file", "sync_folder", "write_new"]


def write_new(path: Path, blocks: Iterable[bytes]) -> None:
    """Write a file that must not exist yet, readable by its owner only, and sync it.

    Raises
    ------
    FileExistsError
        It is there.
    OSError
        The disk is full or failed; a part of the file may be left.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        for block in blocks:
            view = memoryview(block)
            while view:
                view = view[file.write(view) :]
        os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Sync the bytes of a file that somebody else has written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` for a new file or folder, which becomes ``path`` at the end.

    Who reads ``path`` finds the old one or the whole new one. When the block fails nothing is left
    of it. Syncing is up to the caller: not all that has to be whole has to be durable.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        if part.is_dir() and path.exists():  # no rename takes the place of a folder with files
            shutil.rmtree(path)
        part.rename(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
