"""limen.rounds: a thread that is rung for, outlives its faults, and ends when told."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from limen.errors import Unreachable
from limen.rounds import Rounds
from tests.support.node import until


def test_a_round_is_gone_at_the_start_and_at_each_ring() -> None:
    gone = threading.Semaphore(0)
    rounds = Rounds("test", gone.release, every_s=600)
    rounds.start()
    try:
        assert gone.acquire(timeout=10)
        assert not gone.acquire(blocking=False)
        rounds.ring()
        assert gone.acquire(timeout=10)
    finally:
        assert rounds.stop()


def test_without_a_ring_a_round_is_gone_every_so_often() -> None:
    gone = threading.Semaphore(0)
    rounds = Rounds("test", gone.release, every_s=0.01)
    rounds.start()
    try:
        assert all(gone.acquire(timeout=10) for _ in range(5))
    finally:
        rounds.stop()


def test_a_ring_during_a_round_is_not_lost() -> None:
    entered, leave, gone = threading.Event(), threading.Event(), threading.Semaphore(0)

    def go() -> None:
        entered.set()
        assert leave.wait(10)
        gone.release()

    rounds = Rounds("test", go, every_s=600)
    rounds.start()
    try:
        assert entered.wait(10)
        rounds.ring()
        leave.set()
        assert gone.acquire(timeout=10)
        assert gone.acquire(timeout=10)
    finally:
        rounds.stop()


@pytest.mark.parametrize("fault", [Unreachable("away"), RuntimeError("bug"), MemoryError()])
def test_a_fault_ends_no_thread_and_is_told_once(fault: Exception) -> None:
    left = [3]

    def go() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise fault

    rounds = Rounds("test", go, every_s=0.01)
    with capture_logs() as logs:
        rounds.start()
        until(lambda: left[0] < -2, 10, "rounds without a fault")
        rounds.stop()
    assert [(x["event"], x["stage"]) for x in logs] == [
        ("rounds.failing", "test"),
        ("rounds.recovered", "test"),
    ]


def test_stopping_waits_no_longer_than_asked_for_and_says_whether_it_ended() -> None:
    entered, leave = threading.Event(), threading.Event()

    def go() -> None:
        entered.set()
        leave.wait(10)

    rounds = Rounds("test", go, every_s=600)
    rounds.start()
    assert entered.wait(10)
    assert not rounds.stop(0.01)
    assert rounds.stopping
    assert rounds.alive
    leave.set()
    assert rounds.stop(10)


def test_what_was_never_started_can_be_stopped() -> None:
    gone: list[int] = []
    rounds = Rounds("test", lambda: gone.append(1), every_s=600)
    assert rounds.stop()
    assert gone == []
