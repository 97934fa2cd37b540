"""A thread that does one thing again and again: when it is rung for, and every so often."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from limen.errors import LimenError
from limen.readiness import Sign

__all__ = ["Rounds"]

log = structlog.get_logger("limen.rounds")


class Rounds:
    """Goes a round at its start, at each ring, and at the latest every ``every_s``.

    No fault ends it: the first of a row is logged, and so is the round after the last.

    Parameters
    ----------
    name
        Of the thread, and of this in the log.
    go
        One round.
    every_s
        Seconds from the end of a round to the next, when nobody rings.

    Attributes
    ----------
    sign
        Shown when a round begins and when it ends; a long one shows it meanwhile.
    """

    def __init__(self, name: str, go: Callable[[], object], every_s: float) -> None:
        self._name = name
        self._go = go
        self._every_s = every_s
        self._bell = threading.Event()
        self._stopped = threading.Event()
        self._failing = False
        self.sign = Sign()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ring(self) -> None:
        """Ask for a round at once, or for another after the one that is on its way."""
        self._bell.set()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Go no more rounds; wait for the one that is on its way, and return whether it ended."""
        self._stopped.set()
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called: a long round looks at it, to end early."""
        return self._stopped.is_set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self.stopping:
            self.sign.show()
            self._bell.clear()  # before the round: who rings from here on gets another
            try:
                self._go()
            except Exception as exc:  # the thread must outlive any fault of a round
                self._note(exc)
            else:
                self._note(None)
            self.sign.show()
            self._bell.wait(self._every_s)

    def _note(self, fault: Exception | None) -> None:
        if fault is None:
            if self._failing:
                log.info("rounds.recovered", stage=self._name)
        elif not self._failing:
            known = isinstance(fault, LimenError)
            log.error("rounds.failing", stage=self._name, error=fault, exc_info=not known)
        self._failing = fault is not None
