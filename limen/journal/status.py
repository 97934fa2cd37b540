"""What the journal says to people: studies, their work, and the lanes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from limen import selftest
from limen.errors import Permanent
from limen.journal.database import Database
from limen.journal.objects import sent_by_delivery
from limen.journal.rows import Awaited, Lane, SentObject, StudyRow, Wanted, WorkerRow, WorkRow
from limen.journal.tables import CIRCUIT, DELIVERY, INSTANCE, JOB, SHADOW, STUDY, WORKER, Utc
from limen.result import Phase
from limen.states import NOT_ARRIVED, OVER, SHADOW_LANE, StudyState, WorkState
from limen.uids import KEY_LENGTH

__all__ = ["EVERY", "Status"]

EVERY = Wanted()
"""All revisions of all studies."""


class Status:
    """Questions that change nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def studies(
        self, study: str | None = None, limit: int = 100, wanted: Wanted = EVERY
    ) -> list[StudyRow]:
        """Return the newest study revisions, or every revision of one study.

        Parameters
        ----------
        study
            A study key, or a prefix of one, a StudyInstanceUID, or an accession number. Without
            it, studies that this node sent to itself are left out.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        newest = sa.select(STUDY).order_by(STUDY.c.received_at.desc(), STUDY.c.revision.desc())
        with self._database.reading() as db:
            return _study_rows(db, newest.where(*_conditions(study, wanted)).limit(limit))

    def count(self, study: str | None = None, wanted: Wanted = EVERY) -> int:
        """Return how many ``studies`` would return without a limit.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(sa.func.count()).select_from(STUDY).where(*_conditions(study, wanted))
        with self._database.reading() as db:
            return int(db.scalar(query) or 0)

    def dead(self, wanted: Wanted = EVERY, limit: int = 1000) -> list[WorkRow]:
        """Return the dead work of the newest revision of each study that is wanted.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        found = self.studies(limit=limit, wanted=replace(wanted, dead=True, newest=True))
        return [
            work
            for row in found
            for work in (*row.jobs, *row.shadows, *row.deliveries)
            if work.state == WorkState.DEAD and wanted.destination in {"", work.destination}
        ]

    def study(self, study_key: str, revision: int) -> StudyRow:
        """Return one study revision.

        Raises
        ------
        Permanent
            There is no such revision.
        Unreachable
            The journal does not answer.
        """
        query = sa.select(STUDY).where(STUDY.c.study_key == study_key, STUDY.c.revision == revision)
        with self._database.reading() as db:
            found = _study_rows(db, query)
        if not found:
            raise Permanent(f"study {study_key} has no revision {revision}")
        return found[0]

    def queues(self) -> dict[str, Lane]:
        """Return, per lane, how much waits, runs and is dead; not what a newer revision replaced.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        counted: dict[str, dict[str, Any]] = {}
        with self._database.reading() as db:
            now = self._database.now(db)
            for table, lane in _LANES:
                rows = db.execute(
                    sa.select(
                        lane.label("lane"),
                        table.c.state,
                        sa.func.count().label("n"),
                        sa.func.min(table.c.created_at, type_=Utc).label("oldest"),
                        sa.func.min(_due_unsent(table), type_=Utc).label("due"),
                        sa.func.max(_awaited(table)).label("awaited"),
                    )
                    .where(table.c.state.in_(_NOT_ENDED), ~_replaced(table))
                    .group_by(lane, table.c.state)
                )
                for row in rows:
                    entry = counted.setdefault(row.lane, {"oldest_s": 0.0})
                    entry[row.state] = row.n
                    if row.state in _UNDER_WAY and row.oldest is not None:
                        age = round((now - row.oldest).total_seconds(), 1)
                        entry["oldest_s"] = max(entry["oldest_s"], age)
                    if row.awaited:
                        entry["waits_for"] = row.awaited
                    if row.due is not None:
                        entry["unsent_s"] = max(0.0, round((now - row.due).total_seconds(), 1))
            for row in db.execute(sa.select(CIRCUIT)):
                entry = counted.setdefault(row.destination, {})
                entry["away_s"] = round((now - row.opened_at).total_seconds(), 1)
                entry["unwelcome"] = row.unwelcome
                entry["unsent_s"] = 0.0  # what waits for it is not to be sent
        return {lane: Lane(**entry) for lane, entry in counted.items()}

    def awaited(self, limit: int) -> tuple[list[Awaited], int]:
        """Return studies whose result nobody can read yet, the newest first, and how many they are.

        Of each study the newest revision counts; test studies do not.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        unread = _unread()
        chosen = _conditions(None, Wanted(newest=True))
        # From the few that are unread to their studies: sorted first, it would be every study.
        here = sa.and_(
            STUDY.c.study_key == unread.c.study_key, STUDY.c.revision == unread.c.revision
        )
        query = sa.select(STUDY.c.study_key, STUDY.c.revision, STUDY.c.received_at)
        query = query.select_from(unread).join(STUDY, here).where(*chosen)
        with self._database.reading() as db:
            keys = sorted(db.execute(query).all(), key=lambda row: row.received_at, reverse=True)
            newest = [(row.study_key, row.revision) for row in keys[:limit]]
            shown = sa.select(STUDY, _instances().label("instances")).where(
                sa.tuple_(STUDY.c.study_key, STUDY.c.revision).in_(newest)
            )
            found = [
                Awaited(**{name: getattr(row, name) for name in Awaited.__slots__})
                for row in (db.execute(shown) if newest else ())
            ]
        found.sort(key=lambda one: one.received_at, reverse=True)
        return found, len(keys)

    def last_received(self) -> dict[str, datetime]:
        """Return when each sender sent something new, by AE title; of the newest studies only.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        last = sa.func.max(INSTANCE.c.received_at, type_=Utc)
        with self._database.reading() as db:
            newest = sa.select(STUDY.c.study_key).order_by(STUDY.c.received_at.desc())
            rows = db.execute(
                sa.select(INSTANCE.c.peer, last)
                .where(INSTANCE.c.study_key.in_(newest.limit(_NEWEST)))
                .group_by(INSTANCE.c.peer)
            )
            return {peer: at for peer, at in rows}

    def workers(self) -> list[WorkerRow]:
        """Return every worker that gave a sign of life within the hour, the oldest first.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._database.reading() as db:
            now = self._database.now(db)
            rows = db.execute(sa.select(WORKER).order_by(WORKER.c.started_at, WORKER.c.id))
            return [
                WorkerRow(
                    id=row.id,
                    host=row.host,
                    version=row.version,
                    lanes=tuple(row.lanes.split(",")),
                    started_at=row.started_at,
                    seen_s=round((now - row.seen_at).total_seconds(), 1),
                    late=now > row.expected_at,
                    clock_off_s=round(row.clock_off_s, 1),
                )
                for row in rows
            ]


_NOT_ENDED = [state.value for state in WorkState if state not in OVER]
"""Said as what it is, not as what it is not, so that the index on the state serves."""
_KEY = re.compile(f"[0-9a-f]{{1,{KEY_LENGTH}}}")
_NEWEST = 500
_KEYS_AT_ONCE = 500
_UNDER_WAY = (WorkState.QUEUED.value, WorkState.RUNNING.value)
_LANES = (
    (JOB, JOB.c.phase),
    (SHADOW, sa.literal(SHADOW_LANE)),
    (DELIVERY, DELIVERY.c.destination),
)


def _awaited(table: sa.Table) -> sa.ColumnElement[str]:
    """Return what a job waits for: it was put back with a reason, and no attempt was counted.

    A delivery says by its destination what it waits for, and may be tried again by a person.
    """
    if table is DELIVERY:
        return sa.literal("")
    waits = sa.and_(table.c.state == WorkState.QUEUED.value, table.c.attempts == 0)
    return sa.case((waits, table.c.last_error), else_="")


def _conditions(study: str | None, wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if study is not None:
        found.append(_named(study))
    elif not wanted.dead:  # what is dead is told, whosever it is
        found.append(~STUDY.c.study_uid.startswith(f"{selftest.ROOT}."))
    if wanted.outcome is not None:
        found.append(STUDY.c.outcome == wanted.outcome.value)
    if wanted.state is not None:
        found.append(STUDY.c.state == wanted.state.value)
    if wanted.since is not None:
        found.append(STUDY.c.received_at >= wanted.since)
    if wanted.newest:
        later = STUDY.alias()
        same = later.c.study_key == STUDY.c.study_key
        found.append(~sa.exists().where(same, later.c.revision > STUDY.c.revision))
    if wanted.destination:
        states = [WorkState.DEAD.value] if wanted.dead else _NOT_ENDED
        found.append(_has(DELIVERY, states, DELIVERY.c.destination == wanted.destination))
    elif wanted.dead:
        dead = [WorkState.DEAD.value]
        found.append(sa.or_(*(_has(table, dead) for table in (JOB, SHADOW, DELIVERY))))
    return found


def _has(
    table: sa.Table, states: list[str], *conditions: sa.ColumnElement[bool]
) -> sa.ColumnElement[bool]:
    """Return whether a revision has work in one of these states."""
    # From the work, of which little is not over, to the revisions; not from every revision.
    chosen = sa.select(table.c.study_key, table.c.revision)
    chosen = chosen.where(table.c.state.in_(states), *conditions)
    return sa.tuple_(STUDY.c.study_key, STUDY.c.revision).in_(chosen)


def _named(study: str) -> sa.ColumnElement[bool]:
    """Match a study key, the beginning of one, a UID or an accession number, by their indexes."""
    is_it = sa.or_(STUDY.c.study_uid == study, STUDY.c.accession == (study or None))
    if not _KEY.fullmatch(study):
        return is_it
    # "g" comes after every digit of a key.
    return sa.or_(is_it, STUDY.c.study_key.between(study, f"{study}g"))


def _due_unsent(table: sa.Table) -> sa.ColumnElement[datetime]:
    """Return since when work is due that no message went out for."""
    unsent = sa.and_(table.c.state == WorkState.QUEUED.value, table.c.publications == 0)
    return sa.case((unsent, table.c.due_at))


def _replaced(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether work is dead and its study has a newer revision."""
    newer = sa.exists().where(
        STUDY.c.study_key == table.c.study_key, STUDY.c.revision > table.c.revision
    )
    return sa.and_(table.c.state == WorkState.DEAD.value, newer)


