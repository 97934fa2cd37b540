"""worker.work.memory: when a worker is told to end."""

from __future__ import annotations

import numpy as np

from worker.work.memory import Memory, resident_bytes


def test_a_worker_that_has_grown_too_large_is_told_to_end_once() -> None:
    sizes, ends = [50, 99, 101, 150], []
    memory = Memory(100, lambda: sizes.pop(0), lambda: ends.append(1))
    for expected in ([], [], [1], [1]):
        memory.look()
        assert ends == expected


def test_a_worker_that_is_too_large_from_the_start_is_not_ended_for_ever() -> None:
    ends: list[int] = []
    memory = Memory(100, lambda: 101, lambda: ends.append(1))
    memory.start()
    assert ends == []


def test_memory_that_is_used_is_seen() -> None:
    before = resident_bytes()
    block = np.ones(50 << 20, np.uint8)
    assert resident_bytes() - before > len(block) * 0.8
