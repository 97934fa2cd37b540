"""Circuits: a destination that is known to be away is asked by one delivery at a time.

A delivery that fails because its destination is away opens the circuit; from then on one delivery
goes, now and then, as a probe: one with few attempts, so that a document which alone makes a
destination fail is not asked for ever. The first that arrives closes it, and all that were put off
are due at once, save one that failed alone while another went through: that was its own fault. It
is asked again to vouch for what it has (PS3.4 J): a PACS that starts anew may have forgotten.

A destination that rejects this node (a PACS that does not know our AE title) is asked no more until
a person says so: asking again changes nothing, and looks like an attack.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from limen.journal.kinds import order
from limen.journal.rows import Delivery
from limen.journal.tables import CIRCUIT, DELIVERY, SENT_OBJECT
from limen.journal.transitions import backoff_s
from limen.states import ObjectState, WorkState

__all__ = ["admits", "arrived", "ask_again", "away", "known_away", "not_asked", "probing", "reject"]


def known_away(db: sa.Connection, now: datetime) -> dict[str, bool]:
    """Return the destinations that are away, and of each whether a probe may go now."""
    rows = db.execute(sa.select(CIRCUIT.c.destination, CIRCUIT.c.probe_at, CIRCUIT.c.unwelcome))
    return {row.destination: row.probe_at <= now and not row.unwelcome for row in rows}


def admits(db: sa.Connection, key: str, now: datetime) -> bool:
    """Return whether a delivery may go: its destination is there, or it is the probe.

    Locks what is known of the destination, so that of two probes one goes.
    """
    query = (
        sa.select(CIRCUIT.c.probe_at, CIRCUIT.c.unwelcome)
        .join(DELIVERY, DELIVERY.c.destination == CIRCUIT.c.destination)
        .where(DELIVERY.c.key == key)
        .with_for_update(of=CIRCUIT)
    )
    known = db.execute(query).first()
    return known is None or (known.probe_at <= now and not known.unwelcome)


def probing(db: sa.Connection, destination: str, until: datetime) -> None:
    """Note that a delivery goes: where it is the probe, no other does before it ends or dies."""
    db.execute(_update(destination).values(probe_at=until))


def not_asked(db: sa.Connection, destination: str, now: datetime) -> None:
    """Note that a delivery ended of which nothing had to be sent: the next one probes at once."""
    if db.execute(_update(destination).values(probe_at=now)).rowcount:
        _choose_probe(db, destination, now)


def away(
    db: sa.Connection, delivery: Delivery, now: datetime, base_s: float, probe_s: float
) -> None:
    """Note that a destination was away for ``delivery``, and choose the next probe."""
    _open(db, delivery, now)
    known = _of(db, delivery.destination)
    failures = known.failures + 1
    probe_at = now + timedelta(seconds=backoff_s(failures, base_s, probe_s))
    shared = known.shared or known.opened_by != delivery.key
    db.execute(
        _update(delivery.destination).values(failures=failures, shared=shared, probe_at=probe_at)
    )
    _choose_probe(db, delivery.destination, probe_at)


def reject(db: sa.Connection, delivery: Delivery, now: datetime, reason: str) -> None:
    """Note that a destination rejects this node: from now on nothing goes there."""
    _open(db, delivery, now)
    db.execute(_update(delivery.destination).values(unwelcome=reason))


def ask_again(db: sa.Connection, destination: str, now: datetime) -> bool:
    """Let everything go again to a destination that rejected us; return whether it did."""
    here = sa.and_(CIRCUIT.c.destination == destination, CIRCUIT.c.unwelcome != "")
    if not db.execute(CIRCUIT.delete().where(here)).rowcount:
        return False
    now_due = {"due_at": now, "publish_at": now, "publications": 0}
    db.execute(DELIVERY.update().where(_queued(destination)).values(**now_due))
    return True


def arrived(db: sa.Connection, delivery: Delivery, now: datetime) -> None:
    """Note that a delivery arrived: if its destination was away, all that wait for it are due.

    A report on an earlier request is still taken when it comes: see ``Objects.reported``.
    """
    here = CIRCUIT.c.destination == delivery.destination
    known = db.execute(sa.select(CIRCUIT).where(here).with_for_update()).first()
    if known is None:
        return
    db.execute(CIRCUIT.delete().where(here))
    waiting = _queued(delivery.destination)
    if not known.shared and known.opened_by != delivery.key:
        waiting = sa.and_(waiting, DELIVERY.c.key != known.opened_by)
    due = sa.case((DELIVERY.c.due_at > now, now), else_=DELIVERY.c.due_at)
    now_due = {"due_at": due, "publish_at": now, "publications": 0}
    unvouched = sa.and_(
        DELIVERY.c.destination == delivery.destination, DELIVERY.c.state == WorkState.SENT.value
    )
    asked = sa.and_(
        SENT_OBJECT.c.delivery.in_(sa.select(DELIVERY.c.key).where(unvouched)),
        SENT_OBJECT.c.state == ObjectState.SENT.value,
    )
    db.execute(SENT_OBJECT.update().where(asked).values(transaction_uid=""))
    db.execute(DELIVERY.update().where(sa.or_(waiting, unvouched)).values(**now_due))


def _choose_probe(db: sa.Connection, destination: str, probe_at: datetime) -> None:
    """Let one that waits for a destination be due when it may be asked: one with few attempts."""
    queued = _queued(destination)
    few_attempts = (DELIVERY.c.attempts, *order(Delivery))
    probe = db.scalar(sa.select(DELIVERY.c.key).where(queued).order_by(*few_attempts).limit(1))
    db.execute(
        DELIVERY.update()
        .where(DELIVERY.c.key == probe, queued)
        .values(due_at=probe_at, publish_at=probe_at, publications=0)
    )


def _open(db: sa.Connection, delivery: Delivery, now: datetime) -> None:
    """Make the row of a destination unless it is there; two may find out at the same time."""
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    values = {"destination": delivery.destination, "opened_at": now, "opened_by": delivery.key}
    first = insert(CIRCUIT).values(**values, shared=False, failures=0, probe_at=now)
    db.execute(first.on_conflict_do_nothing())


def _of(db: sa.Connection, destination: str) -> sa.Row[Any]:
    here = CIRCUIT.c.destination == destination
    return db.execute(sa.select(CIRCUIT).where(here).with_for_update()).one()


def _update(destination: str) -> sa.Update:
    return CIRCUIT.update().where(CIRCUIT.c.destination == destination)


def _queued(destination: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        DELIVERY.c.destination == destination, DELIVERY.c.state == WorkState.QUEUED.value
    )
