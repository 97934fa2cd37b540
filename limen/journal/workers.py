"""Workers: their signs of life."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from limen.journal import deployments
from limen.journal.database import Database
from limen.journal.rows import WorkerSign
from limen.journal.tables import HOLDING, WORKER

__all__ = ["Workers"]

_REMEMBERED = timedelta(hours=1)


class Workers:
    """Who works, as each says itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, worker: WorkerSign, next_s: float) -> None:
        """Note a sign of life; the next one comes within ``next_s``.

        What has not been seen for an hour is forgotten.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        mine = WORKER.c.id == worker.id
        with self._database.writing() as db:
            now = self._database.now(db)
            values = {
                "seen_at": now,
                "expected_at": now + timedelta(seconds=next_s),
                "clock_off_s": self._database.clock_off_s,
            }
            if db.execute(WORKER.update().where(mine).values(**values)).rowcount == 0:
                db.execute(
                    WORKER.insert().values(
                        id=worker.id,
                        host=worker.host,
                        version=worker.version,
                        lanes=",".join(worker.lanes),
                        started_at=now,
                        **values,
                    )
                )
            db.execute(WORKER.delete().where(WORKER.c.seen_at < now - _REMEMBERED))
            # Also of one that had no sign of life yet: it loads its models before the first.
            unknown = HOLDING.c.worker.not_in(sa.select(WORKER.c.id))
            db.execute(HOLDING.delete().where(HOLDING.c.since < now - _REMEMBERED, unknown))

    def gone(self, worker_id: str) -> None:
        """Forget a worker: it has ended, or is known to be dead.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            deployments.forget(db, worker_id)
            db.execute(sa.delete(WORKER).where(WORKER.c.id == worker_id))
