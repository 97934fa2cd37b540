"""The engine: the batcher in its thread, and the models behind it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.errors import BundleError, EngineError, Unreachable
from tests.support.synthetic import fake_bundle
from worker.bundles import bundle as bundles
from worker.serving.engine import Engine, Lane
from worker.serving.self_test import golden_check

SHAPE = (4, 4, 1)
BUNDLE = fake_bundle(size=(4, 4), windows=((40.0, 80.0),))
TIMEOUT_S = 20


def tensors(*values: float) -> np.ndarray:
    return np.stack([np.full(SHAPE, value, np.float32) for value in values])


class Echo:
    """Answers with the first pixel; notes its batches; can be held at its door."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[np.ndarray] = []
        self.door = threading.Event()
        self.entered = threading.Event()
        if not held:
            self.door.set()

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.entered.set()
        assert self.door.wait(TIMEOUT_S)
        first = batch[:, 0, 0, :]
        self.batches.append(first.copy())
        if (first == np.float32(0.99)).any():
            raise RuntimeError("this input breaks the model")
        return np.where(first == np.float32(0.98), np.nan, first)


def held_engine(**options: int) -> tuple[Engine, Echo]:
    """Return an engine whose thread waits inside a first batch."""
    echo = Echo(held=True)
    engine = Engine(BUNDLE, config.Engine(max_wait_ms=0, **options), backend=echo)
    engine.submit(tensors(0.0), Lane.PREDICT)
    assert echo.entered.wait(TIMEOUT_S)
    return engine, echo


def test_every_request_gets_its_own_answer() -> None:
    rng = np.random.default_rng(5)
    with Engine(BUNDLE, config.Engine(max_batch=8, max_wait_ms=1), backend=Echo()) as engine:
        answers = {}

        def caller(name: int) -> None:
            values = rng_values[name]
            lane = Lane(name % 2)
            answers[name] = engine.submit(tensors(*values), lane).result(TIMEOUT_S)

        rng_values = [rng.random(rng.integers(1, 30)).astype(np.float32) * 0.9 for _ in range(40)]
        threads = [threading.Thread(target=caller, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    for name, values in enumerate(rng_values):
        np.testing.assert_array_equal(answers[name][:, 0], values)


def test_a_lost_device_is_told_to_the_process_and_to_everyone_who_waits() -> None:
    lost = threading.Event()
    echo = Echo(held=True)
    engine = Engine(BUNDLE, config.Engine(max_wait_ms=0), backend=echo, on_lost=lost.set)
    futures = [engine.submit(tensors(value), Lane(n % 2)) for n, value in enumerate((0.1, 0.2))]
    engine._batcher._model = gone
    echo.door.set()
    later = engine.submit(tensors(0.3), Lane.PREDICT)
    assert lost.wait(TIMEOUT_S)
    for future in (*futures[1:], later):
        with pytest.raises(Unreachable, match="is taken for lost"):
            future.result(TIMEOUT_S)
    engine.close()


def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = threading.Event()
    echo = Echo(held=True)
    engine = Engine(BUNDLE, config.Engine(max_wait_ms=0), backend=echo, on_lost=lost.set)
    first = engine.submit(tensors(0.1), Lane.PREDICT)
    assert echo.entered.wait(TIMEOUT_S)
    waiting = [engine.submit(tensors(0.2), lane) for lane in Lane]

    def broken() -> list:
        raise ZeroDivisionError

    monkeypatch.setattr(engine._batcher, "_next", broken)
    echo.door.set()
    assert engine.answer(first)[0, 0] == np.float32(0.1)
    for request in waiting:
        with pytest.raises(Unreachable, match=r"cannot go on \(ZeroDivisionError\)"):
            engine.answer(request)
    assert lost.wait(TIMEOUT_S)
    engine.close()


def gone(batch: np.ndarray) -> np.ndarray:
    raise RuntimeError("the device is gone")


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((1, *SHAPE), np.nan, np.float32),
        np.zeros((1, 5, 4, 1), np.float32),
        np.zeros((1, *SHAPE), np.float64),
        np.zeros(SHAPE, np.float32),
    ],
)
def test_input_that_the_model_does_not_take_fails_at_once(wrong: np.ndarray) -> None:
    with Engine(BUNDLE, backend=Echo()) as engine, pytest.raises(EngineError):
        engine.submit(wrong, Lane.PREDICT).result(0)


def test_no_tensors_give_no_answers() -> None:
    with Engine(BUNDLE, backend=Echo()) as engine:
        empty = engine.submit(np.zeros((0, *SHAPE), np.float32), Lane.PREDICT)
        assert empty.result(0).shape == (0, 1)


def test_closing_fails_what_is_waiting() -> None:
    engine, echo = held_engine(max_batch=2)
    waiting = engine.submit(tensors(0.1), Lane.EXPLAIN)
    closer = threading.Thread(target=engine.close)
    closer.start()
    deadline_s = time.monotonic() + TIMEOUT_S
    while not engine._batcher._closed and time.monotonic() < deadline_s:
        threading.Event().wait(0.001)
    echo.door.set()
    with pytest.raises(EngineError, match="closed"):
        waiting.result(TIMEOUT_S)
    closer.join(TIMEOUT_S)
    with pytest.raises(EngineError, match="closed"):
        engine.submit(tensors(0.1), Lane.PREDICT).result(0)


def test_the_first_item_waits_for_company_no_longer_than_it_may() -> None:
    with Engine(BUNDLE, config.Engine(max_batch=8, max_wait_ms=20), backend=Echo()) as engine:
        assert engine.submit(tensors(0.5), Lane.PREDICT).result(TIMEOUT_S)[0, 0] == 0.5


def test_the_keras_model_gives_the_same_answer_in_any_batch(tiny_bundle: Path) -> None:
    bundle = bundles.load(tiny_bundle)
    images = np.random.default_rng(3).random((20, 32, 32, 3), dtype=np.float32)
    with Engine(bundle, config.Engine(max_batch=16)) as engine:
        golden_check(engine, bundle)
        together = engine.submit(images, Lane.EXPLAIN).result(TIMEOUT_S)
        alone = [engine.submit(i[None], Lane.PREDICT).result(TIMEOUT_S) for i in images]
    np.testing.assert_array_equal(np.concatenate(alone), together)


def test_weights_altered_after_loading_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    altered = tmp_path / "model.keras"
    altered.write_bytes((tiny_bundle / "model.keras").read_bytes() + b"x")
    with pytest.raises(BundleError, match="altered"):
        Engine(replace(bundles.load(tiny_bundle), weights=altered))


def test_a_model_of_another_shape_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"input\.size"):
        Engine(replace(bundles.load(tiny_bundle), size=(16, 16)))
