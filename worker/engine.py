"""One model in this process: a backend behind a batcher, in a thread of its own.

Callers hand in tensors and get a future; ``worker.batcher`` says which of them run together and
in which order, ``worker.backends`` what runs them.
"""

from __future__ import annotations

import threading
import time
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

FIRST_RUN: Final = 1.2
"""A size that takes this much longer for each item than the one before is run and timed again."""

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
                seconds = _warmed_up(backend, bundle, batch_sizes(settings.max_batch), clock)
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
    """Run each size, and return the seconds of those that answer as the smallest one does.

    A size that gives the same tensor other digits than the smallest is left out: the company of
    a slice must not show in its result (invariant I4).
    """
    golden = bundle.golden_tensor[: sizes[0]]
    alone = np.zeros((sizes[0], *bundle.input_shape), np.float32)
    alone[0] = golden[0]
    first = backend.predict(alone)[0]
    known: Tensor | None = None
    found: dict[int, float] = {}
    expected_s = np.inf
    for size in sizes:
        which = np.arange(size) % len(golden)
        answer, took_s = _timed(backend, golden[which], clock)
        if took_s > FIRST_RUN * expected_s * size:  # it compiled its kernels
            answer, took_s = _timed(backend, golden[which], clock)
        known = answer[: len(golden)] if known is None else known
        if np.array_equal(answer, known[which]) and np.array_equal(first, known[0]):
            found[size] = took_s
            expected_s = took_s / size
        else:
            _log.warning("engine.size_left_out", count=size, reason="other digits than alone")
    return found or {sizes[0]: took_s}


def _timed(backend: Backend, batch: Tensor, clock: Callable[[], float]) -> tuple[Tensor, float]:
    began_s = clock()
    answer = backend.predict(batch)
    return answer, clock() - began_s
