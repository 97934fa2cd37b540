"""Telling a supervisor that the results server is ready, and lives: sd_notify(3).

The sign is a request that goes the way of every other: through the port, the process that serves,
Django, and back. Gunicorn says that it is ready before any process serves; so it is not asked.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

__all__ = ["Supervisor"]

LOG = logging.getLogger(__name__)
PATIENCE_S = 2.0
ANSWER_S = 20.0
RETRY_S = 0.1
PAGE = "/healthz"


class Supervisor:
    """Whoever started this process and wants to hear of it; taken out of the environment.

    Parameters
    ----------
    host, port
        Where the server listens.
    """

    def __init__(self, host: str, port: int) -> None:
        self._where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # The process that serves is a child of the one that systemd knows.
        limit = os.environ.pop("WATCHDOG_USEC", "")
        os.environ.pop("WATCHDOG_PID", None)
        self._limit_s = int(limit) / 1_000_000 if limit.isdecimal() else 0.0

    def watch(self) -> None:
        """Say READY when the first request is answered, then WATCHDOG as long as others are."""
        if self._address:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def say(self, text: str) -> None:
        """Send one message; who does not listen is no reason to stop."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE_S)
            try:
                sock.sendto(text.encode(), self._address)
            except OSError:
                LOG.debug("watchdog.unheard")

    def _run(self) -> None:
        _until(self._answers)
        self.say("READY=1")
        while self._limit_s:
            if self._answers():
                self.say("WATCHDOG=1")
            else:
                LOG.error("watchdog.silent", extra={"stage": "requests"})
            time.sleep(self._limit_s / 4)

    def _answers(self) -> bool:
        timeout_s = min(ANSWER_S, self._limit_s / 4) if self._limit_s else ANSWER_S
        asking = http.client.HTTPConnection(*self._where, timeout=timeout_s)
        try:
            asking.request("GET", PAGE)
            return asking.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asking.close()


def _until(probe: Callable[[], bool]) -> None:
    while not probe():
        time.sleep(RETRY_S)