def _study_rows(db: sa.Connection, chosen: sa.Select[Any]) -> list[StudyRow]:
    """Return the chosen revisions with all that belongs to them, in as many questions as tables."""
    rows = db.execute(chosen.add_columns(_instances().label("instances"))).all()
    # By their keys: a join would be made from the side of all the work that there ever was.
    keys = sorted({row.study_key for row in rows})
    jobs, shadows, deliveries = (_work_rows(db, table, keys) for table in (JOB, SHADOW, DELIVERY))
    return [
        StudyRow(
            **{f: getattr(row, f) for f in StudyRow.__slots__ if hasattr(row, f)},
            jobs=tuple(jobs[row.study_key, row.revision]),
            shadows=tuple(shadows[row.study_key, row.revision]),
            deliveries=tuple(deliveries[row.study_key, row.revision]),
        )
        for row in rows
    ]


def _instances() -> sa.ScalarSelect[int]:
    """Count the instances of a revision: every content that was kept, also under the same UID."""
    return (
        sa.select(sa.func.count())
        .select_from(INSTANCE)
        .where(INSTANCE.c.study_key == STUDY.c.study_key, INSTANCE.c.revision <= STUDY.c.revision)
        .scalar_subquery()
    )


def _unread() -> sa.Subquery:
    """Return the revisions whose outcome is not there yet, or not where people read it."""
    # By the indexes on states, of which few are these: a condition with "or" would look at all.
    begun = StudyState.RECEIVING.value, StudyState.COMPLETE.value
    not_predicted = sa.select(STUDY.c.study_key, STUDY.c.revision).where(STUDY.c.state.in_(begun))
    not_there = sa.select(DELIVERY.c.study_key, DELIVERY.c.revision).where(
        DELIVERY.c.state.in_(NOT_ARRIVED),
        DELIVERY.c.destination == selftest.DESTINATION,
        DELIVERY.c.phase == Phase.PREDICTION.value,
        DELIVERY.c.shadow == "",
        DELIVERY.c.about == "",
    )
    return sa.union(not_predicted, not_there).subquery()


