"""One model in this process, behind a batcher with two lanes.

Callers hand in tensors and get a future. The batcher packs what waits into
batches of a few allowed sizes; the predict lane always goes before the explain
lane. TensorFlow is imported here and nowhere else, and only when an engine
starts.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from limen.errors import BundleError, Busy, EngineError
from worker import network
from worker.bundle import Bundle, Format

__all__ = ["Backend", "Engine", "Lane", "golden_check", "read_facts"]

Tensor = NDArray[np.float32]

CLOSE_TIMEOUT_S: Final = 30.0
LEAST_PROBABILITY: Final = 1e-7
"""Probabilities this near to 0 or 1 have no logit of use to calibration."""

SMALLEST_BATCH: Final = 8
"""Below it TensorFlow takes other kernels: the same slice would get another last digit when it
comes alone than when it comes in company."""

_log = structlog.get_logger(__name__)


class Lane(IntEnum):
    """Which queue a request waits in; the lower number goes first."""

    PREDICT = 0
    """A study is waiting for its finding."""
    EXPLAIN = 1
    """Perturbed images of an explanation."""


class Backend(Protocol):
    """The model itself. Called from one thread only."""

    def predict(self, batch: Tensor) -> Tensor:
        """Map (n, rows, columns, channels) float32 to (n, labels) float32 probabilities."""


@dataclass(slots=True, eq=False)
class _Request:
    """Tensors of one caller; ``start`` is the first item that no batch has taken."""

    tensors: Tensor
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


@dataclass(slots=True)
class _Queue:
    lanes: dict[Lane, deque[_Request]] = field(default_factory=lambda: {x: deque() for x in Lane})
    items: int = 0


class Engine:
    """The shared model. Thread-safe; ``close`` it, or use it as a context manager.

    Parameters
    ----------
    bundle
        A verified bundle; its input shape and labels are what requests are held to.
    max_batch
        Items in the largest batch.
    max_wait_ms
        How long the first item of a batch waits for company.
    max_queue
        Items that may wait in both lanes together.
    backend
        The model; by default the Keras model of the bundle.
    clock
        Monotonic seconds.

    Raises
    ------
    BundleError
        The weights were altered, cannot be loaded, or do not fit the manifest.
    """

    def __init__(
        self,
        bundle: Bundle,
        max_batch: int = 32,
        max_wait_ms: float = 5.0,
        max_queue: int = 4096,
        *,
        backend: Backend | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shape = bundle.input_shape
        self._labels = len(bundle.labels)
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue = max_queue
        self._clock = clock
        self._sizes = batch_sizes(max_batch)
        self._backend = backend if backend is not None else _KerasBackend(bundle, self._sizes)
        self._queue = _Queue()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, tensors: Tensor, lane: Lane) -> Future[Tensor]:
        """Queue tensors for the model.

        Parameters
        ----------
        tensors
            (n, rows, columns, channels) float32, 0..1. Must not be written to
            before the future is done.
        lane
            ``Lane.PREDICT`` or ``Lane.EXPLAIN``.

        Returns
        -------
        Future
            (n, labels) float32 probabilities, 0..1. It holds an ``EngineError``
            when these tensors have the wrong shape or are not finite, when the
            model fails on them, or when the engine is closed first.

        Raises
        ------
        Busy
            The queue is full; the same call may work later.
        """
        future: Future[Tensor] = Future()
        fault = self._fault(tensors)
        if fault:
            future.set_exception(EngineError(fault))
            return future
        output = np.empty((len(tensors), self._labels), np.float32)
        if not len(tensors):
            future.set_result(output)
            return future
        with self._changed:
            if self._closed:
                future.set_exception(EngineError("the engine is closed"))
                return future
            if self._queue.items + len(tensors) > self._max_queue:
                raise Busy(f"the engine has {self._queue.items} of {self._max_queue} items waiting")
            self._queue.lanes[lane].append(_Request(tensors, future, output, self._clock()))
            self._queue.items += len(tensors)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finish the batch under way and fail what is still waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _fault(self, tensors: Tensor) -> str:
        """Return what is wrong with a request, or an empty text."""
        if tensors.ndim != 4 or tensors.shape[1:] != self._shape:
            return f"the model takes tensors of shape {self._shape}, not {tensors.shape[1:]}"
        if tensors.dtype != np.float32:
            return f"the model takes float32, not {tensors.dtype}"
        if len(tensors) > self._max_queue:
            return f"{len(tensors)} tensors at once are more than the queue of {self._max_queue}"
        if not np.isfinite(tensors).all():
            return "the tensor holds values that are not finite"
        return ""

    def _serve(self) -> None:
        """Run batches until closed: the body of the engine's thread."""
        while pieces := self._next_batch():
            self._run(pieces)
        self._fail_waiting()

    def _next_batch(self) -> list[_Piece]:
        """Wait for work and take one batch; empty when closed."""
        with self._changed:
            while not self._closed:
                lane = self._ready_lane()
                if lane is None:
                    self._changed.wait(self._patience_s())
                elif pieces := self._take(self._queue.lanes[lane]):
                    return pieces
            return []

    def _ready_lane(self) -> Lane | None:
        """Return the first lane with items, once they fill a batch or have waited long enough."""
        for lane in Lane:
            requests = self._queue.lanes[lane]
            self._drop_cancelled(requests)
            if requests:
                waiting = sum(request.left for request in requests)
                waited_s = self._clock() - requests[0].arrived_s
                full = waiting >= self._max_batch or waited_s >= self._max_wait_s
                return lane if full else None
        return None

    def _patience_s(self) -> float | None:
        """Return how long the first item may still wait for company; None when nothing waits."""
        for lane in Lane:
            if self._queue.lanes[lane]:
                arrived_s = self._queue.lanes[lane][0].arrived_s
                return max(arrived_s + self._max_wait_s - self._clock(), 0.0)
        return None

    def _drop_cancelled(self, requests: deque[_Request]) -> None:
        for request in [r for r in requests if r.future.cancelled()]:
            request.future.set_running_or_notify_cancel()  # tells whoever waits for it
            requests.remove(request)
            self._queue.items -= request.left

    def _take(self, requests: deque[_Request]) -> list[_Piece]:
        """Take up to ``max_batch`` items, oldest request first, splitting the last one."""
        pieces: list[_Piece] = []
        room = self._max_batch
        while requests and room:
            request = requests[0]
            # From here on the caller can no longer cancel; a second piece finds it running.
            if not request.start and not request.future.set_running_or_notify_cancel():
                requests.popleft()
                self._queue.items -= request.left
                continue
            count = min(room, request.left)
            pieces.append(_Piece(request, request.start, request.start + count))
            request.start += count
            self._queue.items -= count
            room -= count
            if not request.left:
                requests.popleft()
        return pieces

    def _run(self, pieces: list[_Piece]) -> None:
        """Run one batch; when it fails, run its pieces apart so that one fails alone."""
        try:
            answers = self._predict([p.tensors for p in pieces])
        except Exception as exc:
            if len(pieces) > 1:
                for piece in pieces:
                    self._run([piece])
                return
            _log.warning("engine_batch_failed", error=type(exc).__name__)
            error = EngineError(f"the model failed on this input ({type(exc).__name__})")
            error.__cause__ = exc
            self._fail(pieces[0].request, error)
            return
        for piece, answer in zip(pieces, answers, strict=True):
            self._deliver(piece, answer)

    def _predict(self, parts: list[Tensor]) -> list[Tensor]:
        """Pad to an allowed size, run the model, return the answer to each part."""
        batch = parts[0] if len(parts) == 1 else np.concatenate(parts)
        count = len(batch)
        size = next(s for s in self._sizes if s >= count)
        if size > count:
            padding = np.zeros((size - count, *self._shape), np.float32)
            batch = np.concatenate([batch, padding])
        answer = np.asarray(self._backend.predict(batch), np.float32)
        if answer.shape != (size, self._labels):
            raise ValueError(f"answer of shape {answer.shape}")
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return np.split(answer[:count], ends)

    def _deliver(self, piece: _Piece, answer: Tensor) -> None:
        request = piece.request
        if request.future.done():
            return
        if not np.isfinite(answer).all() or answer.min() < 0 or answer.max() > 1:
            self._fail(request, EngineError("the model gave a value that is no probability"))
            return
        request.output[piece.start : piece.stop] = answer
        if piece.stop == len(request.tensors):
            request.future.set_result(request.output)

    def _fail(self, request: _Request, error: EngineError) -> None:
        """Fail a request and take what is left of it from its lane."""
        if not request.future.done():
            request.future.set_exception(error)
        with self._changed:
            for requests in self._queue.lanes.values():
                if request in requests:
                    requests.remove(request)
                    self._queue.items -= request.left

    def _fail_waiting(self) -> None:
        with self._changed:
            waiting = [r for requests in self._queue.lanes.values() for r in requests]
        for request in waiting:
            if request.start or request.future.set_running_or_notify_cancel():
                self._fail(request, EngineError("the engine was closed before this input ran"))


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Return the sizes a batch is padded to: ``SMALLEST_BATCH``, its doubles, and the largest."""
    doubles = (SMALLEST_BATCH << n for n in range(max_batch.bit_length()))
    return (*(d for d in doubles if d < max_batch), max_batch)


def golden_check(engine: Engine, bundle: Bundle) -> None:
    """Run the golden tensors and compare with what the model answered when it was made.

    Raises
    ------
    BundleError
        It answers differently, by how much, and on how many tensors.
    """
    try:
        found = engine.submit(bundle.golden_tensor, Lane.PREDICT).result()
    except EngineError as exc:
        raise BundleError(f"model bundle {bundle.folder}: self-test failed: {exc}") from exc
    difference = np.abs(found - bundle.golden_probability)
    wrong = int((difference > bundle.golden_tolerance).any(axis=1).sum())
    if wrong:
        raise BundleError(
            f"model bundle {bundle.folder}: self-test failed: {wrong} of {len(found)} golden "
            f"tensors differ by up to {difference.max():.2g}, more than "
            f"golden.tolerance = {bundle.golden_tolerance:g}; the weights, or the TensorFlow "
            "that runs them, are not those of the release"
        )


def read_facts(path: Path, file_format: Format) -> network.Facts:
    """Open a Keras file and return what it says of itself.

    Raises
    ------
    BundleError
        It cannot be loaded, or it would run code.
    """
    _, keras = _import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras are not the operator's
        return network.facts_of(network.open_model(keras, path, file_format))


class _KerasBackend:
    """The Keras model of a bundle, as one concrete function on this machine's device.

    The function maps Limen's tensors (0..1) to the range that the model wants, and its raw
    output to calibrated probabilities of the labels.
    """

    def __init__(self, bundle: Bundle, sizes: tuple[int, ...]) -> None:
        with bundle.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != bundle.sha256:
            raise BundleError(f"{bundle.weights} was altered after the bundle was verified")
        tensorflow, keras = _import_tensorflow()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside Keras are not the operator's
            self._start(tensorflow, keras, bundle, sizes)

    def _start(self, tensorflow: Any, keras: Any, bundle: Bundle, sizes: tuple[int, ...]) -> None:
        model = network.open_model(keras, bundle.weights, bundle.weights_format)
        network.refuse_other_shapes(model, bundle)

        def call(batch: Any) -> Any:
            raw = model(_scaled(batch, bundle.scale), training=False)
            if isinstance(raw, list | tuple | dict):  # one output all the same
                (raw,) = raw.values() if isinstance(raw, dict) else raw
            return _probability(tensorflow, tensorflow.cast(raw, tensorflow.float32), bundle)

        signature = tensorflow.TensorSpec((None, *bundle.input_shape), tensorflow.float32)
        function = tensorflow.function(call, input_signature=[signature], autograph=False)
        self._model = model
        self._predict = function.get_concrete_function()
        self._tensor = tensorflow.constant
        for size in sizes:  # the first run of a size compiles its kernels
            self.predict(np.zeros((size, *bundle.input_shape), np.float32))

    def predict(self, batch: Tensor) -> Tensor:
        """See ``Backend``."""
        answer: Tensor = self._predict(self._tensor(batch)).numpy()
        return answer


def _import_tensorflow() -> tuple[Any, Any]:
    """Import TensorFlow quietly: its start-up notes are not for the operator."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with warnings.catch_warnings(), _held_back_stderr():
        warnings.simplefilter("ignore")
        import keras  # noqa: PLC0415 - seconds; only when an engine starts
        import tensorflow  # noqa: PLC0415
    return tensorflow, keras


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Keep file descriptor 2 back; show it only when the block fails.

    TensorFlow 2.21 writes its first lines before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(original, kept.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


def _scaled(batch: Any, scale: tuple[float, float]) -> Any:
    """Map 0..1 to the range that the model was trained on."""
    low, high = scale
    return batch if (low, high) == (0, 1) else batch * (high - low) + low


def _probability(tensorflow: Any, raw: Any, bundle: Bundle) -> Any:
    """Map the raw output to probabilities: activation, calibration, then the direction."""
    if bundle.output.activation == "softmax":
        return tensorflow.nn.softmax(raw / bundle.temperature)
    if bundle.output.activation == "sigmoid":
        found = tensorflow.sigmoid(raw / bundle.temperature)
    elif bundle.temperature != 1:
        inside = tensorflow.clip_by_value(raw, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logit = tensorflow.math.log(inside) - tensorflow.math.log1p(-inside)
        found = tensorflow.sigmoid(logit / bundle.temperature)
    else:
        found = raw
    return 1 - found if bundle.output.inverted else found
