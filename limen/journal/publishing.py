"""Publishing: which work needs a message, and which message went out last."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from limen.journal import circuits
from limen.journal.database import Database
from limen.journal.kinds import KINDS, W, kind_of, of_lane, order, value
from limen.journal.rows import Delivery, Work
from limen.journal.tables import DELIVERY
from limen.journal.transitions import is_free

__all__ = ["Publishing"]

_DOUBLINGS = 6


class Publishing:
    """What the dispatcher asks and notes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, limit: int = 500) -> list[Work]:
        """Return work that is due and whose message, if any, is old: publish it.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._database.reading() as db:
            now = self._database.now(db)
            return [
                work
                for kind, table in KINDS.items()
                for work in _free(db, kind, now, table.c.publish_at <= now, limit)
            ]

    def waiting(self, lane: str, limit: int = 1) -> list[Work]:
        """Return what is first of a lane, whether its message is old or not.

        Parameters
        ----------
        lane
            A phase, ``SHADOW_LANE``, or else a destination.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._database.reading() as db:
            return _free(db, kind_of(lane), self._database.now(db), of_lane(lane), limit)

    def sending(self, work: W, republish_s: float, *, anew: bool = False) -> W | None:
        """Note that a message for ``work`` goes out now; the sweep sends the next one later.

        Compare-and-set: of several that read the same row one sends, and none when the work was
        claimed meanwhile. The interval doubles with each message, so that a long backlog fills no
        queue; a claim begins it anew.

        Parameters
        ----------
        anew
            Begin with the interval anew: a worker has just asked for this work.

        Returns
        -------
        Work or None
            As it is now; None when there is no message to send.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        before = 0 if anew else work.publications
        wait = timedelta(seconds=republish_s * 2 ** min(before, _DOUBLINGS))
        table = KINDS[type(work)]
        with self._database.writing() as db:
            now = self._database.now(db)
            sent = replace(work, publications=before + 1, publish_at=now + wait)
            won = db.execute(
                table.update()
                .where(_as_read(table, work), is_free(table, now))
                .values(publications=sent.publications, publish_at=sent.publish_at)
            ).rowcount
        return sent if won else None

    def not_sent(self, sent: Work, wait_s: float) -> None:
        """Note that the broker did not confirm a message; try again in ``wait_s``.

        It does not count as sent: an outage must not stretch the interval of the sweep.

        Parameters
        ----------
        sent
            What ``sending`` returned.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        table = KINDS[type(sent)]
        with self._database.writing() as db:
            again = self._database.now(db) + timedelta(seconds=wait_s)
            db.execute(
                table.update()
                .where(_as_read(table, sent))
                .values(publications=sent.publications - 1, publish_at=again)
            )


def _free(
    db: sa.Connection,
    kind: type[Work],
    now: datetime,
    condition: sa.ColumnElement[bool],
    limit: int,
) -> list[Work]:
    """Return work that may be claimed, the first first; of a destination that is away, one."""
    table = KINDS[kind]
    query = sa.select(table).where(is_free(table, now), condition)
    query = query.order_by(*order(kind)).limit(limit)
    if kind is not Delivery:
        return [value(kind, row) for row in db.execute(query)]
    away = circuits.known_away(db, now)
    silent = [destination for destination, may_probe in away.items() if not may_probe]
    found: dict[str, Work] = {}
    for row in db.execute(query.where(DELIVERY.c.destination.not_in(silent))):
        one_of = row.destination if row.destination in away else row.key
        found.setdefault(one_of, value(kind, row))
    return list(found.values())


def _as_read(table: sa.Table, work: Work) -> sa.ColumnElement[bool]:
    """No message went out, and no claim began, since ``work`` was read."""
    return sa.and_(
        table.c.key == work.key,
        table.c.publications == work.publications,
        table.c.publish_at == work.publish_at,
    )
