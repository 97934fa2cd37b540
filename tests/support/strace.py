"""Faults put into the system calls of a running process, by strace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.node import until
from tests.support.services import program

__all__ = ["injected"]


@contextmanager
def injected(pid: int, fault: str, log: Path) -> Iterator[None]:
    """Put ``fault`` (strace(1), inject) into each thread of a process, until the end."""
    calls = fault.partition(":")[0]
    words = [program("strace", "strace"), "-f", "-p", str(pid), "-o", "/dev/null"]
    with log.open("wb") as output:
        tracer = subprocess.Popen(
            [*words, "-e", f"trace={calls}", "-e", f"inject={fault}"], stderr=output
        )
    try:
        until(lambda: b"attached" in log.read_bytes(), 20, "strace to attach", log.read_text)
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)
