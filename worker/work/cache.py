"""The cache: what a worker has fetched from the archive, by study, never more than so many bytes.

A folder for each study. Who works on a study holds a shared lock on its folder meanwhile, so that
no thread and no other process takes it away; the studies that nobody works on go when room is
needed, those first that were used longest ago. Nothing in it is durable and nothing in it is
trusted: who reads a file compares its digest with what the journal says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from limen.errors import Delayed

__all__ = ["Cache"]

log = structlog.get_logger("worker.work.cache")

_GONE = ".gone-"


class Cache:
    """A bounded folder of what can be fetched again.

    Parameters
    ----------
    root
        Made where it is missing. Workers of one host may share it.
    max_bytes
        More is there only while studies that are being worked on need it.
    max_age_s
        A study that nobody has worked on for so long goes too; 0: never.
    """

    def __init__(self, root: Path, max_bytes: int, max_age_s: float = 0.0) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._sizes: dict[str, tuple[int, int]] = {}  # study -> when it was measured, bytes
        self._trimming = threading.Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.trim()

    @contextmanager
    def using(self, study_key: str) -> Iterator[Path]:
        """Yield the folder of a study, which nobody takes away until the end.

        Raises
        ------
        Delayed
            The disk is full or failed.
        """
        folder = self.root / study_key
        descriptor = _held(folder)
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                os.utime(folder)
            os.close(descriptor)
            self.trim()

    def trim(self) -> None:
        """Remove what is over the bounds, the study that was used longest ago first."""
        with self._trimming:
            self._remove_the_gone()
            left = sorted(self._studies())
            size_bytes = sum(size for _, _, size in left)
            oldest = time.time() - self._max_age_s if self._max_age_s else 0.0
            for used_s, folder, size in left:
                if size_bytes <= self._max_bytes and used_s >= oldest:
                    return
                if _remove_unused(folder):
                    size_bytes -= size
                    log.info("cache.removed", study=folder.name)

    def _studies(self) -> Iterator[tuple[float, Path, int]]:
        """Yield when each study was used last, its folder, and how large it is."""
        sizes: dict[str, tuple[int, int]] = {}
        for folder in self.root.iterdir():
            try:
                used_ns = folder.stat().st_mtime_ns
            except OSError:  # another process has just removed it
                continue
            known = self._sizes.get(folder.name)
            size = known[1] if known and known[0] == used_ns else _size(folder)
            sizes[folder.name] = (used_ns, size)
            yield used_ns / 1e9, folder, size
        self._sizes = sizes

    def _remove_the_gone(self) -> None:
        """Finish what a process that died was removing."""
        for folder in self.root.glob(f"{_GONE}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _held(folder: Path) -> int:
    """Make a folder if need be; return its descriptor, which holds a shared lock."""
    while True:
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if folder.parent.is_dir():  # it was removed in between
                continue
            raise Delayed(f"the folder of the cache is gone ({folder.parent})") from None
        except OSError as exc:
            raise Delayed(f"the cache cannot be written ({exc.strerror})") from exc
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_still(folder, descriptor):
            return descriptor
        os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Return whether an open folder still has its name: whoever removes one takes that first."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_unused(folder: Path) -> bool:
    """Remove a folder that nobody holds; return whether it is gone."""
    gone = folder.with_name(f"{_GONE}{uuid.uuid4().hex}")
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return not folder.exists()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.rename(gone)
    except OSError:  # somebody works on it
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _size(folder: Path) -> int:
    size_bytes = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size_bytes += path.lstat().st_size
    return size_bytes
