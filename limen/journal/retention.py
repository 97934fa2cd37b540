"""Retention: which studies may be purged, and that they were.

A study may be purged when nothing is left to do for it: every job and shadow has ended, and every
delivery has arrived, a PACS that was asked to vouch having done so. A dead delivery keeps its study
until a person retries or discards it, unless a newer revision has taken its place. The rows of a
purged study stay: it remains in every list, and what is sent again is known. The events of a study,
which only `limen trace` tells, go years later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from limen import selftest
from limen.journal.database import Database
from limen.journal.tables import DELIVERY, EVENT, INSTANCE, JOB, PURGE, SHADOW, STUDY, Utc
from limen.states import OVER, StudyState, WorkState

__all__ = ["Purgeable", "Retention", "came_again", "goes_on", "is_nothing_left"]


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A study that may be purged.

    Attributes
    ----------
    revision
        The newest; with it go all before it.
    received_at
        When its newest revision began to come.
    """

    study_key: str
    revision: int
    received_at: datetime


class Retention:
    """Purging, as the journal sees it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def oldest(
        self, before: datetime, study_key: str = "", *, tests: bool = False
    ) -> Iterator[Purgeable]:
        """Yield studies that may be purged and were last worked on before then, oldest first.

        Parameters
        ----------
        study_key
            Only this one.
        tests
            Only studies that this node sent to itself.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        place = sa.tuple_(STUDY.c.received_at, STUDY.c.study_key)
        query = _purgeable().where(before > _ENDED_AT).order_by(*place.clauses).limit(_AT_ONCE)
        if study_key:
            query = query.where(STUDY.c.study_key == study_key)
        if tests:
            query = query.where(STUDY.c.study_uid.startswith(f"{selftest.ROOT}."))
        page = query
        while True:
            with self._database.reading() as db:
                found = [Purgeable(*row) for row in db.execute(page)]
            yield from found
            if len(found) < _AT_ONCE:
                return
            last = sa.tuple_(
                sa.literal(found[-1].received_at, STUDY.c.received_at.type), found[-1].study_key
            )
            page = query.where(place > last)

    def begin(self, study: Purgeable, cause: str) -> list[str] | None:
        """Note that a study is being purged; return the spool paths of its instances.

        Returns
        -------
        list or None
            Relative to the spool; None when it may not be purged any more: something came, or is
            being done again.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        here = STUDY.c.study_key == study.study_key
        with self._database.writing() as db:
            # Who records another instance locks the newest revision too.
            db.execute(sa.select(STUDY.c.revision).where(here).with_for_update())
            row = db.execute(_purgeable().where(here)).first()
            if row is None or row.revision != study.revision:
                return None
            values = {"revision": study.revision, "cause": cause, "done_at": None, "size_bytes": 0}
            db.execute(PURGE.delete().where(PURGE.c.study_key == study.study_key))
            now = self._database.now(db)
            db.execute(PURGE.insert().values(study_key=study.study_key, begun_at=now, **values))
            return _paths(db, study.study_key)

    def unfinished(self) -> list[tuple[Purgeable, list[str]]]:
        """Return what was begun and not ended, with its paths; what has a newer revision is left.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            newest = sa.select(sa.func.max(STUDY.c.revision)).where(
                STUDY.c.study_key == PURGE.c.study_key
            )
            replaced = sa.and_(
                PURGE.c.done_at.is_(None), PURGE.c.revision != newest.scalar_subquery()
            )
            db.execute(PURGE.delete().where(replaced))
            rows = db.execute(sa.select(PURGE).where(PURGE.c.done_at.is_(None))).all()
            return [
                (
                    Purgeable(row.study_key, row.revision, row.begun_at),
                    _paths(db, row.study_key),
                )
                for row in rows
            ]

    def finish(self, study_key: str, size_bytes: int) -> None:
        """Note that the files of a study are gone, and how large they were.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            values = {"done_at": self._database.now(db), "size_bytes": size_bytes}
            db.execute(PURGE.update().where(PURGE.c.study_key == study_key).values(**values))

    def forget_events(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove the events of studies that are over, where the last of them began before then.

        A study is told as a whole or not at all: one that somebody asked for anew keeps all of it.

        Parameters
        ----------
        dry_run
            Only count them.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        Transient
            The journal is locked or away; what was removed before is gone.
        """
        gone, after = 0, ""
        while True:
            with self._database.reading() as db:
                page = _told_long_ago(before).where(STUDY.c.study_key > after)
                keys = list(db.scalars(page.order_by(STUDY.c.study_key).limit(_AT_ONCE)))
            if not keys:
                return gone
            after = keys[-1]
            of_them = EVENT.c.study_key.in_(keys)
            if dry_run:
                with self._database.reading() as db:
                    counted = sa.select(sa.func.count()).select_from(EVENT).where(of_them)
                    gone += int(db.scalar(counted) or 0)
                continue
            with self._database.writing() as db:
                # Asked again: something may have come meanwhile.
                still = _told_long_ago(before).where(STUDY.c.study_key.in_(keys))
                gone += db.execute(
                    EVENT.delete().where(of_them, EVENT.c.study_key.in_(still))
                ).rowcount

    def is_over(self, study_key: str) -> bool:
        """Return whether nothing is left to do for a study; one that is not known is over.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        here = STUDY.c.study_key == study_key
        with self._database.reading() as db:
            if db.execute(sa.select(STUDY.c.revision).where(here).limit(1)).first() is None:
                return True
            return db.execute(is_nothing_left().where(here)).first() is not None

    def purged_at(self, study_key: str) -> datetime | None:
        """Return when the files of a study were purged; None when they were not.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(PURGE.c.begun_at).where(PURGE.c.study_key == study_key)
        with self._database.reading() as db:
            return db.scalar(query)

    def kept_bytes(self) -> int:
        """Return the size of the instances of every study that was not purged.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        purged = sa.exists().where(PURGE.c.study_key == INSTANCE.c.study_key)
        query = sa.select(sa.func.sum(INSTANCE.c.size_bytes)).where(~purged)
        with self._database.reading() as db:
            return int(db.scalar(query) or 0)


def came_again(db: sa.Connection, study_key: str) -> None:
    """Note that instances of a study came that it had: their files are there once more."""
    db.execute(PURGE.delete().where(PURGE.c.study_key == study_key, PURGE.c.done_at.is_not(None)))


def goes_on(db: sa.Connection, study_key: str) -> None:
    """Take a purge up again that had ended: what came back since goes with the next round."""
    ended = sa.and_(PURGE.c.study_key == study_key, PURGE.c.done_at.is_not(None))
    db.execute(PURGE.update().where(ended).values(done_at=None))


_AT_ONCE = 100
_ENDED_AT = sa.func.coalesce(
    STUDY.c.explained_at, STUDY.c.predicted_at, STUDY.c.last_instance_at, type_=Utc
)
_OVER = tuple(state.value for state in OVER)
_OPEN = (StudyState.RECEIVING.value, StudyState.COMPLETE.value, StudyState.PREDICTED.value)


def _purgeable() -> sa.Select[Any]:
    """Select key, newest revision and beginning of every study that may be purged, and was not."""
    purged = sa.exists().where(
        PURGE.c.study_key == STUDY.c.study_key, PURGE.c.revision == STUDY.c.revision
    )
    return is_nothing_left().where(~purged)


def _told_long_ago(before: datetime) -> sa.Select[Any]:
    """Select the keys of studies that are over and whose events all began before then."""
    events = EVENT.c.study_key == STUDY.c.study_key
    return (
        is_nothing_left()
        .with_only_columns(STUDY.c.study_key)
        .where(
            before > _ENDED_AT,
            sa.exists().where(events),
            ~sa.exists().where(events, EVENT.c.at >= before),
        )
    )


def is_nothing_left() -> sa.Select[Any]:
    """Select key, newest revision and beginning of every study for which nothing is left to do."""
    other = STUDY.alias()
    same = other.c.study_key == STUDY.c.study_key
    newer = sa.exists().where(same, other.c.revision > STUDY.c.revision)
    opened = sa.exists().where(same, other.c.state.in_(_OPEN))
    left = [_left(table) for table in (JOB, SHADOW, DELIVERY)]
    return sa.select(STUDY.c.study_key, STUDY.c.revision, STUDY.c.received_at).where(
        ~newer, ~opened, *[~some for some in left]
    )


def _left(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether work of a study is not over; what is dead counts for deliveries alone."""
    dead = table.c.state == WorkState.DEAD.value
    excused = dead if table is not DELIVERY else sa.and_(dead, _replaced_or_told())
    return sa.exists().where(
        table.c.study_key == STUDY.c.study_key, table.c.state.not_in(_OVER), ~excused
    )


def _replaced_or_told() -> sa.ColumnElement[bool]:
    """A dead delivery matters where it is of the newest revision, and carries a result."""
    return sa.or_(DELIVERY.c.revision < STUDY.c.revision, DELIVERY.c.about != "")


def _paths(db: sa.Connection, study_key: str) -> list[str]:
    """Return the paths of all that a study has, results that came back among it."""
    return list(db.scalars(sa.select(INSTANCE.c.path).where(INSTANCE.c.study_key == study_key)))
