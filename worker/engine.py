"""One model in this process: a backend behind a batcher, in a thread of its own.

Callers hand in tensors and get a future; ``worker.batcher`` says which of them run together and
in which order, ``worker.backends`` what runs them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

import numpy as np
import structlog

from limen import config
from limen.errors import BundleError, LimenError
from worker.backends import Backend, choice
from worker.batcher import Batcher, Lane, Tensor, batch_sizes
from worker.bundle import Bundle

__all__ = ["Engine", "Lane", "golden_check"]

CLOSE_TIMEOUT_S: Final = 30.0

WORTH_IT: Final = 0.98
"""A larger batch has to take no more than this share of the time of a smaller one for each item."""

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
        The model; by default what ``worker.backends.choice`` chooses, warmed up.
    on_lost
        Called when the device that runs the model is lost, from the engine's thread.
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
                sizes = batch_sizes(settings.max_batch, backend.smallest_batch)
                seconds = _warmed_up(backend, bundle, sizes, clock)
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
        self._on_lost = on_lost
        self._batcher = Batcher(
            backend.predict,
            bundle.input_shape,
            len(bundle.labels),
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

    def submit(self, tensors: Tensor, lane: Lane, timeout_s: float | None = None) -> Future[Tensor]:
        """Queue tensors for the model; see ``Batcher.submit``.

        Raises
        ------
        Busy
            The lane is full; the same call may work later.
        """
        return self._batcher.submit(tensors, lane, timeout_s)

    def expecting(self) -> AbstractContextManager[None]:
        """Announce predict requests; see ``Batcher.expecting``."""
        return self._batcher.expecting()

    def lose(self, reason: str) -> None:
        """Take the device for lost, because it hangs; see ``Batcher.lose``."""
        self._batcher.lose(reason)

    def close(self) -> None:
        """Finish the batch under way and fail what is still waiting."""
        self._batcher.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _serve(self) -> None:
        """Body of the engine's thread; whatever ends it unasked is a lost device to the rest."""
        try:
            self._batcher.serve()
        except BaseException as exc:
            _log.error("engine.fault", error=exc, exc_info=True)
            self._batcher.close()
            self._on_lost()
            raise

    def _probe(self) -> None:
        """Ask the model what it is known to answer; a GPU that is gone, or mad, does not."""
        size = self._batcher.sizes[0]
        known = self._bundle.golden_tensor[: self._batcher.sizes[0]]
        batch = np.zeros((size, *self._bundle.input_shape), np.float32)
        batch[: len(known)] = known
        answer = np.asarray(self._backend.predict(batch), np.float32)
        if answer.shape != (size, len(self._bundle.labels)):
            raise RuntimeError(f"answer of shape {answer.shape}")
        if not np.isfinite(answer).all():
            raise RuntimeError("answer that is no number")


def golden_check(engine: Engine, bundle: Bundle) -> None:
    """Run the golden tensors and compare with what the model answered when it was made.

    Raises
    ------
    BundleError
        It answers differently, by how much, and on how many tensors.
    """
    try:
        found = engine.submit(bundle.golden_tensor, Lane.PREDICT).result()
    except LimenError as exc:
        raise BundleError(f"model bundle {bundle.folder}: self-test failed: {exc}") from exc
    chosen = engine.chosen
    difference = np.abs(found - bundle.golden_probability)
    wrong = int((difference > chosen.tolerance).any(axis=1).sum())
    if wrong:
        raise BundleError(
            f"model bundle {bundle.folder}: self-test failed with {chosen.name}: {wrong} of "
            f"{len(found)} golden tensors differ by up to {difference.max():.2g}, more than the "
            f"allowed {chosen.tolerance:g}; {chosen.remedy}"
        )


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
    for size in sizes:
        batches = [known[start : start + size] for start in range(0, COMPARED, size)]
        found = [_timed(backend, batch, clock) for batch in batches]
        answers[size] = np.concatenate([answer for answer, _ in found])[:COMPARED].tobytes()
        seconds[size] = min(took_s for _, took_s in found)
        if seconds[size] > WORTH_IT * best_s * size:  # the first run of a size makes its kernels
            seconds[size] = min(seconds[size], _timed(backend, batches[0], clock)[1])
        if size > COMPARED and seconds[size] > WORTH_IT * best_s * size:
            break
        best_s = min(best_s, seconds[size] / size)
    usual = Counter(answers.values()).most_common(1)[0][0]
    for size in [size for size in sizes if size in answers and answers[size] != usual]:
        _log.info("engine.size_left_out", count=size, reason="other digits than other sizes")
        del seconds[size]
    return seconds


def _blends(golden: Tensor, count: int) -> Tensor:
    """Return (count, rows, columns, channels) float32: mixtures of known tensors, all different.

    A model is rarely as sure of a mixture; near 0 and 1 its digits hide what it computed.
    """
    share = np.linspace(0, 1, count, dtype=np.float32)[:, None, None, None]
    one = golden[np.arange(count) % len(golden)]
    other = golden[np.arange(1, count + 1) % len(golden)]
    return np.asarray(one * (1 - share) + other * share, np.float32)


def _timed(backend: Backend, batch: Tensor, clock: Callable[[], float]) -> tuple[Tensor, float]:
    began_s = clock()
    answer = backend.predict(batch)
    return answer, clock() - began_s
