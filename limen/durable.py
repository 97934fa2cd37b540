"""Bytes on the disk: new files and folders that survive a power cut once these return.

``fsync`` of a file does not make its name durable; the folder it stands in has to be synced too.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_folder", "write_new"]


def write_new(path: Path, *blocks: bytes) -> None:
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


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
