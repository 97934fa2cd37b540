"""From files to Hounsfield units, in children with limits."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import resource
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from limen.errors import Transient, Unreadable
from worker.dicom import carried as carried_reader
from worker.dicom import headers as header_reader
from worker.dicom import hounsfield as frame_reader
from worker.dicom.carried import Carried
from worker.dicom.headers import Frame, Header

__all__ = ["Decoder", "Frame", "Header"]

TASKS_PER_CHILD: Final = 1000
"""A child is replaced after so many tasks: what its decoders leak goes with it."""

IN_FLIGHT_PER_CHILD: Final = 4
"""Decoded frames that may wait in memory for their reader."""

STUCK_S: Final = 10.0
"""So long after a task should have ended, and none has, the children are given up."""

LOOK_S: Final = 1.0

_CLOSED: Final = "the decoder is closed; restart the worker"
_PR_SET_PDEATHSIG: Final = 1
_T = TypeVar("_T")
_Task = tuple[Callable[..., _T], tuple[Any, ...]]
_Asked = tuple[Future[_T], ProcessPool]


class Decoder:
    """Reads headers and frames in child processes, so that no file can harm this one.

    A file that crashes, hangs, or outgrows its child fails alone; the child is
    replaced. The children are started by a fork server: they never inherit the
    model, its memory or its threads.

    Parameters
    ----------
    processes
        Children.
    timeout_s
        Wall time for one header or one frame; as much CPU time, too.
    memory_bytes
        Address space a child may take on top of what it starts with.
    max_pixels
        Largest rows x columns of one frame.

    Attributes
    ----------
    runs_code
        Whether its children may run code of bundles (``engine.allow_code``).
    """

    def __init__(
        self,
        processes: int = 2,
        timeout_s: float = 20.0,
        memory_bytes: int = 2 << 30,
        max_pixels: int = 64_000_000,
        *,
        runs_code: bool = False,
    ) -> None:
        self.runs_code = runs_code
        self._timeout_s = timeout_s
        self._max_pixels = max_pixels
        self._in_flight = processes * IN_FLIGHT_PER_CHILD
        self._processes = processes
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._new_pool()
        self._ended_s = time.monotonic()  # when a task ended, the last time

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children; what they were doing is lost."""
        with self._lock:
            self._closed = True
            self._pool.stop()
            self._pool.join()

    def headers(self, paths: Sequence[Path]) -> list[Header | Unreadable]:
        """Return the header of each file, in order; a file that has none says why."""
        tasks = ((_read_header, (path,)) for path in paths)
        return list(self._run(tasks))

    def carried(self, path: Path, frame: int = 1) -> Carried:
        """Return what objects about an instance, or one frame (from 1), take over from it.

        Raises
        ------
        Unreadable
            It has no header.
        """
        result = next(iter(self._run([(_read_carried, (path, frame))])))
        if isinstance(result, Unreadable):
            raise result
        return result

    def hounsfield(self, path: Path, frame: int = 1) -> NDArray[np.float32]:
        """Return one frame (from 1): (rows, columns) float32, HU.

        Raises
        ------
        Unreadable
            It cannot be decoded within the limits.
        """
        result = next(iter(self.hounsfield_many([(path, frame)])))
        if isinstance(result, Unreadable):
            raise result
        return result

    def hounsfield_many(
        self, items: Iterable[tuple[Path, int]]
    ) -> Iterator[NDArray[np.float32] | Unreadable]:
        """Yield each frame in order, decoding a few ahead; see ``hounsfield``."""
        tasks = ((_read_frame, (path, frame, self._max_pixels)) for path, frame in items)
        return self._run(tasks)

    def call(self, what: str, function: Callable[..., _T], *args: Any) -> _T:
        """Run a function in a child, under its limits.

        Parameters
        ----------
        what
            What it does, for the reason where it does not end well: "preparing".
        function
            Of a module, so that a child finds it; it raises ``Unreadable`` with its own reasons.

        Raises
        ------
        Unreadable
            It failed, or did not keep to the limits.
        """
        result = next(iter(self._run([(function, args)], what)))
        if isinstance(result, Unreadable):
            raise result
        return result

    def _run(self, tasks: Iterable[_Task[_T]], what: str = "decoding") -> Iterator[_T | Unreadable]:
        """Yield results in order, with a bounded number of tasks under way."""
        waiting: deque[tuple[_Task[_T], _Asked[_T]]] = deque()
        source = iter(tasks)
        try:
            waiting.extend((t, self._submit(*t)) for t in islice(source, self._in_flight))
            while waiting:
                task, asked = waiting.popleft()
                found = self._outcome(task, asked, what)
                yield found
                waiting.extend((t, self._submit(*t)) for t in islice(source, 1))
        finally:
            for _, (future, _) in waiting:
                future.cancel()

    def _outcome(self, task: _Task[_T], asked: _Asked[_T], what: str) -> _T | Unreadable:
        """Return what a child answered; one that was killed, or whose pool broke, is tried twice.

        The system's out-of-memory killer takes a child that did nothing wrong.
        """
        for attempt in (asked, None):
            with contextlib.suppress(BrokenProcessPool, CancelledError, ProcessExpired):
                future = self._ended(*(attempt or self._submit(*task)))
                return _answer(future, self._timeout_s, what)
        return Unreadable(f"{what} it ended the decoder process, twice")

    def _ended(self, future: Future[_T], pool: ProcessPool) -> Future[_T]:
        """Wait for a task, and return it.

        A child that is killed at the moment in which it takes a task, or answers, leaves the lock
        of the pipe that all of them share locked for ever: no task ends any more.

        Raises
        ------
        BrokenProcessPool
            Its pool was given up.
        Transient
            The decoder was closed.
        """
        began_s = time.monotonic()
        while not wait([future], LOOK_S).done:
            silent_s = time.monotonic() - max(began_s, self._ended_s)
            with self._lock:
                if pool is self._pool and not self._closed and silent_s > self._timeout_s + STUCK_S:
                    self._renew()
                if pool is not self._pool and not future.done():
                    raise BrokenProcessPool
                if self._closed and not future.done():
                    raise Transient(_CLOSED)
        return future

    def _renew(self) -> None:
        """Give the pool up; a new one costs a fraction of a second."""
        self._pool.stop()
        self._pool.join()
        self._pool = self._new_pool()

    def _submit(self, function: Callable[..., _T], args: tuple[Any, ...]) -> _Asked[_T]:
        with self._lock:
            if self._closed:
                raise Transient(_CLOSED)
            try:
                return self._schedule(function, args)
            except RuntimeError:
                # pebble gives a pool up when an idle child dies (the system's out-of-memory
                # killer, say).
                self._renew()
            try:
                return self._schedule(function, args)
            except RuntimeError as exc:
                raise Transient("the decoder's children cannot be started") from exc

    def _schedule(self, function: Callable[..., _T], args: tuple[Any, ...]) -> _Asked[_T]:
        future: Future[_T] = self._pool.schedule(
            _timed, args=(self._timeout_s, function, *args), timeout=self._timeout_s
        )
        future.add_done_callback(self._note_end)
        return future, self._pool

    def _note_end(self, _: Future[Any]) -> None:
        self._ended_s = time.monotonic()

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return ProcessPool(
            max_workers=self._processes,
            max_tasks=TASKS_PER_CHILD,
            initializer=_limit_child,
            initargs=(self._memory_bytes,),
            context=context,
        )


