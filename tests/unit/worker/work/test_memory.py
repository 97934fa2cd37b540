"""worker.work.memory: when a worker is told to end."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


_ARENAS_OF_EIGHT_THREADS = """
import ctypes, sys, threading
from worker.work.memory import share_arenas
share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
all_there = threading.Barrier(8)
def work():
    all_there.wait(20)
    libc.malloc(ctypes.c_size_t(1000))
    all_there.wait(20)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_do_not_each_keep_the_most_they_ever_needed(tmp_path: Path) -> None:
    told = tmp_path / "malloc.xml"
    program = [sys.executable, "-c", _ARENAS_OF_EIGHT_THREADS, str(told)]
    subprocess.run(program, check=True, timeout=60)
    assert told.read_text("ascii").count("<heap nr=") <= 2
