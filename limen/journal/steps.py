"""Steps of the clock: a journal on SQLite lives by the clock of its host, which somebody may set.

NTP that is at last reached, or a virtual machine that is resumed, sets it by hours: what waits
would wait as much longer, or every lease would seem to have ended. How far it is ahead of a clock
that nobody sets (CLOCK_MONOTONIC) is noted in the journal. Whoever first writes after a step moves
every timer by the same, in the transaction that finds it; until then who reads sees the time as
it was. Records of what happened stay as they are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog

from limen.journal.sqlite import READING
from limen.journal.tables import CIRCUIT, CLOCK, COMMITMENT, DELIVERY, JOB, SHADOW, WORKER
from limen.states import WorkState

__all__ = ["Steps"]

log = structlog.get_logger("limen.journal")

_STEP_S = 2.0
_BOOT, _NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/time")
_WAITING = (WorkState.QUEUED.value, WorkState.SENT.value, WorkState.RUNNING.value)
_TIMERS = {
    **dict.fromkeys((JOB, DELIVERY, SHADOW), ("created_at", "due_at", "publish_at", "lease_until")),
    COMMITMENT: ("created_at", "due_at", "lease_until"),
    CIRCUIT: ("opened_at", "probe_at"),
    WORKER: ("started_at", "seen_at", "expected_at"),
}


class Steps:
    """Finds steps of the clock of this host.

    Parameters
    ----------
    steady
        Returns the seconds of a clock that nobody sets.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._host = _host()
        self._ahead_s: float | None = None

    def now(self, db: sa.Connection, host: datetime) -> datetime:
        """Return the time that the timers of the journal live by.

        Parameters
        ----------
        host
            Now, by the clock of this host.
        """
        ahead_s = host.timestamp() - self._steady()
        if self._ahead_s is not None and abs(ahead_s - self._ahead_s) < _STEP_S:
            return host
        found = sa.select(CLOCK.c.ahead_s).where(CLOCK.c.host == self._host)
        noted = db.scalar(found)
        step_s = 0.0 if noted is None else ahead_s - noted
        if db.get_execution_options().get(READING):
            return host - timedelta(seconds=step_s) if abs(step_s) >= _STEP_S else host
        if abs(step_s) >= _STEP_S:
            _move(db, step_s)
            log.warning("clock.set", seconds=round(step_s, 1))
        if noted is None or abs(step_s) >= _STEP_S:
            db.execute(CLOCK.delete())
            db.execute(CLOCK.insert().values(host=self._host, ahead_s=ahead_s))
            noted = ahead_s
        self._ahead_s = noted
        return host


def _move(db: sa.Connection, step_s: float) -> None:
    for table, names in _TIMERS.items():
        moved = {name: _later(table.c[name], step_s) for name in names}
        waiting = table.c.state.in_(_WAITING) if "state" in table.c else sa.true()
        db.execute(table.update().where(waiting).values(moved))


def _later(column: sa.Column[datetime], step_s: float) -> sa.ColumnElement[str]:
    """Return a time that is ``step_s`` later, to the millisecond, as SQLAlchemy writes it."""
    moved = sa.func.strftime("%Y-%m-%d %H:%M:%f", column, f"{step_s:+.3f} seconds")
    return sa.type_coerce(moved, sa.String).concat("000")


def _host() -> str:
    """Return what names this start of this host, and whose CLOCK_MONOTONIC this process reads."""
    try:
        return f"{_BOOT.read_text('ascii').strip()} {os.readlink(_NAMESPACE)}"
    except OSError:
        return os.uname().nodename
