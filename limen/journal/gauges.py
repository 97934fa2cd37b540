"""What the journal says to a monitoring system beyond ``Status``: ages that an alarm is made of."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from limen.journal.database import Database
from limen.journal.tables import DELIVERY, STUDY, Utc
from limen.result import Outcome, Phase
from limen.states import NOT_ARRIVED

__all__ = ["Gauges"]

_NEWEST = 100


class Gauges:
    """Questions that change nothing, cheap enough to be asked every few seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_instance_at(self) -> datetime | None:
        """Return when the last new instance came, of the studies begun last; None: none ever did.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        newest = sa.select(STUDY.c.last_instance_at).order_by(STUDY.c.received_at.desc())
        last = newest.limit(_NEWEST).subquery()
        with self._database.reading() as db:
            found: datetime | None = db.scalar(
                sa.select(sa.func.max(last.c.last_instance_at, type_=Utc))
            )
            return found

    def age_s(self, study_key: str, revision: int) -> float | None:
        """Return the seconds since the last instance of a revision came; None: there is none.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        here = sa.and_(STUDY.c.study_key == study_key, STUDY.c.revision == revision)
        with self._database.reading() as db:
            last = db.scalar(sa.select(STUDY.c.last_instance_at).where(here))
            return None if last is None else (self._database.now(db) - last).total_seconds()

    def positive_waiting_s(self) -> dict[str, float]:
        """Return, by destination, how long the oldest positive prediction has not been there.

        Counted from the last instance of its study, in seconds; dead deliveries count too, those of
        a revision that a newer one replaced do not, and neither do those of shadows.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        newer = STUDY.alias()
        replaced = sa.exists().where(
            newer.c.study_key == DELIVERY.c.study_key, newer.c.revision > DELIVERY.c.revision
        )
        query = (
            sa.select(
                DELIVERY.c.destination,
                sa.func.min(STUDY.c.last_instance_at, type_=Utc).label("since"),
            )
            .join(
                STUDY,
                sa.and_(
                    STUDY.c.study_key == DELIVERY.c.study_key,
                    STUDY.c.revision == DELIVERY.c.revision,
                ),
            )
            .where(
                DELIVERY.c.state.in_(NOT_ARRIVED),
                DELIVERY.c.phase == Phase.PREDICTION.value,
                DELIVERY.c.shadow == "",
                DELIVERY.c.about == "",
                STUDY.c.outcome == Outcome.POSITIVE.value,
                ~replaced,
            )
            .group_by(DELIVERY.c.destination)
        )
        with self._database.reading() as db:
            now = self._database.now(db)
            return {r.destination: (now - r.since).total_seconds() for r in db.execute(query)}
