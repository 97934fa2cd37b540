"""The memory of a worker: one that has grown too large ends as if it were told to, and a new one
takes its place.

What runs may end, and nothing counts as an attempt: the way is that of SIGTERM. A worker that is
larger than its limit when it has just become ready would end for ever; it says so and stays.

Most of what a worker seemed to leak was free: glibc gives each thread an arena of its own, up to
eight for each processor, and an arena keeps the most that its threads ever needed at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from limen.rounds import Rounds

__all__ = ["Memory", "resident_bytes", "share_arenas"]

log = structlog.get_logger("worker")

_EVERY_S = 10.0
_STATM = Path("/proc/self/statm")
_M_ARENA_MAX, _ARENAS = -8, 2  # mallopt(3); threads that hold Python's lock do not allocate at once


def resident_bytes() -> int:
    """Return how much memory this process has (proc(5), statm); 0 where the system does not say."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def share_arenas() -> None:
    """Let all threads allocate from two arenas (mallopt(3), ``M_ARENA_MAX``): before they start.

    Another C library than glibc keeps its own ways, and so does an operator's ``MALLOC_ARENA_MAX``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Memory:
    """Looks every ten seconds, from ``start`` on.

    Parameters
    ----------
    limit_bytes
        0: no limit.
    read, end
        Replaced in tests.
    """

    def __init__(
        self,
        limit_bytes: int,
        read: Callable[[], int] = resident_bytes,
        end: Callable[[], None] = _end,
    ) -> None:
        self._limit = limit_bytes
        self._read = read
        self._end = end
        self._ended = False
        self._rounds = Rounds("memory", self.look, _EVERY_S)

    def start(self) -> None:
        """Begin to look; the worker has its models by now."""
        if not self._limit:
            return
        if (now := self._read()) > self._limit:
            log.error("worker.limit_too_low", reason=self._said(now))
            return
        self._rounds.start()

    def look(self) -> None:
        """End the worker when it is too large; once."""
        now = self._read()
        if now > self._limit and not self._ended:
            self._ended = True
            log.warning("worker.too_large", reason=self._said(now))
            self._end()

    def _said(self, now: int) -> str:
        return f"{now >> 20} MiB of {self._limit >> 20} (worker.max_memory_bytes)"