def _answer(future: Future[_T], timeout_s: float, what: str) -> _T | Unreadable:
    """Return what a child answered, or why it did not.

    Raises
    ------
    ProcessExpired
        Somebody killed the child.
    """
    try:
        return future.result()
    except Unreadable as exc:
        return exc
    except (FutureTimeoutError, TimeoutError):
        return Unreadable(f"{what} it took more than {timeout_s:g} s")
    except ProcessExpired as exc:
        if exc.exitcode == -signal.SIGKILL:
            raise
        return Unreadable(f"{what} it ended the decoder process (exit code {exc.exitcode})")
    except MemoryError:
        return Unreadable(f"{what} it needs more memory than is allowed")


def _limit_child(memory_bytes: int) -> None:
    """Bound a child: address space, no core file (it would hold a patient), no orphan."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # pydicom logs values of elements: patients' names
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # The fork server ends with this worker; without this a child would outlive both.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _timed(timeout_s: float, function: Callable[..., _T], *args: Any) -> _T:
    """Run one task under a limit of CPU time of its own."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft_s = int(used.ru_utime + used.ru_stime + timeout_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft_s, resource.RLIM_INFINITY))
    return function(*args)


def _read_header(path: Path) -> Header:
    return header_reader.read(path)


def _read_carried(path: Path, frame: int) -> Carried:
    return carried_reader.read(path, frame)


def _read_frame(path: Path, frame: int, max_pixels: int) -> NDArray[np.float32]:
    return frame_reader.read(path, frame, max_pixels)
