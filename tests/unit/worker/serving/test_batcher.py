"""The batcher without a thread: a clock that the test moves, and one batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen import config
from limen.errors import Busy, EngineError, Unreachable
from worker.serving.batcher import Batcher, Lane, batch_sizes

SHAPE = (2, 2, 1)
BAD, NO_NUMBER = 0.99, 0.98


def from_8(largest: int) -> tuple[int, ...]:
    """Sizes of a model that answers otherwise to fewer."""
    return (*(size for size in (8, 16, 32) if size < largest), largest)


def tensors(*values: float) -> np.ndarray:
    return np.stack([np.full(SHAPE, value, np.float32) for value in values])


@dataclass
class Bench:
    """A model that answers with the first pixel and takes its time on a clock of its own."""

    options: dict[str, float] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    now_s: float = 0.0
    setup_s: float = 0.0
    item_s: float = 0.001
    during: Callable[[], object] = lambda: None
    dead: bool = False
    lost: int = 0
    batches: list[np.ndarray] = field(default_factory=list)
    log: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = {"max_wait_ms": 0, **self.options}
        self.batcher = Batcher(
            self.predict,
            SHAPE,
            (1,),
            config.Engine(**chosen),
            sizes=self.sizes or from_8(chosen.get("max_batch", 32)),
            probe=self.probe,
            on_lost=self.count_lost,
            clock=lambda: self.now_s,
        )

    def predict(self, batch: np.ndarray) -> np.ndarray:
        first = batch[:, 0, 0, :]
        self.batches.append(first[:, 0].copy())
        self.now_s += self.setup_s + self.item_s * len(batch)
        self.during()
        if self.dead or (first == np.float32(BAD)).any():
            raise RuntimeError("this input breaks the model")
        return np.where(first == np.float32(NO_NUMBER), np.nan, first)

    def probe(self) -> None:
        if self.dead:
            raise RuntimeError("no device")

    def count_lost(self) -> None:
        self.lost += 1

    def submit(self, *values: float, lane: Lane = Lane.PREDICT) -> Future:
        return self.batcher.submit(tensors(*values), lane)

    def explain(self, *values: float) -> Future:
        return self.submit(*values, lane=Lane.EXPLAIN)

    def run_all(self) -> None:
        """Run what is due; move the clock to where the batcher would wake up."""
        for _ in range(100_000):
            if self.batcher.step():
                continue
            patience_s = self.batcher._patience_s()
            if patience_s is None:
                return
            self.now_s += patience_s + 1e-6
        raise AssertionError("it never ends")

    def learned(self) -> Bench:
        for size in self.batcher.sizes:
            self.batcher.learn(size, self.setup_s + self.item_s * size)
        return self


def answer(future: Future) -> list[float]:
    return [round(float(v), 4) for v in future.result(0)[:, 0]]


def kinds(bench: Bench) -> list[float]:
    """The first value of each batch."""
    return [round(float(batch[0]), 4) for batch in bench.batches]


# -- batches -----------------------------------------------------------------------------------


def test_allowed_sizes_double_up_to_the_largest() -> None:
    assert batch_sizes(32) == (1, 2, 4, 8, 16, 32)
    assert batch_sizes(12) == (1, 2, 4, 8, 12)
    assert batch_sizes(1) == (1,)


def test_requests_share_a_batch_padded_with_air_to_an_allowed_size() -> None:
    bench = Bench()
    futures = [bench.submit(*[value] * 3) for value in (0.1, 0.2, 0.3)]
    assert bench.batcher.step()
    assert [answer(f) for f in futures] == [[0.1] * 3, [0.2] * 3, [0.3] * 3]
    assert len(bench.batches[0]) == 16
    assert not bench.batches[0][9:].any()


def test_the_first_item_waits_for_company_as_long_as_it_may_and_no_longer() -> None:
    bench = Bench({"max_wait_ms": 20})
    future = bench.submit(0.5)
    assert not bench.batcher.step()
    bench.now_s = 0.019
    assert not bench.batcher.step()
    bench.now_s = 0.020
    assert bench.batcher.step()
    assert answer(future) == [0.5]


def test_a_full_batch_waits_for_nobody() -> None:
    bench = Bench({"max_wait_ms": 20, "max_batch": 8})
    bench.submit(*[0.5] * 8)
    assert bench.batcher.step()


def test_a_request_larger_than_a_batch_is_answered_whole_and_in_order() -> None:
    bench = Bench({"max_batch": 8})
    values = [round(0.01 * n, 2) for n in range(30)]
    future = bench.submit(*values)
    bench.run_all()
    assert answer(future) == values
    assert [len(b) for b in bench.batches] == [8, 8, 8, 8]


def test_what_waits_is_split_where_padding_would_cost_more_than_another_batch() -> None:
    bench = Bench(sizes=(4, 8, 16, 32), item_s=0.002).learned()
    values = [round(0.01 * n, 2) for n in range(1, 29)]
    futures = [bench.submit(value) for value in values]
    bench.run_all()
    assert [len(b) for b in bench.batches] == [16, 8, 4]
    assert [answer(f) for f in futures] == [[v] for v in values]
    dear = Bench(sizes=(4, 8, 16, 32), item_s=0.0001, setup_s=0.02).learned()
    dear.submit(*values)
    dear.run_all()
    assert [len(b) for b in dear.batches] == [32]


def test_predictions_run_in_batches_of_the_size_that_is_fastest_for_each_item() -> None:
    bench = Bench(sizes=(1, 2, 4, 8, 16))
    for size, each_s in ((1, 0.0043), (2, 0.0037), (4, 0.0036), (8, 0.0040), (16, 0.0042)):
        bench.batcher.learn(size, size * each_s)
    future = bench.submit(*[n / 100 for n in range(18)])
    bench.run_all()
    assert [len(batch) for batch in bench.batches] == [4, 4, 4, 4, 2]
    assert answer(future) == [n / 100 for n in range(18)]


def test_a_batch_shows_nothing_of_the_one_before_it() -> None:
    bench = Bench(sizes=(8,))
    bench.submit(*[0.9] * 4), bench.submit(*[0.9] * 4)
    bench.run_all()
    bench.submit(0.1), bench.submit(0.2)
    bench.run_all()
    assert bench.batches[-1].tolist() == [np.float32(0.1), np.float32(0.2), *[0] * 6]


# -- lanes ---------------------------------------------------------------------------------------


def test_predictions_go_before_explanations_and_between_their_batches() -> None:
    bench = Bench({"max_batch": 8}, item_s=0.001).learned()
    explain = bench.explain(*[0.1] * 24)
    assert bench.batcher.step()
    predict = bench.submit(*[0.2] * 8)
    bench.run_all()
    assert kinds(bench) == [0.1, 0.2, 0.1, 0.1]
    assert answer(explain) == [0.1] * 24
    assert answer(predict) == [0.2] * 8


def test_a_prediction_that_waits_for_company_is_not_overtaken_by_an_explanation() -> None:
    bench = Bench({"max_wait_ms": 20}).learned()
    bench.submit(0.2)
    bench.explain(*[0.1] * 32)
    assert not bench.batcher.step()
    bench.now_s = 0.02
    assert bench.batcher.step()
    assert kinds(bench) == [0.2]


def test_an_announced_prediction_keeps_explanations_to_their_share_of_the_time() -> None:
    bench = Bench({"explain_share": 0.25}).learned()
    with bench.batcher.expecting():
        bench.explain(*[0.1] * 320)
        assert not bench.batcher.step()
        while bench.now_s < 1.0:
            if not bench.batcher.step():
                bench.now_s += max(bench.batcher._patience_s(), 1e-6)
        used_s = sum(len(b) for b in bench.batches) * bench.item_s
        assert used_s == pytest.approx(0.25, abs=0.02)
    bench.run_all()
    assert sum(len(b) for b in bench.batches) == 320


def test_explanations_leave_the_gap_between_two_studies_to_the_second() -> None:
    bench = Bench({"max_wait_ms": 5, "explain_share": 0.01}, item_s=0.002).learned()
    bench.explain(*[0.1] * 32)
    bench.submit(*[0.2] * 32)
    assert bench.batcher.step()
    assert not bench.batcher.step()
    second = bench.submit(*[0.3] * 32)
    assert bench.batcher.step()
    assert answer(second) == [0.3] * 32
    assert not bench.batcher.step()
    bench.now_s += 0.006
    assert bench.batcher.step()
    assert kinds(bench) == [0.2, 0.3, 0.1]


def test_explain_batches_stay_below_the_latency_that_a_prediction_may_wait() -> None:
    bench = Bench({"predict_latency_ms": 20}, sizes=(8, 16, 32, 64), setup_s=0.004).learned()
    assert bench.batcher.explain_size == 16  # 12, 20 and 36 ms
    bench.explain(*[0.1] * 64)
    bench.run_all()
    assert {len(b) for b in bench.batches} == {16}


def test_of_sizes_that_are_equally_fast_for_each_item_the_smallest_explains() -> None:
    assert Bench(item_s=0.002).learned().batcher.explain_size == 8
    assert Bench(item_s=0.001, setup_s=0.02).learned().batcher.explain_size == 32


def test_beside_predictions_explanations_run_in_smaller_batches() -> None:
    bench = Bench({"explain_share": 0.5}, item_s=0.002, setup_s=0.008).learned()
    assert bench.batcher.explain_size == 32
    with bench.batcher.expecting():
        assert bench.batcher.explain_size == 8
        bench.explain(*[0.1] * 32)
        bench.run_all()
        assert {len(b) for b in bench.batches} == {8}


def test_a_model_too_slow_for_the_latency_explains_in_the_smallest_batches() -> None:
    assert Bench(item_s=1.0).learned().batcher.explain_size == 8


def test_what_a_batch_takes_is_learned_while_it_runs() -> None:
    bench = Bench({"predict_latency_ms": 40}, item_s=0.001, setup_s=0.008).learned()
    assert bench.batcher.explain_size == 32
    bench.item_s = 0.004  # somebody else took half of the machine
    bench.explain(*[0.1] * 640)
    bench.run_all()
    assert bench.batcher.explain_size == 8


# -- answers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [BAD, NO_NUMBER], ids=["model raises", "answer is NaN"])
def test_one_bad_input_fails_alone(bad: float) -> None:
    bench = Bench()
    futures = [bench.submit(value) for value in (0.1, bad, 0.3)]
    bench.run_all()
    assert answer(futures[0]) == [0.1]
    assert answer(futures[2]) == [0.3]
    with pytest.raises(EngineError):
        futures[1].result(0)
    assert bench.lost == 0


def test_an_answer_of_the_wrong_shape_is_told() -> None:
    bench = Bench()
    bench.batcher._model = lambda batch: np.zeros((len(batch), 2), np.float32)
    future = bench.submit(0.1)
    bench.run_all()
    with pytest.raises(EngineError, match="model failed"):
        future.result(0)


def test_a_device_that_fails_on_what_it_knew_is_lost_once_and_everyone_is_told() -> None:
    bench = Bench({"max_batch": 8}).learned()
    futures = [bench.submit(0.1), bench.submit(0.2), bench.explain(*[0.3] * 20)]
    bench.dead = True
    bench.run_all()
    for future in futures:
        with pytest.raises(Unreachable, match="lost"):
            future.result(0)
    assert bench.lost == 1
    with pytest.raises(Unreachable):
        bench.submit(0.4).result(0)


def test_a_device_that_hangs_can_be_taken_for_lost_from_another_thread() -> None:
    bench = Bench()
    waiting = bench.explain(0.1)
    bench.batcher.lose("gave no answer")
    bench.batcher.lose("gave no answer")
    with pytest.raises(Unreachable):
        waiting.result(0)
    assert bench.lost == 1
    assert not bench.batcher.step()


def test_a_batch_that_takes_far_longer_than_any_is_of_a_device_that_hangs() -> None:
    bench = Bench({"max_batch": 8}, item_s=15.1)  # 121 s for a batch of a size never seen
    bench.during = bench.batcher.lose_if_it_hangs
    futures = [bench.submit(*[0.1] * 12), bench.explain(0.2)]
    bench.run_all()
    assert bench.lost == 1
    for future in futures:  # the one inside the model too
        with pytest.raises(Unreachable, match="gave no answer to a batch"):
            future.result(0)
    assert len(bench.batches) == 1


@pytest.mark.parametrize(("item_s", "known"), [(14.9, False), (100.0, True)])
def test_a_model_that_is_only_slow_never_hangs(item_s: float, known: bool) -> None:
    bench = Bench({"max_batch": 8}, item_s=item_s)
    if known:
        bench.learned()
    bench.item_s *= 9 if known else 1  # others took the rest of the machine
    bench.during = bench.batcher.lose_if_it_hangs
    futures = [bench.submit(*[0.1] * 40), bench.explain(*[0.2] * 40)]
    bench.run_all()
    assert [answer(future) for future in futures] == [[0.1] * 40, [0.2] * 40]
    bench.now_s += 10_000  # nothing runs: nothing hangs
    bench.batcher.lose_if_it_hangs()
    assert bench.lost == 0


def test_a_probe_that_hangs_is_of_a_lost_device() -> None:
    bench = Bench({"max_batch": 8})

    def probe() -> None:
        bench.now_s += 121
        bench.batcher.lose_if_it_hangs()

    bench.batcher._probe = probe
    future = bench.submit(BAD)
    bench.run_all()
    with pytest.raises(Unreachable, match="gave no answer"):
        future.result(0)


def test_a_full_lane_says_busy_and_leaves_the_other_lane_open() -> None:
    bench = Bench({"max_queue": 16}).learned()
    bench.explain(*[0.1] * 16)
    with pytest.raises(Busy, match="explain lane has 16 of 16"):
        bench.explain(0.1)
    predict = bench.submit(0.2)
    bench.run_all()
    assert answer(predict) == [0.2]
    assert bench.explain(0.3) is not None


def test_a_cancelled_request_never_reaches_the_model_and_frees_its_place() -> None:
    bench = Bench({"max_queue": 16})
    cancelled, kept = bench.submit(*[0.1] * 8), bench.submit(0.2)
    assert cancelled.cancel()
    bench.run_all()
    assert answer(kept) == [0.2]
    assert not any((b == np.float32(0.1)).any() for b in bench.batches)
    again = bench.submit(*[0.3] * 16)
    bench.run_all()
    assert answer(again) == [0.3] * 16


def test_closing_answers_what_waits() -> None:
    bench = Bench()
    waiting = bench.explain(0.1)
    bench.batcher.close()
    assert not bench.batcher.step()
    with pytest.raises(EngineError, match="closed"):
        waiting.result(0)
    with pytest.raises(EngineError, match="closed"):
        bench.submit(0.1).result(0)


# -- properties ----------------------------------------------------------------------------------

VALUES = st.one_of(st.integers(0, 90).map(lambda n: n / 100), st.sampled_from([BAD, NO_NUMBER]))
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.sampled_from(Lane),
            st.lists(VALUES, min_size=1, max_size=40),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0, 0.1)),
        st.tuples(st.just("step")),
        st.tuples(st.just("announce")),
        st.tuples(st.just("end")),
        st.tuples(st.just("die")),
        st.tuples(st.just("hang")),
        st.tuples(st.just("close")),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(
    events=EVENTS,
    max_batch=st.sampled_from([1, 8, 12, 32]),
    max_wait_ms=st.sampled_from([0, 5]),
    max_queue=st.sampled_from([40, 4096]),
)
def test_every_submit_gets_exactly_one_answer_and_it_is_its_own(
    events: list[tuple], max_batch: int, max_wait_ms: int, max_queue: int
) -> None:
    options = {"max_batch": max_batch, "max_wait_ms": max_wait_ms, "max_queue": max_queue}
    callers = Callers(bench := Bench(options, sizes=batch_sizes(max_batch)).learned())
    for kind, *rest in events:
        getattr(callers, kind)(*rest)
    bench.run_all()
    assert sorted(callers.answers) == list(range(len(callers.asked)))
    for values, future in callers.asked:
        if future.cancelled():
            continue
        error = future.exception(0)
        assert isinstance(error, EngineError | Busy | Unreachable | None)
        if error is None:
            np.testing.assert_array_equal(future.result(0)[:, 0], np.float32(values))
            assert not {BAD, NO_NUMBER} & set(values)
    assert all(len(batch) in bench.batcher.sizes for batch in bench.batches)
    assert not any(bench.batcher._items.values())
    assert bench.lost <= 1


class Callers:
    """What the callers of a batcher may do to it, in any order."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.asked: list[tuple[list[float], Future]] = []
        self.answers: list[int] = []
        self.announced: list[ExitStack] = []

    def submit(self, lane: Lane, values: list[float]) -> None:
        number = len(self.asked)
        with suppress(Busy):
            future = self.bench.submit(*values, lane=lane)
            future.add_done_callback(lambda _: self.answers.append(number))
            self.asked.append((values, future))

    def cancel(self, number: int) -> None:
        if number < len(self.asked):
            self.asked[number][1].cancel()

    def wait(self, seconds: float) -> None:
        self.bench.now_s += seconds

    def step(self) -> None:
        self.bench.batcher.step()

    def announce(self) -> None:
        self.announced.append(ExitStack())
        self.announced[-1].enter_context(self.bench.batcher.expecting())

    def end(self) -> None:
        if self.announced:
            self.announced.pop().close()

    def die(self) -> None:
        self.bench.dead = True

    def hang(self) -> None:
        """The next batch takes too long, and somebody looks meanwhile."""

        def during() -> None:
            self.bench.now_s += 1000
            self.bench.batcher.lose_if_it_hangs()

        self.bench.during = during

    def close(self) -> None:
        self.bench.batcher.close()


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.tuples(st.sampled_from(Lane), st.integers(1, 40)), max_size=30))
def test_a_lane_is_served_in_the_order_of_its_requests(counts: list[tuple[Lane, int]]) -> None:
    bench = Bench().learned()
    total = sum(n for _, n in counts) + 1
    number = 0
    wanted: dict[Lane, list[float]] = {lane: [] for lane in Lane}
    for lane, count in counts:
        values = [float(np.float32((number + n + 1) / total * 0.9)) for n in range(count)]
        number += count
        wanted[lane] += values
        bench.submit(*values, lane=lane)
    bench.run_all()
    seen = [float(v) for batch in bench.batches for v in batch if v]  # padding is 0
    for lane in Lane:
        members = set(wanted[lane])
        assert [v for v in seen if v in members] == wanted[lane]
    assert len(seen) == number


@settings(max_examples=50, deadline=None)
@given(
    share=st.floats(0.05, 0.9),
    item_s=st.floats(0.0001, 0.02),
    setup_s=st.floats(0, 0.02),
    max_batch=st.sampled_from([8, 32, 64]),
)
def test_under_endless_predictions_explanations_get_their_share_and_no_more(
    share: float, item_s: float, setup_s: float, max_batch: int
) -> None:
    bench = Bench(
        {"explain_share": share, "max_batch": max_batch, "max_queue": 100_000},
        item_s=item_s,
        setup_s=setup_s,
    ).learned()
    one_s = setup_s + item_s * max_batch
    enough_s = 6 * one_s / share
    bench.explain(*[0.1] * 1000)
    explained_s = 0.0
    while bench.now_s < enough_s and bench.batcher._items[Lane.EXPLAIN]:
        if bench.batcher._items[Lane.PREDICT] < max_batch:
            bench.submit(*[0.2] * max_batch)
        assert bench.batcher.step()
        last = bench.batches[-1]
        explained_s += (last[0] == np.float32(0.1)) * (setup_s + item_s * len(last))
        fair_s = share * bench.now_s
        assert fair_s - 2 * one_s - 1e-9 <= explained_s <= fair_s + one_s + 1e-9
