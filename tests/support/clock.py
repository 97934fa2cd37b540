"""A clock that a test sets while processes read it."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.support.services import program

__all__ = ["Clock"]

_SOURCE = Path(__file__).with_suffix(".c")


class Clock:
    """The clock that people set, for the processes with its ``environment``; no other clock."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "clock"
        words = [program("cc", "gcc"), "-shared", "-fPIC", "-O1", "-o", library, _SOURCE]
        subprocess.run(words, check=True, timeout=60)
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_AHEAD_FILE": str(self._file)}

    def set(self, ahead_s: int) -> None:
        """Set it, ``ahead_s`` seconds before the true time."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", ahead_s))
