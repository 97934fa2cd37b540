"""Requests of many callers packed into batches for one model, in two lanes.

Nothing here starts a thread or knows a model: ``step`` runs one batch if one is due, and
``serve`` does so until closed, in whatever thread calls it. Time comes from the clock that is
handed in.

Which lane goes next
    Predict before explain, asked again before every batch. While a prediction is waiting, running
    or announced (``expecting``), the explain lane gets its share of the time and no more: it runs
    a batch whenever its saved-up share pays for one.
How large a batch of the predict lane is
    Of the allowed sizes the one that was fastest for each item when nothing else ran.
How large a batch of the explain lane is
    A prediction that arrives has to wait for the batch under way. So of the allowed sizes that
    take no longer than ``predict_latency_ms`` the smallest is taken that is nearly as fast for
    each item as the best of them; while predictions want the model, one that takes half as much
    again will do. How fast they are was measured when nothing else ran; what they take now is
    learned from every batch.
What is padded
    A batch has an allowed size. What waits is padded to the next one, or split where the padding
    would cost more than another batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from limen import config
from limen.errors import Busy, EngineError, Transient, Unreachable
from limen.telemetry import METRICS

__all__ = ["Batcher", "Lane", "Model", "Tensor", "batch_sizes"]

Tensor = NDArray[np.float32]

Model = Callable[[Tensor], Tensor]
"""(n, ...) float32, 0..1, -> (n, ...) float32 probabilities: what goes in and what comes out of one
item has any shape, the same for all."""

LEARNING_RATE: Final = 0.2
"""Weight of the newest batch in what a size is said to take."""

NEARLY_AS_FAST: Final = 1.1
"""A smaller explain batch may cost this much more time for each item: half the size is half the
wait of a prediction that comes while it runs."""

BESIDE_PREDICTIONS: Final = 1.5
"""The same while predictions want the model: what an explanation loses there is little, since it
has a share of the time only."""

OVERHEAD_S: Final = 0.001
"""What a batch costs beside the model: packing, handing out, waking who waits for it."""

HANGS_S: Final = 120.0
HANGS_TIMES: Final = 10
"""A batch hangs when it takes longer than both: these seconds, and so many times what a batch of
its size is known to take. A model that is slow, on a machine that is busy, stays below."""

PROBES: Final = 3
"""A device that fails this often in a row on tensors that it answered before is lost."""

_log = structlog.get_logger(__name__)


class Lane(IntEnum):
    """Which queue a request waits in; the lower number goes first."""

    PREDICT = 0
    """A study is waiting for its finding."""
    EXPLAIN = 1
    """Perturbed images of an explanation."""

    @property
    def label(self) -> str:
        """Name of the lane in metrics."""
        return self.name.lower()


@dataclass(slots=True, eq=False)
class _Request:
    """Tensors of one caller; ``start`` is the first item that no batch has taken."""

    tensors: Tensor
    lane: Lane
    future: Future[Tensor]
    output: Tensor
    arrived_s: float
    start: int = 0

    @property
    def left(self) -> int:
        return len(self.tensors) - self.start


@dataclass(slots=True, eq=False)
class _Piece:
    """Items ``start`` to ``stop`` of a request, inside one batch."""

    request: _Request
    start: int
    stop: int

    @property
    def tensors(self) -> Tensor:
        return self.request.tensors[self.start : self.stop]


class Batcher:
    """The queue before a model, and what packs it. ``submit`` and ``close`` from any thread.

    Parameters
    ----------
    model
        Called from one thread at a time, with batches of the allowed sizes only.
    shape
        Of one item.
    answer
        Shape of what the model gives for one item.
    settings
        ``max_batch``, ``max_wait_ms``, ``max_queue``, ``predict_latency_ms``, ``explain_share``.
    sizes
        Allowed sizes of a batch, rising; by default those of ``batch_sizes``.
    probe
        Raises when the model no longer answers what it is known to answer. Asked after a request
        failed by itself, to tell a bad input from a lost device.
    on_lost
        Called once, when the device is lost; everything waiting has been answered by then.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        model: Model,
        shape: tuple[int, ...],
        answer: tuple[int, ...],
        settings: config.Engine,
        *,
        sizes: tuple[int, ...] = (),
        probe: Callable[[], object] = lambda: None,
        on_lost: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._shape = shape
        self._answer_shape = answer
        self._settings = settings
        self._probe = probe
        self._on_lost = on_lost
        self._clock = clock
        self._sizes = sizes or batch_sizes(settings.max_batch)
        self._seconds: dict[int, float] = {}
        self._undisturbed: dict[int, float] = {}
        self._lanes: dict[Lane, deque[_Request]] = {lane: deque() for lane in Lane}
        self._items = dict.fromkeys(Lane, 0)
        self._changed = threading.Condition()
        self._expected = 0
        self._predicting = False
        self._saved_s = 0.0  # time that the explain lane has a right to
        self._settled_s = clock()
        self._lull_ends_s = -np.inf  # until then another prediction may follow the last one
        self._buffer = np.empty((0, *shape), np.float32)
        self._running: list[_Piece] = []
        self._cancelled = False  # some request was, since it was last looked
        self._hangs_from_s = np.inf  # when the call of the model that is under way does
        self._closed = False
        self._lost = ""  # the reason

    @property
    def sizes(self) -> tuple[int, ...]:
        """Allowed sizes of a batch, rising."""
        return self._sizes

    @property
    def seconds(self) -> dict[int, float]:
        """What a batch of each size takes, as far as it is known."""
        return dict(self._seconds)

    @property
    def explain_size(self) -> int:
        """Items in the largest batch of the explain lane, as of now."""
        known = {size: self._seconds[size] for size in self._sizes if size in self._seconds}
        limit_s = self._settings.predict_latency_ms / 1000
        quick = [size for size, seconds in known.items() if seconds <= limit_s]
        if not quick:
            return self._sizes[0]
        slack = BESIDE_PREDICTIONS if self._contended() else NEARLY_AS_FAST
        each = {size: self._padded_s(size) / size for size in quick}
        most_s = min(each.values()) * slack
        return min(size for size in quick if each[size] <= most_s)

    @property
    def predict_size(self) -> int:
        """Items in the largest batch of the predict lane: of the sizes that are known the fastest.

        A large network is fastest in small batches, whose numbers stay in the caches.
        """
        known = [size for size in self._sizes if size in self._undisturbed]
        return min(known, key=lambda n: self._padded_s(n) / n, default=self._sizes[-1])

    @property
    def lost(self) -> bool:
        """The device that runs the model is lost."""
        return bool(self._lost)

    def learn(self, size: int, seconds: float) -> None:
        """Note what a batch of an allowed size took; the first time, that nothing else ran."""
        self._undisturbed.setdefault(size, seconds)
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + LEARNING_RATE * (seconds - known)

    def submit(self, tensors: Tensor, lane: Lane) -> Future[Tensor]:
        """Queue tensors for the model; it is slow or lost, never too late.

        Parameters
        ----------
        tensors
            (n, ...) float32, 0..1, each of the shape of an item. Must not be written to
            before the future is done.
        lane
            ``Lane.PREDICT`` or ``Lane.EXPLAIN``.

        Returns
        -------
        Future
            (n, ...) float32 probabilities, 0..1. It holds an ``EngineError``
            when these tensors have the wrong shape or are not finite, when the
            model fails on them, or when the batcher is closed first; ``Unreachable``
            when the device is lost, and what else of ``Transient`` the model raises, when the
            server that runs it is away. Who wants it no more cancels it.

        Raises
        ------
        Busy
            The lane is full; the same call may work later.
        """
        future: Future[Tensor] = Future()
        fault = self._fault(tensors)
        if fault:
            future.set_exception(EngineError(fault))
            return future
        output = np.empty((len(tensors), *self._answer_shape), np.float32)
        if not len(tensors):
            future.set_result(output)
            return future
        future.add_done_callback(self._note_cancelled)
        with self._changed:
            if self._closed:
                future.set_exception(self._ended())
                return future
            waiting, most = self._items[lane], self._settings.max_queue
            if waiting + len(tensors) > most:
                raise Busy(f"the {lane.label} lane has {waiting} of {most} items waiting")
            now_s = self._clock()
            self._settle(now_s)
            self._lanes[lane].append(_Request(tensors, lane, future, output, now_s))
            self._count(lane, len(tensors))
            self._changed.notify()
        return future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce predict requests: until the end of the block explanations keep to their share.

        A study's slices come one by one out of the decoder; explanations that fill every gap
        between them would take the processor from the decoder and delay the finding.
        """
        with self._changed:
            self._settle(self._clock())
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                now_s = self._clock()
                self._settle(now_s)
                self._expected -= 1
                self._begin_lull(now_s)
                self._changed.notify()

    def serve(self) -> None:
        """Run batches until closed; then answer what still waits."""
        while True:
            with self._changed:
                while not (pieces := self._next()) and not self._closed:
                    self._changed.wait(self._patience_s())
            if not pieces:
                break
            self._run(pieces)
        self._answer_waiting()

    def step(self) -> bool:
        """Run one batch if one is due now; return whether one was."""
        with self._changed:
            pieces = self._next()
        if pieces:
            self._run(pieces)
        elif self._closed:
            self._answer_waiting()
        return bool(pieces)

    def close(self) -> None:
        """Take no more; ``serve`` finishes the batch under way and answers what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def lose_if_it_hangs(self) -> None:
        """Take the device for lost when the batch under way should have ended long ago.

        For whoever waits for an answer to ask now and then; nobody else would notice.
        """
        if self._clock() > self._hangs_from_s:
            self.lose("gave no answer to a batch for far longer than one takes")

    def lose(self, reason: str) -> None:
        """Take the device for lost: answer all requests, and tell the process.

        Parameters
        ----------
        reason
            What the model did, "fails on ...": every answer says it.
        """
        with self._changed:
            if self._lost:
                return
            self._lost, self._closed = reason, True
            running = list(self._running)
            self._changed.notify_all()
        _log.error("engine.lost", reason=reason)
        self._answer(running, self._ended())
        self._answer_waiting()
        self._on_lost()

    # -- which batch is next; all of it with the lock held ---------------------------------------

    def _next(self) -> list[_Piece]:
        """Take the batch that is due now; empty when none is, or when closed."""
        now_s = self._clock()
        self._settle(now_s)
        if self._closed:
            return []
        self._drop_cancelled()
        due = self._due(now_s)
        return [] if due is None else self._take(due, now_s)

    def _due(self, now_s: float) -> Lane | None:
        """Return the lane whose turn it is."""
        predict, explain = (self._ready_s(lane) <= now_s for lane in Lane)
        if explain and (not self._contended() or 0 < self._saved_s >= self._price_s()):
            return Lane.EXPLAIN
        return Lane.PREDICT if predict else None

    def _ready_s(self, lane: Lane) -> float:
        """Return when the first batch of a lane is full or has waited long enough."""
        requests = self._lanes[lane]
        if not requests:
            return np.inf
        if self._items[lane] >= self._room(lane):
            return -np.inf
        return requests[0].arrived_s + self._settings.max_wait_ms / 1000

    def _room(self, lane: Lane) -> int:
        return self.predict_size if lane is Lane.PREDICT else self.explain_size

    def _price_s(self) -> float:
        """Return what the next batch of the explain lane will take; 0 when nothing is known."""
        count = min(self._items[Lane.EXPLAIN], self.explain_size)
        return self._seconds.get(self._padded(count), 0.0)

    def _contended(self) -> bool:
        """Return whether predictions have the first right to the model, as of the last settling."""
        wanted = self._predicting or self._expected or self._lanes[Lane.PREDICT]
        return bool(wanted) or self._settled_s < self._lull_ends_s

    def _begin_lull(self, now_s: float) -> None:
        """Let the next study of a queue come before an explanation takes the gap between two."""
        self._lull_ends_s = now_s + self._settings.max_wait_ms / 1000

    def _settle(self, now_s: float) -> None:
        """Save up the explain lane's share of the time since the last call."""
        passed_s, self._settled_s = now_s - self._settled_s, now_s
        if self._lanes[Lane.EXPLAIN] and self._contended():
            self._saved_s += self._settings.explain_share * passed_s

    def _patience_s(self) -> float | None:
        """Return how long nothing can become due by itself; None when nothing waits."""
        now_s = self._clock()
        moments = [self._ready_s(lane) for lane in Lane]
        if moments[Lane.EXPLAIN] <= now_s:  # it waits for its share
            lacking_s = self._price_s() - self._saved_s
            moments[Lane.EXPLAIN] = now_s + lacking_s / self._settings.explain_share
            if now_s < self._lull_ends_s:
                moments.append(self._lull_ends_s)
        first_s = min(moments)
        return None if first_s == np.inf else max(first_s - now_s, 0.0)

    def _note_cancelled(self, future: Future[Tensor]) -> None:
        if future.cancelled():
            self._cancelled = True

    def _drop_cancelled(self) -> None:
        """Forget who was cancelled; to ask all that wait before each batch would hold it up."""
        if not self._cancelled:
            return
        self._cancelled = False
        for lane, requests in self._lanes.items():
            for request in [r for r in requests if r.future.cancelled()]:
                requests.remove(request)
                self._count(lane, -request.left)
                request.future.set_running_or_notify_cancel()  # tells whoever waits for it

    def _take(self, lane: Lane, now_s: float) -> list[_Piece]:
        """Take what one batch holds, oldest request first, splitting the last one."""
        pieces: list[_Piece] = []
        requests, room = self._lanes[lane], self._share_of(min(self._items[lane], self._room(lane)))
        waited, gone = METRICS.engine_wait_seconds.labels(lane.label), 0
        while requests and room:
            request = requests[0]
            # From here on the caller can no longer cancel; a second piece finds it running.
            if not request.start and not request.future.set_running_or_notify_cancel():
                requests.popleft()
                gone += request.left
                continue
            if not request.start:
                waited.observe(now_s - request.arrived_s)
            count = min(room, request.left)
            pieces.append(_Piece(request, request.start, request.start + count))
            request.start += count
            gone += count
            room -= count
            if not request.left:
                requests.popleft()
        self._count(lane, -gone)
        self._predicting = lane is Lane.PREDICT
        return pieces

    def _count(self, lane: Lane, change: int) -> None:
        self._items[lane] += change
        METRICS.engine_waiting.labels(lane.label).inc(change)

    # -- running it ------------------------------------------------------------------------------

    def _run(self, pieces: list[_Piece]) -> None:
        # An explanation that runs while nobody else wants the model has it for nothing.
        paid = pieces[0].request.lane is Lane.EXPLAIN and self._contended()
        began_s = self._clock()
        self._running = pieces
        self._run_apart_on_failure(pieces)
        with self._changed:
            self._running = []
            now_s = self._clock()
            self._settle(now_s)
            if self._predicting:
                self._predicting = False
                self._begin_lull(now_s)
            if paid:
                self._saved_s -= now_s - began_s

    def _run_apart_on_failure(self, pieces: list[_Piece]) -> None:
        """Run one batch; when it fails, run its pieces apart so that one fails alone."""
        if self._lost:
            self._answer(pieces, self._ended())
            return
        began_s = self._clock()
        try:
            answers = self._predict([piece.tensors for piece in pieces])
        except (
            Transient
        ) as exc:  # where the model runs is away: neither input nor device is to blame
            self._answer(pieces, exc)
            return
        except Exception as exc:
            if len(pieces) > 1:
                for piece in pieces:
                    self._run_apart_on_failure([piece])
                return
            self._blame(pieces, exc)
            return
        sound = _is_probability(answers)  # asked once, for all of them
        start = 0
        for piece in pieces:
            stop = start + piece.stop - piece.start
            self._deliver(piece, answers[start:stop], sound=sound)
            start = stop
        # With packing and delivery: they are what small batches cost.
        self.learn(self._padded(len(answers)), self._clock() - began_s)

    def _predict(self, parts: list[Tensor]) -> Tensor:
        """Pad to an allowed size, run the model, return its answers (items, ...) in order."""
        count = sum(len(part) for part in parts)
        size = self._padded(count)
        batch = parts[0] if len(parts) == 1 and size == count else self._packed(parts, size)
        began_s = self._clock()
        with self._timed(size):
            answer = np.asarray(self._model(batch), np.float32)
        took_s = self._clock() - began_s
        expected = (size, *self._answer_shape)
        if answer.shape != expected:
            raise ValueError(f"answer of shape {answer.shape}, expected {expected}")
        METRICS.engine_batch_seconds.labels(str(size)).observe(took_s)
        METRICS.engine_batch_fill.observe(count / size)
        return answer[:count]

    @contextmanager
    def _timed(self, size: int) -> Iterator[None]:
        """Say from when on the call inside hangs."""
        allowed_s = max(HANGS_S, HANGS_TIMES * self._seconds.get(size, 0.0))
        self._hangs_from_s = self._clock() + allowed_s
        try:
            yield
        finally:
            self._hangs_from_s = np.inf

    def _packed(self, parts: list[Tensor], size: int) -> Tensor:
        """Return the parts as one batch, padded with air; a view of memory that is used again."""
        if len(self._buffer) < size:  # a new one for each batch would cost its page faults
            self._buffer = np.empty((self._sizes[-1], *self._shape), np.float32)
        batch = self._buffer[:size]
        count = sum(len(part) for part in parts)
        np.concatenate(parts, out=batch[:count])
        batch[count:] = 0
        return batch

    def _padded(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _share_of(self, count: int) -> int:
        """Return how many of these go into the next batch: all, or a size that needs no padding."""
        smaller = [size for size in self._sizes if size < count]
        return count if self._cost_s(count) == self._padded_s(count) else smaller[-1]

    def _cost_s(self, count: int) -> float:
        """Return the least seconds for these, padded to one batch or in several."""
        smaller = [size for size in self._sizes if size < count]
        if count in self._sizes or not smaller:
            return self._padded_s(count)
        in_several_s = self._padded_s(smaller[-1]) + self._cost_s(count - smaller[-1])
        return min(self._padded_s(count), in_several_s)

    def _padded_s(self, count: int) -> float:
        return self._undisturbed.get(self._padded(count), np.inf) + OVERHEAD_S

    def _deliver(self, piece: _Piece, answer: Tensor, *, sound: bool) -> None:
        request = piece.request
        if request.future.done():
            return
        if not sound and not _is_probability(answer):
            self._answer([piece], EngineError("the model gave a value that is no probability"))
            return
        request.output[piece.start : piece.stop] = answer
        if piece.stop == len(request.tensors):
            _resolve(request.future, request.output)

    def _blame(self, pieces: list[_Piece], failure: Exception) -> None:
        """Tell a bad input from a lost device, and answer accordingly."""
        name = type(failure).__name__
        for attempt in range(1, PROBES + 1):
            try:
                with self._timed(self._sizes[0]):
                    self._probe()
            except Transient as exc:
                self._answer(pieces, exc)
                return
            except Exception as exc:
                _log.warning("engine.probe_failed", attempt=attempt, error=exc)
                continue
            _log.warning("engine.batch_failed", error=name)
            error = EngineError(f"the model failed on this input ({name})")
            error.__cause__ = failure
            self._answer(pieces, error)
            return
        self.lose(f"fails on what it answered before ({name})")
        self._answer(pieces, self._ended())

    def _answer(self, pieces: list[_Piece], error: Exception) -> None:
        """Fail the requests of these pieces and take what is left of them from their lanes."""
        for request in [piece.request for piece in pieces]:
            _resolve(request.future, error)
            with self._changed:
                if request in self._lanes[request.lane]:
                    self._lanes[request.lane].remove(request)
                    self._count(request.lane, -request.left)

    def _answer_waiting(self) -> None:
        with self._changed:
            waiting = [r for requests in self._lanes.values() for r in requests]
            for requests in self._lanes.values():
                requests.clear()
            for lane in Lane:
                self._count(lane, -self._items[lane])
        for request in waiting:
            if request.start or request.future.set_running_or_notify_cancel():
                _resolve(request.future, self._ended())

    def _ended(self) -> Exception:
        if self._lost:
            return Unreachable(f"the model {self._lost}: its device is taken for lost")
        return EngineError("the engine was closed before this input ran")

    def _fault(self, tensors: Tensor) -> str:
        """Return what is wrong with a request, or an empty text."""
        if tensors.shape[1:] != self._shape:
            return f"the model takes tensors of shape {self._shape}, not {tensors.shape[1:]}"
        if tensors.dtype != np.float32:
            return f"the model takes float32, not {tensors.dtype}"
        if len(tensors) > self._settings.max_queue:
            return f"{len(tensors)} tensors at once are more than {self._settings.max_queue}"
        if not np.isfinite(tensors).all():
            return "the tensor holds values that are not finite"
        return ""


def _is_probability(answer: Tensor) -> bool:
    """Return whether all values are 0..1; comparisons with NaN are false."""
    return bool(((answer >= 0) & (answer <= 1)).all())


def _resolve(future: Future[Tensor], outcome: Tensor | Exception) -> None:
    """Answer a request, unless it is answered: the device may be lost while the model answers."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def batch_sizes(max_batch: int, smallest: int = 1) -> tuple[int, ...]:
    """Return the sizes a batch may have: the smallest, its doubles, and the largest."""
    doubles = (smallest << n for n in range(max_batch.bit_length()))
    return (*(d for d in doubles if d < max_batch), max_batch)
