"""One model in this process: a backend behind a batcher, in a thread of its own.

Callers hand in tensors and get a future; ``batcher`` says which of them run together and in
which order, ``backends`` what runs them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

import numpy as np
import structlog

from limen import config
from limen.errors import BundleError, Delayed
from worker.bundles.bundle import Bundle
from worker.serving.backends import Backend, choice
from worker.serving.batcher import Batcher, Lane, Tensor, batch_sizes

__all__ = ["Engine", "Lane"]

CLOSE_TIMEOUT_S: Final = 30.0

LOOK_S: Final = 1.0
"""How often whoever waits for an answer looks whether the model hangs."""

WORTH_IT: Final = 0.98
"""A larger batch has to take no more than this share of the time of a smaller one for each item."""

WARM_UP_S: Final = 20.0
SLOW_BATCH_S: Final = 2.0
"""A warm-up that takes longer goes on to larger batches only where one of the last size takes less
than this: what took so long was making kernels. A slow model would not get faster by them."""

RUNS: Final = 3
QUICK_BATCH_S: Final = 0.1
"""So often each size is timed where that is quick: they differ by a few percent."""

COMPARED: Final = 8
"""Tensors whose answers are compared between sizes, and the size up to which each is tried."""

_log = structlog.get_logger(__name__)


class Engine:
    """The shared model. Thread-safe; ``close`` it, or use it as a context manager.

    Parameters
    ----------
    bundle
        A verified bundle; its input shape and labels are what requests are held to.
    settings
        Section ``[engine]`` of the settings.
    backend
        The model; by default what ``worker.serving.backends.choice`` chooses, warmed up.
    on_lost
        Called when the device that runs the model is lost, from the thread that noticed.
    clock
        Monotonic seconds.

    Raises
    ------
    BundleError
        No backend can run the bundle; its files were altered, cannot be loaded, or do not fit
        the manifest.

    Attributes
    ----------
    chosen
        The backend, by name, with the tolerance of its self-test.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: config.Engine | None = None,
        *,
        backend: Backend | None = None,
        on_lost: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = settings or config.Engine()
        seconds: dict[int, float] = {}
        if backend is None:
            chosen = choice.choose(bundle, settings)
            backend = chosen.backend
            try:
                most = choice.largest_batch(bundle, settings)
                sizes = batch_sizes(most, backend.smallest_batch)
                seconds = _warmed_up(backend, bundle, sizes, clock)
            except Delayed as exc:  # its server is away: studies wait, and it is asked again
                _log.warning("engine.not_warmed_up", bundle=bundle.name, reason=str(exc))
            except Exception as exc:
                raise BundleError(
                    f"model bundle {bundle.folder}: {chosen.name} cannot run it here "
                    f"({type(exc).__name__}); choose another with engine.backend"
                ) from exc
        else:
            chosen = choice.Chosen("given", backend, bundle.golden_tolerance)
        self.chosen = chosen
        self._backend = backend
        self._bundle = bundle
        self._batcher = Batcher(
            backend.predict,
            bundle.input_shape,
            bundle.answer_shape,
            settings,
            sizes=tuple(seconds),
            probe=self._probe,
            on_lost=on_lost,
            clock=clock,
        )
        for size, took_s in seconds.items():
            self._batcher.learn(size, took_s)
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

    @property
    def explain_size(self) -> int:
        """Items of the explain lane that run in one batch, as of now."""
        return self._batcher.explain_size

    @property
    def seconds(self) -> dict[int, float]:
        """What a batch of each allowed size takes, as far as it is known."""
        return self._batcher.seconds

    @property
    def largest_batch(self) -> int:
        """Tensors that the model takes at once."""
        return self._batcher.sizes[-1]

    def submit(self, tensors: Tensor, lane: Lane) -> Future[Tensor]:
        """Queue tensors for the model; see ``Batcher.submit``.

        Raises
        ------
        Busy
            The lane is full; the same call may work later.
        """
        return self._batcher.submit(tensors, lane)

    def answer(self, request: Future[Tensor]) -> Tensor:
        """Wait for the answer to a request, however long the model takes for what goes before it.

        Returns
        -------
        Tensor
            (n, *output_shape) float32 probabilities, 0..1.

        Raises
        ------
        EngineError
            The model does not take these tensors, fails on them, or was closed first.
        Unreachable
            The device is lost. A device that hangs is lost by whoever waits here.
        """
        answer = self.answer_and_map(request)
        return answer[:, : self._bundle.outputs] if self._bundle.map else answer

    def answer_and_map(self, request: Future[Tensor]) -> Tensor:
        """Wait as ``answer`` does; the cells of the model's own map come behind its values.

        Returns
        -------
        Tensor
            (n, *answer_shape) float32, 0..1.
        """
        while not wait([request], LOOK_S).done:
            self._batcher.lose_if_it_hangs()
        return request.result()

    def expecting(self) -> AbstractContextManager[None]:
        """Announce predict requests; see ``Batcher.expecting``."""
        return self._batcher.expecting()

    def close(self) -> None:
        """Finish the batch under way and fail what is still waiting."""
        self._batcher.close()
        if threading.current_thread() is not self._thread and not self._batcher.lost:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _serve(self) -> None:
        """Body of the engine's thread; whatever ends it unasked is a lost device to the rest."""
        try:
            self._batcher.serve()
        except BaseException as exc:
            _log.error("engine.fault", error=exc, exc_info=True)
            self._batcher.lose(f"cannot go on ({type(exc).__name__})")

    def _probe(self) -> None:
        """Ask the model what it is known to answer; a GPU that is gone, or mad, does not."""
        size = self._batcher.sizes[0]
        known = self._bundle.golden_tensor[: self._batcher.sizes[0]]
        batch = np.zeros((size, *self._bundle.input_shape), np.float32)
        batch[: len(known)] = known
        answer = np.asarray(self._backend.predict(batch), np.float32)
        if answer.shape != (size, *self._bundle.answer_shape):
            raise RuntimeError(f"answer of shape {answer.shape}")
        if not np.isfinite(answer).all():
            raise RuntimeError("answer that is no number")