def _work_rows(
    db: sa.Connection, table: sa.Table, study_keys: Sequence[str]
) -> dict[tuple[str, int], list[WorkRow]]:
    """Return the work of studies, by study key and revision."""
    found: dict[tuple[str, int], list[WorkRow]] = defaultdict(list)
    for start in range(0, len(study_keys), _KEYS_AT_ONCE):
        some = table.c.study_key.in_(study_keys[start : start + _KEYS_AT_ONCE])
        query = sa.select(table).where(some).order_by(table.c.key)
        if table is DELIVERY:
            # How a delivery stands is told beside it, until that fails.
            query = query.where(
                sa.or_(DELIVERY.c.about == "", DELIVERY.c.state == WorkState.DEAD.value)
            )
        rows = db.execute(query).all()
        objects: dict[str, tuple[SentObject, ...]] = {}
        if table is DELIVERY:
            objects = sent_by_delivery(db, query.with_only_columns(DELIVERY.c.key).order_by(None))
        for row in rows:
            destination = row.destination if table is DELIVERY else ""
            said = (row.phase, row.state, row.attempts, row.last_error, objects.get(row.key, ()))
            originals = bool(row.originals) if table is DELIVERY else False
            work = WorkRow(row.key, destination, *said, originals)
            found[row.study_key, row.revision].append(work)
    return found
