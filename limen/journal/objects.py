"""DICOM objects on their way to a PACS, and messages: what is there, and what a PACS vouches for.

Noted as each is sent, so that whoever takes a delivery over sends only what is not there. A report
of storage commitment finds its delivery by its transaction, whichever process takes it, before or
after the delivery itself has ended: both write here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from limen import dimse
from limen.instance import CommitmentReport
from limen.journal.database import Database
from limen.journal.rows import SentObject, Standing
from limen.journal.tables import DELIVERY, SENT_OBJECT, TRANSACTION
from limen.result import Phase
from limen.states import ObjectState, WorkState

__all__ = ["Objects", "begin_again", "is_awaiting", "sent_by_delivery"]

_PHASES = {Phase.PREDICTION.value: 0, Phase.EXPLANATION.value: 1}
_GIVEN_UP = (WorkState.DEAD.value, WorkState.DISCARDED.value)


class Objects:
    """The objects of every delivery to a PACS."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, delivery: str) -> list[SentObject]:
        """Return what is known of the objects of a delivery, by its key.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._database.reading() as db:
            return list(sent_by_delivery(db, [delivery]).get(delivery, ()))

    def knows(self, study_key: str, destination: str) -> bool:
        """Return whether anything of a study is known to have gone to a destination.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        here = sa.and_(DELIVERY.c.study_key == study_key, DELIVERY.c.destination == destination)
        query = sa.select(SENT_OBJECT.c.delivery).join(
            DELIVERY, DELIVERY.c.key == SENT_OBJECT.c.delivery
        )
        with self._database.reading() as db:
            return db.execute(query.where(here).limit(1)).first() is not None

    def held(self, study_key: str, destination: str) -> list[tuple[int, str]]:
        """Return what a destination has of a study: pairs of revision and SOP Instance UID.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        there = (ObjectState.SENT.value, ObjectState.COMMITTED.value)
        query = (
            sa.select(DELIVERY.c.revision, SENT_OBJECT.c.sop_uid)
            .join(DELIVERY, DELIVERY.c.key == SENT_OBJECT.c.delivery)
            .where(DELIVERY.c.study_key == study_key, DELIVERY.c.destination == destination)
            .where(SENT_OBJECT.c.state.in_(there))
            .order_by(DELIVERY.c.revision, SENT_OBJECT.c.sop_uid)
        )
        with self._database.reading() as db:
            return [(row.revision, row.sop_uid) for row in db.execute(query)]

    def standing(self, delivery: str) -> Standing:
        """Return how a delivery, by its key, stands among those of its study to its destination.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        one, other = DELIVERY.alias(), DELIVERY.alias()
        sent = sa.exists().where(SENT_OBJECT.c.delivery == other.c.key)
        query = (
            sa.select(
                one.c.revision,
                one.c.phase,
                other.c.revision.label("other_revision"),
                other.c.phase.label("other_phase"),
                other.c.state,
                sent.label("sent"),
            )
            .join(
                other,
                sa.and_(
                    other.c.study_key == one.c.study_key,
                    other.c.destination == one.c.destination,
                    other.c.about == "",
                    other.c.shadow == "",
                ),
            )
            .where(one.c.key == delivery)
        )
        with self._database.reading() as db:
            rows = db.execute(query).all()
        place = [(row.revision, _PHASES[row.phase]) for row in rows]
        others = [(row.other_revision, _PHASES[row.other_phase]) for row in rows]
        both = list(zip(rows, place, others, strict=True))
        return Standing(
            replaced=any(his > mine and row.state not in _GIVEN_UP for row, mine, his in both),
            follows=any(
                his < mine and row.state == WorkState.RUNNING.value for row, mine, his in both
            ),
            sent=any(row.sent for row in rows),
            revises=any(row.sent and row.other_revision < row.revision for row in rows),
        )

    def note(self, delivery: str, objects: Iterable[SentObject]) -> None:
        """Write down how objects stand.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            for one in objects:
                here = _one(delivery, one.sop_uid)
                values = {f: getattr(one, f) for f in SentObject.__slots__}
                values |= {"state": one.state.value, "changed_at": now}
                if not db.execute(SENT_OBJECT.update().where(here).values(**values)).rowcount:
                    db.execute(SENT_OBJECT.insert().values(delivery=delivery, **values))

    def ask(self, delivery: str, transaction_uid: str, sop_uids: Collection[str]) -> None:
        """Write a request for storage commitment down, before it is sent.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            values = {"transaction_uid": transaction_uid, "delivery": delivery, "asked_at": now}
            db.execute(TRANSACTION.insert().values(**values))
            asked = sa.and_(SENT_OBJECT.c.delivery == delivery, SENT_OBJECT.c.sop_uid.in_(sop_uids))
            db.execute(SENT_OBJECT.update().where(asked).values(transaction_uid=transaction_uid))

    def reported(self, report: CommitmentReport) -> bool:
        """Take the report on a request; its delivery is due at once.

        What is kept is kept whichever request asked; what failed counts only as the answer to the
        last one, since it may have been sent again meanwhile.

        Returns
        -------
        bool
            False when nothing was asked under that transaction.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            asked = TRANSACTION.c.transaction_uid == report.transaction_uid
            delivery = db.scalar(sa.select(TRANSACTION.c.delivery).where(asked))
            if delivery is None:
                return False
            for uid in report.kept:
                _settle(db, delivery, uid, now, state=ObjectState.COMMITTED.value, reason="")
            for uid, reason in report.failed:
                here = SENT_OBJECT.c.transaction_uid == report.transaction_uid
                words = f"not kept: {dimse.in_words(reason)}"
                lost = {"state": ObjectState.LOST.value, "attempts": SENT_OBJECT.c.attempts + 1}
                _settle(db, delivery, uid, now, here, reason=words, **lost)
            waiting = sa.and_(DELIVERY.c.key == delivery, DELIVERY.c.state == WorkState.SENT.value)
            db.execute(
                DELIVERY.update().where(waiting).values(due_at=now, publish_at=now, publications=0)
            )
            return True


def begin_again(db: sa.Connection, delivery: str) -> None:
    """Forget what was refused, and what was asked: all that is not there is sent again."""
    here = SENT_OBJECT.c.delivery == delivery
    refused = SENT_OBJECT.c.state == ObjectState.REFUSED.value
    db.execute(SENT_OBJECT.delete().where(here, refused))
    db.execute(SENT_OBJECT.update().where(here).values(attempts=0, transaction_uid=""))


def is_awaiting(db: sa.Connection, delivery: str) -> bool:
    """Return whether the PACS has yet to say whether it keeps all that it was sent."""
    sent = sa.and_(
        SENT_OBJECT.c.delivery == delivery, SENT_OBJECT.c.state == ObjectState.SENT.value
    )
    lost = sa.and_(
        SENT_OBJECT.c.delivery == delivery, SENT_OBJECT.c.state == ObjectState.LOST.value
    )
    return bool(db.scalar(sa.select(sa.and_(sa.exists().where(sent), ~sa.exists().where(lost)))))


def sent_by_delivery(
    db: sa.Connection, keys: sa.Select[Any] | list[str]
) -> dict[str, tuple[SentObject, ...]]:
    """Return the objects of deliveries, by the key of the delivery."""
    query = sa.select(SENT_OBJECT).where(SENT_OBJECT.c.delivery.in_(keys))
    found: dict[str, list[SentObject]] = defaultdict(list)
    for row in db.execute(query.order_by(SENT_OBJECT.c.kind, SENT_OBJECT.c.sop_uid)):
        fields = {f: getattr(row, f) for f in SentObject.__slots__}
        found[row.delivery].append(SentObject(**{**fields, "state": ObjectState(row.state)}))
    return {key: tuple(objects) for key, objects in found.items()}


def _one(delivery: str, sop_uid: str) -> sa.ColumnElement[bool]:
    return sa.and_(SENT_OBJECT.c.delivery == delivery, SENT_OBJECT.c.sop_uid == sop_uid)


def _settle(
    db: sa.Connection,
    delivery: str,
    sop_uid: str,
    now: datetime,
    *conditions: sa.ColumnElement[bool],
    **values: Any,
) -> None:
    """Bring an object that was sent into another state."""
    here = sa.and_(_one(delivery, sop_uid), SENT_OBJECT.c.state == ObjectState.SENT.value)
    db.execute(SENT_OBJECT.update().where(here, *conditions).values(changed_at=now, **values))