def _warmed_up(
    backend: Backend, bundle: Bundle, sizes: tuple[int, ...], clock: Callable[[], float]
) -> dict[int, float]:
    """Run rising sizes, and return what a batch takes of those that may be used, in seconds.

    A larger size is tried while the one before made each item faster: one that does not would
    only hold more memory and keep others waiting longer. And all sizes have to give a tensor the
    same digits: the company of a slice must not show in its result (invariant I4). What differs
    from most is left out.
    """
    known = _blends(bundle.golden_tensor, COMPARED + sizes[-1])
    answers: dict[int, bytes] = {}
    seconds: dict[int, float] = {}
    best_s = np.inf
    began_s = clock()
    for size in sizes:
        batches = [known[start : start + size] for start in range(0, COMPARED, size)]
        found = [_timed(backend, batch, clock) for batch in batches]
        answers[size] = np.concatenate([answer for answer, _ in found])[:COMPARED].tobytes()
        runs = [took_s for _, took_s in found]
        late = clock() - began_s > WARM_UP_S
        if late or min(runs) > WORTH_IT * best_s * size:  # the first run makes kernels
            runs.append(_timed(backend, batches[0], clock)[1])
        while len(runs) < RUNS and runs[-1] < QUICK_BATCH_S:
            runs.append(_timed(backend, batches[0], clock)[1])
        seconds[size] = min(runs)
        if size >= COMPARED and seconds[size] > WORTH_IT * best_s * size:
            break
        if late and seconds[size] > SLOW_BATCH_S:
            break
        best_s = min(best_s, seconds[size] / size)
    usual = Counter(answers.values()).most_common(1)[0][0]
    for size in [size for size in sizes if size in answers and answers[size] != usual]:
        _log.info("engine.size_left_out", count=size, reason="other digits than other sizes")
        del seconds[size]
    return seconds


def _blends(golden: Tensor, count: int) -> Tensor:
    """Return (count, ...) float32: mixtures of known tensors, all different.

    A model is rarely as sure of a mixture; near 0 and 1 its digits hide what it computed.
    """
    share = np.linspace(0, 1, count, dtype=np.float32).reshape(-1, *[1] * (golden.ndim - 1))
    one = golden[np.arange(count) % len(golden)]
    other = golden[np.arange(1, count + 1) % len(golden)]
    return np.asarray(one * (1 - share) + other * share, np.float32)


def _timed(backend: Backend, batch: Tensor, clock: Callable[[], float]) -> tuple[Tensor, float]:
    began_s = clock()
    answer = backend.predict(batch)
    return answer, clock() - began_s
