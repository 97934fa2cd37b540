"""Telling a supervisor how a process is: the datagrams of sd_notify(3).

systemd units of ``Type=notify`` and ``limen up`` listen for the same messages. The results server
says them for itself (``web.readiness``): it imports nothing of ours.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

import structlog

__all__ = ["Sign", "Watchdog", "say_ready", "say_stopping"]

log = structlog.get_logger("limen.readiness")

_PATIENCE_S = 2.0
_LEAST_S = 0.05


def say_ready() -> None:
    """Send ``READY=1`` to the socket named by ``NOTIFY_SOCKET``, if anyone listens.

    A supervisor that does not read its socket holds this process up for two seconds at most.
    """
    _say(b"READY=1")


def say_stopping() -> None:
    """Send ``STOPPING=1``: what is under way may end, and nothing new is taken."""
    _say(b"STOPPING=1")


def _say(text: bytes) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # abstract name space
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_PATIENCE_S)
        try:
            sock.sendto(text, address)
        except OSError:
            return  # a supervisor that is gone, or does not read, is no reason to stop


class Sign:
    """A sign of life of one part of a process; the part shows it each time it comes round."""

    def __init__(self) -> None:
        self._shown_s = time.monotonic()

    def show(self) -> None:
        """Note that the part lives."""
        self._shown_s = time.monotonic()

    def silent_s(self) -> float:
        """Return the seconds since the sign was shown."""
        return time.monotonic() - self._shown_s


class Watchdog:
    """Says ``WATCHDOG=1`` while every part of this process has shown its sign of late.

    A thread that only says that it lives would go on while all others hang. So nothing is said as
    soon as one part has been silent for half of the time that the supervisor waits; it then ends
    this process and starts a new one.

    Parameters
    ----------
    parts
        Returns, by name, the seconds for which a part has been silent.
    ask
        Called before each look, for parts that show a sign only when they are asked.
    """

    def __init__(
        self, parts: Mapping[str, Callable[[], float]], ask: Callable[[], None] = lambda: None
    ) -> None:
        self._parts = parts
        self._ask = ask
        self._limit_s = _asked_for_s()
        self._silent: list[str] = []

    @property
    def every_s(self) -> float | None:
        """Seconds from one look to the next; None when no supervisor waits for any."""
        return self._limit_s and max(self._limit_s / 4, _LEAST_S)

    def look(self) -> None:
        """Say that this process lives, if all of its parts do."""
        if self._limit_s is None:
            return
        self._ask()
        silent = [n for n, seconds in self._parts.items() if seconds() > self._limit_s / 2]
        if silent != self._silent:
            (log.error if silent else log.info)("watchdog.silent", stage=", ".join(silent) or "-")
        self._silent = silent
        if not silent:
            _say(b"WATCHDOG=1")

    def start(self) -> None:
        """Look again and again, from a thread that ends with the process."""
        every_s = self.every_s
        if every_s is not None:
            threading.Thread(
                target=self._run, args=(every_s,), name="watchdog", daemon=True
            ).start()

    def _run(self, every_s: float) -> None:
        while True:
            try:
                self.look()
            except Exception:  # then nothing is said, which is the point
                log.error("watchdog.fault", exc_info=True)
            time.sleep(every_s)


def _asked_for_s() -> float | None:
    """Return after how many seconds of silence the supervisor acts; None when it does not."""
    for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not (for_us and microseconds.isdecimal() and int(microseconds)):
        return None
    return int(microseconds) / 1_000_000
