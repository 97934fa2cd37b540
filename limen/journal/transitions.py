"""The only statements that make a piece of work or change a state.

Each names the old states that it expects (``limen.states``) and says whether it won. Jobs,
deliveries and requests for commitment are claimed and settled by the same two.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from limen.journal.tables import JOB, STUDY
from limen.result import Phase
from limen.states import StudyState, WorkState, sources

__all__ = ["backoff_s", "claim", "is_free", "move_study", "queue", "queue_job", "renew", "settle"]

_BACKOFF_LIMIT = 20
_WAITING = (WorkState.QUEUED.value, WorkState.SENT.value)


def backoff_s(attempts: int, base_s: float, limit_s: float) -> float:
    """Return the wait after the n-th failed attempt: doubling from ``base_s`` to ``limit_s``."""
    return float(min(limit_s, base_s * 2 ** min(max(attempts - 1, 0), _BACKOFF_LIMIT)))


def move_study(
    db: sa.Connection, study_key: str, revision: int, new: StudyState, **values: Any
) -> bool:
    """Bring a revision into another state; return whether it was in one that leads there."""
    statement = (
        STUDY.update()
        .where(
            STUDY.c.study_key == study_key,
            STUDY.c.revision == revision,
            STUDY.c.state.in_(sources(new)),
        )
        .values(state=new.value, **values)
    )
    return db.execute(statement).rowcount == 1


def queue_job(
    db: sa.Connection, study_key: str, revision: int, phase: Phase, now: datetime
) -> None:
    """Make the job of one phase of a revision, due now."""
    key = f"{study_key}-{revision}-{phase.value}"
    queue(db, JOB, key, study_key, revision, phase, now)


def queue(
    db: sa.Connection,
    table: sa.Table,
    key: str,
    study_key: str,
    revision: int,
    phase: Phase,
    now: datetime,
    **more: str | bool,
) -> None:
    """Make a piece of work, due now."""
    db.execute(
        table.insert().values(
            key=key,
            study_key=study_key,
            revision=revision,
            phase=phase.value,
            state=WorkState.QUEUED.value,
            created_at=now,
            due_at=now,
            publish_at=now,
            **more,
        )
    )


def is_free(table: sa.Table, now: datetime) -> sa.ColumnElement[bool]:
    """Nobody works on it: it waits and is due, or is running under a lease that has ended."""
    return sa.or_(
        sa.and_(table.c.state.in_(_WAITING), table.c.due_at <= now),
        sa.and_(table.c.state == WorkState.RUNNING.value, table.c.lease_until < now),
    )


def claim(
    db: sa.Connection, table: sa.Table, key: str, owner: str, now: datetime, lease_s: float
) -> sa.Row[Any] | None:
    """Take a row for ``owner`` and count an attempt; return it, or None when it is not free."""
    statement = (
        table.update()
        .where(
            table.c.key == key, is_free(table, now), table.c.state.in_(sources(WorkState.RUNNING))
        )
        .values(
            state=WorkState.RUNNING.value,
            attempts=table.c.attempts + 1,
            owner=owner,
            **_lost(table),
            **_leased(table, now + timedelta(seconds=lease_s)),
        )
    )
    if db.execute(statement).rowcount != 1:
        return None
    return db.execute(sa.select(table).where(table.c.key == key)).one()


def _lost(table: sa.Table) -> dict[str, Any]:
    """Return what a claim counts when the one before did not end: its worker died."""
    if "losses" not in table.c:
        return {}
    died = sa.case((table.c.state == WorkState.RUNNING.value, 1), else_=0)
    return {"losses": table.c.losses + died}


def renew(
    db: sa.Connection,
    table: sa.Table,
    keys: Collection[str],
    owner: str,
    now: datetime,
    lease_s: float,
) -> None:
    """Extend the claims of ``owner`` on ``keys``; what it no longer holds is left alone."""
    db.execute(
        table.update()
        .where(
            table.c.key.in_(keys),
            table.c.owner == owner,
            table.c.state == WorkState.RUNNING.value,
        )
        .values(**_leased(table, now + timedelta(seconds=lease_s)))
    )


def _leased(table: sa.Table, until: datetime) -> dict[str, Any]:
    """Return what a lease sets: where there are messages, the next one is due when it ends."""
    alarm = {"publications": 0, "publish_at": until} if "publish_at" in table.c else {}
    return {"lease_until": until, **alarm}


def settle(
    db: sa.Connection, table: sa.Table, key: str, owner: str, new: WorkState, **values: Any
) -> bool:
    """End a claim of ``owner``; return False when the row is no longer claimed by it."""
    statement = (
        table.update()
        .where(
            table.c.key == key,
            table.c.owner == owner,
            table.c.state == WorkState.RUNNING.value,
            table.c.state.in_(sources(new)),
        )
        .values(state=new.value, owner=None, lease_until=None, **values)
    )
    return db.execute(statement).rowcount == 1
