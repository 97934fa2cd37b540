"""The kinds of work: the table of each, its lane, its order, and its rows as values."""

from __future__ import annotations

from typing import Any, TypeVar

import sqlalchemy as sa

from limen.journal.rows import AnyWork, Delivery, Job, Shadow, Work
from limen.journal.tables import DELIVERY, JOB, SHADOW
from limen.result import Phase
from limen.states import SHADOW_LANE

__all__ = ["KINDS", "W", "kind_of", "of_lane", "order", "value"]

W = TypeVar("W", bound=Work)

KINDS: dict[type[Work], sa.Table] = {Job: JOB, Delivery: DELIVERY, Shadow: SHADOW}
"""Most urgent first."""


def kind_of(lane: str) -> type[AnyWork]:
    """Return what waits in a lane: a phase, ``SHADOW_LANE``, or else a destination."""
    if lane == SHADOW_LANE:
        return Shadow
    return Job if lane in set(Phase) else Delivery


def of_lane(lane: str) -> sa.ColumnElement[bool]:
    """Return what the rows of a lane have in common, in the table of its kind."""
    kind = kind_of(lane)
    if kind is Job:
        return JOB.c.phase == str(lane)
    return DELIVERY.c.destination == lane if kind is Delivery else sa.true()


def order(kind: type[Work]) -> list[sa.ColumnElement[Any]]:
    """Return what comes first: predictions, and what they wait for, of deliveries; then the oldest.

    Of deliveries of the same phase the positive ones go first.
    """
    table = KINDS[kind]
    first: list[sa.ColumnElement[Any]] = [table.c.phase.desc()]
    if kind is Delivery:
        phase, urgent = table.c.phase.desc(), DELIVERY.c.urgent.desc()
        first = [DELIVERY.c.shadow, DELIVERY.c.originals.desc(), phase, urgent]
    return [*first, table.c.due_at, table.c.key]


def value(kind: type[W], row: sa.Row[Any]) -> W:
    """Return a row as a value of its kind."""
    fields = {f: getattr(row, f) for f in kind.__match_args__}
    return kind(**{**fields, "phase": Phase(row.phase)})
