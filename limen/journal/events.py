"""Events: what happened to a study that its other rows, which tell how it stands, do not say.

A row for each attempt at a piece of work: written with its claim, ended with it. Attempts that end
in the same way one after the other share a row that counts them, so that a week in which a
destination is away costs no more than an hour. An attempt without an end whose work was claimed
again since is one that its worker did not outlive. Beside them a row for what each association
brought, and for what people asked for.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from limen import __version__, selftest
from limen.journal.database import Database
from limen.journal.rows import Arrived, Asked, Brought, Event, Opinion
from limen.journal.tables import DELIVERY, EVENT, INSTANCE, STUDY, TRANSACTION, Utc
from limen.result import Outcome, Phase
from limen.states import WorkState

__all__ = ["Events", "begun", "cut_off", "ended", "happened"]

ATTEMPT, ASSOCIATION = "attempt", "association"


class Events:
    """What `limen trace` asks, and what associations brought."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def brought(self, associations: Sequence[Brought]) -> None:
        """Note what associations brought that have ended.

        Raises
        ------
        Transient
            The journal is locked or away: nothing was written.
        """
        if not associations:
            return
        rows = [_row(one) for one in associations]
        with self._database.writing() as db:
            db.execute(EVENT.insert(), rows)

    def of(self, study_key: str) -> list[Event]:
        """Return what happened to a study, in the order in which it began.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(EVENT).where(EVENT.c.study_key == study_key)
        with self._database.reading() as db:
            rows = db.execute(query.order_by(EVENT.c.at, EVENT.c.id)).all()
        return [
            Event(**{f: getattr(r, f) for f in Event.__slots__} | {"detail": json.loads(r.detail)})
            for r in rows
        ]

    def committed(self, study_key: str, revision: int, phase: str) -> str:
        """Return the SHA-256 of the document that was committed; "" where none is known.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        subject = f"{study_key}-{revision}-{phase}"
        # Of any kind: a rebuilt journal has no attempts, and says which result was kept.
        its = sa.and_(EVENT.c.study_key == study_key, EVENT.c.subject == subject)
        query = sa.select(EVENT.c.detail).where(its, EVENT.c.detail != "{}")
        with self._database.reading() as db:
            rows = db.scalars(query.order_by(EVENT.c.id.desc())).all()
        known = (json.loads(detail).get("document_sha256") for detail in rows)
        return next((str(digest) for digest in known if digest), "")

    def opinions(self, name: str) -> list[Opinion]:
        """Return what a model said of studies of patients, the oldest first.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        before = sa.and_(
            INSTANCE.c.study_key == STUDY.c.study_key, INSTANCE.c.revision <= STUDY.c.revision
        )
        instances = sa.select(sa.func.count()).select_from(INSTANCE).where(before)
        same = sa.and_(STUDY.c.study_key == EVENT.c.study_key, STUDY.c.revision == EVENT.c.revision)
        query = (
            sa.select(EVENT, instances.scalar_subquery().label("instances"))
            .join(STUDY, same)
            .where(
                EVENT.c.kind == ATTEMPT,
                EVENT.c.detail.contains(f'"bundle": {json.dumps(name)}', autoescape=True),
                ~EVENT.c.subject.endswith(f"-{Phase.EXPLANATION.value}"),
                ~STUDY.c.study_uid.startswith(f"{selftest.ROOT}."),
            )
            .order_by(EVENT.c.id)
        )
        with self._database.reading() as db:
            rows = [(row, json.loads(row.detail)) for row in db.execute(query)]
        return [
            Opinion(
                study_key=row.study_key,
                revision=row.revision,
                instances=row.instances,
                version=said["bundle_version"],
                outcome=Outcome(said["outcome"]),
                probability=said["probability"],
            )
            for row, said in rows
        ]

    def arrived(self, study_key: str) -> list[Arrived]:
        """Return what each peer brought of each revision, the earliest first.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        first = sa.func.min(INSTANCE.c.received_at, type_=Utc)
        query = (
            sa.select(
                INSTANCE.c.revision,
                INSTANCE.c.peer,
                first.label("first_at"),
                sa.func.max(INSTANCE.c.received_at, type_=Utc).label("last_at"),
                sa.func.count().label("instances"),
                sa.func.count(INSTANCE.c.series_uid.distinct()).label("series"),
                sa.cast(sa.func.sum(INSTANCE.c.size_bytes), sa.BigInteger).label("size_bytes"),
            )
            .where(INSTANCE.c.study_key == study_key)
            .group_by(INSTANCE.c.revision, INSTANCE.c.peer)
            .order_by(first, INSTANCE.c.revision)
        )
        with self._database.reading() as db:
            return [Arrived(*row) for row in db.execute(query)]

    def asked(self, study_key: str) -> list[Asked]:
        """Return what PACS were asked to vouch for, in order.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = (
            sa.select(TRANSACTION.c.transaction_uid, TRANSACTION.c.delivery, TRANSACTION.c.asked_at)
            .join(DELIVERY, DELIVERY.c.key == TRANSACTION.c.delivery)
            .where(DELIVERY.c.study_key == study_key)
            .order_by(TRANSACTION.c.asked_at, TRANSACTION.c.transaction_uid)
        )
        with self._database.reading() as db:
            return [Asked(*row) for row in db.execute(query)]


def happened(
    db: sa.Connection,
    kind: str,
    place: tuple[str, int],
    subject: str,
    who: str,
    now: datetime,
    text: str = "",
) -> None:
    """Note what has no duration; ``place`` is study key and revision."""
    values = _values(kind, place, subject, who, now)
    db.execute(EVENT.insert().values(**values | {"until": now, "text": text}))


def begun(
    db: sa.Connection, place: tuple[str, int], subject: str, owner: str, now: datetime
) -> None:
    """Note that an attempt begins."""
    db.execute(EVENT.insert().values(**_values(ATTEMPT, place, subject, owner, now)))


def ended(
    db: sa.Connection,
    subject: str,
    owner: str,
    now: datetime,
    how: str,
    text: str = "",
    detail: dict[str, str | float | None] | None = None,
) -> None:
    """Note how the attempt of an owner ended."""
    this = sa.and_(_of(subject), EVENT.c.who == owner, EVENT.c.until.is_(None))
    values = {"until": now, "how": how, "text": text, "detail": json.dumps(detail or {})}
    db.execute(EVENT.update().where(this).values(**values))
    if how in _REPEATED:
        _count_in_one(db, subject)


def cut_off(db: sa.Connection, subjects: Collection[str], now: datetime, how: str) -> None:
    """Note that the attempts at some work ended without an end of their own."""
    for subject in subjects:
        this = sa.and_(_of(subject), EVENT.c.until.is_(None))
        db.execute(EVENT.update().where(this).values(until=now, how=how))


_REPEATED = frozenset({WorkState.QUEUED.value, WorkState.SENT.value})
_ALIKE = ("how", "text", "version")
_AT_MOST = 50  # rows of one piece of work whose attempts end now like this and now like that


def _count_in_one(db: sa.Connection, subject: str) -> None:
    """Let the last attempt and the one before share a row when they ended alike."""
    newest = sa.select(EVENT).where(_of(subject)).order_by(EVENT.c.id.desc()).limit(_AT_MOST)
    last, *before = db.execute(newest).all()
    if not before or before[0].how not in _REPEATED:
        return
    alike = all(getattr(last, f) == getattr(before[0], f) for f in _ALIKE)
    if not alike and len(before) + 1 < _AT_MOST:
        return
    shared = {f: getattr(last, f) for f in ("until", "who", "host", "version", "how", "text")}
    shared["times"] = before[0].times + last.times
    db.execute(EVENT.update().where(EVENT.c.id == before[0].id).values(**shared))
    db.execute(EVENT.delete().where(EVENT.c.id == last.id))


def _of(subject: str) -> sa.ColumnElement[bool]:
    """Match the attempts at a piece of work, whose key begins with that of its study."""
    study_key = subject.partition("-")[0]
    return sa.and_(
        EVENT.c.study_key == study_key, EVENT.c.subject == subject, EVENT.c.kind == ATTEMPT
    )


def _values(
    kind: str, place: tuple[str, int], subject: str, who: str, at: datetime
) -> dict[str, Any]:
    study_key, revision = place
    return {
        "study_key": study_key,
        "revision": revision,
        "kind": kind,
        "subject": subject,
        "who": who,
        "host": socket.gethostname(),
        "version": __version__,
        "at": at,
        "until": None,
        "times": 1,
        "how": "",
        "text": "",
        "detail": "{}",
    }


def _row(one: Brought) -> dict[str, Any]:
    place = (one.study_key, one.revision)
    values = _values(ASSOCIATION, place, str(one.association), one.peer, one.first_at)
    detail = {
        "address": one.address,
        "kept": one.kept,
        "again": one.again,
        "refused": one.refused,
    }
    return values | {"until": one.last_at, "detail": json.dumps(detail)}
