"""An archive in a local folder: durable files, never overwritten."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from limen.durable import sync_folder, write_new
from limen.errors import OutOfSpace, Rejected, Transient
from worker.destinations.archive import Content, Stored

__all__ = ["FolderArchive"]


class FolderArchive:
    """An archive in a local folder.

    Parameters
    ----------
    root
        Made where it is missing, and read by its owner only.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, content: Content) -> None:
        """Write a file and its folder to the disk. See ``Archive``."""
        path = self._root / name
        here = len(self._root.parts)
        folders = [Path(*path.parts[:n]) for n in range(here, len(path.parts))]
        try:
            self._root.parent.mkdir(parents=True, exist_ok=True)
            for folder in folders:
                folder.mkdir(exist_ok=True, mode=0o700)
            if not _created(path, content) and not _holds(path, content):
                raise Rejected("the archive holds other bytes under the same name")
            for folder in reversed(folders):
                sync_folder(folder)
        except OSError as exc:
            raise OutOfSpace(f"the archive folder cannot be written ({exc.strerror})") from exc

    def get(self, name: str, path: Path) -> bool:
        """Copy a file. See ``Archive``."""
        try:
            shutil.copyfile(self._root / name, path)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _unread(exc) from exc
        return True

    def studies(self) -> Iterator[str]:
        """Yield the folders. See ``Archive``."""
        try:
            yield from sorted(path.name for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:  # nothing was stored yet
            return
        except OSError as exc:
            raise _unread(exc) from exc

    def below(self, study_key: str) -> Iterator[Stored]:
        """Yield the files of a folder. See ``Archive``."""
        try:
            for path in sorted((self._root / study_key).rglob("[!.]*")):
                if path.is_file():
                    name = path.relative_to(self._root).as_posix()
                    yield Stored(name, path.stat().st_mtime)
        except OSError as exc:
            raise _unread(exc) from exc

    def remove(self, name: str) -> bool:
        """Remove a file, and its folder where that is empty then. See ``Archive``."""
        path = self._root / name
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            return False
        except OSError as exc:
            raise OutOfSpace(f"the archive folder cannot be written ({exc.strerror})") from exc
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return True


def _unread(exc: OSError) -> Transient:
    return Transient(f"the archive folder cannot be read ({exc.strerror})")


def _created(path: Path, content: Content) -> bool:
    """Write a new file, whole and synced before it has its name; False when there is one."""
    if path.exists():
        return False
    part = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        write_new(part, content.blocks())
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _holds(path: Path, content: Content) -> bool:
    with path.open("rb") as kept:
        same = all(kept.read(len(block)) == block for block in content.blocks())
        return same and not kept.read(1)
