"""The journal: tables and every SQL statement. It is the truth; the broker only wakes workers up.

SQLite (WAL, synchronous=FULL) on one host, PostgreSQL for several. Every write is one
transaction that names the old state it expects (``limen.states``) and reports whether it won.
Jobs and deliveries are both *work*: rows that one worker at a time claims under a lease.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.types import TypeDecorator

from limen.errors import Permanent, Transient, Unreachable
from limen.instance import NewCommitment, NewInstance
from limen.result import Outcome, Phase
from limen.states import StudyState, WorkState, sources

__all__ = [
    "Commitment",
    "Delivery",
    "Instance",
    "Job",
    "Journal",
    "NewInstance",
    "Recorded",
    "StoredInstance",
    "StudyRow",
    "Summary",
    "Work",
    "utc_now",
]

_BUSY_TIMEOUT_S = 15.0
_WAL_RETRY_S = 0.02
_BACKOFF_LIMIT = 20
_KEYS_AT_ONCE = 500


def utc_now() -> datetime:
    """Return the wall clock in UTC; the journal's default clock."""
    return datetime.now(UTC)


class _Utc(TypeDecorator[datetime]):
    """UTC timestamps: stored without a zone, always read back with one."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


METADATA = sa.MetaData()

INSTANCE = sa.Table(
    "instance",
    METADATA,
    sa.Column("study_key", sa.String(32), primary_key=True),
    sa.Column("sop_key", sa.String(32), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("series_uid", sa.String(64), nullable=False),
    sa.Column("sop_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax", sa.String(64), nullable=False),
    sa.Column("path", sa.String(255), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("peer", sa.String(16), nullable=False),
    sa.Column("received_at", _Utc, nullable=False),
    sa.Index("ix_instance_sop_key", "sop_key"),
)
STUDY = sa.Table(
    "study",
    METADATA,
    sa.Column("study_key", sa.String(32), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("probability", sa.Float),
    sa.Column("positive_images", sa.Integer),
    sa.Column("received_at", _Utc, nullable=False),
    sa.Column("last_instance_at", _Utc, nullable=False),
    sa.Column("complete_at", _Utc),
    sa.Column("predicted_at", _Utc),
    sa.Column("explained_at", _Utc),
    sa.Index("ix_study_received", "received_at"),
    sa.Index("ix_study_uid", "study_uid"),
    sa.Index("ix_study_state", "state"),
)


def _work_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("study_key", sa.String(32), nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
        sa.Column("created_at", _Utc, nullable=False),
        sa.Column("due_at", _Utc, nullable=False),
        sa.Column("publications", sa.Integer, nullable=False, default=0),
        sa.Column("publish_at", _Utc, nullable=False),
        sa.Column("lease_until", _Utc),
        sa.Column("owner", sa.String(120)),
        sa.Column("last_error", sa.Text, nullable=False, default=""),
    ]


JOB = sa.Table("job", METADATA, *_work_columns())
DELIVERY = sa.Table(
    "delivery",
    METADATA,
    *_work_columns(),
    sa.Column("destination", sa.String(40), nullable=False),
)
COMMITMENT = sa.Table(
    "commitment",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("peer", sa.String(16), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("instances", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", _Utc, nullable=False),
    sa.Column("due_at", _Utc, nullable=False),
    sa.Column("lease_until", _Utc),
    sa.Column("owner", sa.String(120)),
    sa.Column("last_error", sa.Text, nullable=False),
)


_VERSION = sa.table("alembic_version", sa.column("version_num"))
_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request for storage commitment that was claimed. ``attempts`` counts this one."""

    key: str
    asked: NewCommitment
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One content of a SOP instance; ``path`` is relative to the spool."""

    sop_class_uid: str
    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one ``NewInstance``.

    Attributes
    ----------
    new
        False when the same bytes were there already.
    conflict
        True when the same SOP instance is there with other bytes.
    revision
        Revision of the study that the instance belongs to.
    """

    study_key: str
    revision: int
    new: bool
    conflict: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """A kept instance; ``path`` is relative to the spool."""

    sop_key: str
    sop_uid: str
    series_uid: str
    sop_class_uid: str
    digest: str
    path: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed job or delivery. ``attempts`` counts this one."""

    key: str
    study_key: str
    revision: int
    phase: Phase
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Job(Work):
    """One phase of the analysis of one study revision."""


@dataclass(frozen=True, slots=True)
class Delivery(Work):
    """One result on its way to one destination."""

    destination: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a committed result says of the study, for status and ordering."""

    outcome: Outcome
    reason: str
    probability: float | None
    positive_images: int | None


@dataclass(frozen=True, slots=True)
class WorkRow:
    """A job or a delivery as ``limen status`` shows it; a job has no destination."""

    key: str
    destination: str
    phase: str
    state: str
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study revision as ``limen status`` shows it."""

    study_key: str
    study_uid: str
    revision: int
    state: str
    outcome: str | None
    reason: str
    probability: float | None
    positive_images: int | None
    images: int
    received_at: datetime
    last_instance_at: datetime
    complete_at: datetime | None
    predicted_at: datetime | None
    explained_at: datetime | None
    jobs: tuple[WorkRow, ...]
    deliveries: tuple[WorkRow, ...]


class Journal:
    """Access to the journal; safe to share between threads.

    Parameters
    ----------
    url
        SQLAlchemy URL: ``sqlite:///...`` or ``postgresql+psycopg://...``.
    clock
        Returns now, in UTC.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = utc_now) -> None:
        self.url = url
        self.clock = clock
        self._engine = _engine(url)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def migrate(self) -> None:
        """Bring the tables to this version (Alembic); a no-op when they are."""
        if self.is_current():
            return
        from limen.migrations import upgrade  # noqa: PLC0415 - Alembic takes time and 12 MB

        with self._transaction() as db:
            if db.dialect.name == "postgresql":  # several processes may start at once
                db.execute(sa.text("SELECT pg_advisory_xact_lock(76733)"))
            upgrade(db)

    def is_current(self) -> bool:
        """Return whether the tables are those of this version."""
        with self._transaction() as db:
            if not sa.inspect(db).has_table(_VERSION.name):
                return False
            newest = max(p.name.partition("_")[0] for p in _MIGRATIONS.glob("[0-9]*.py"))
            return db.scalar(sa.select(_VERSION.c.version_num)) == newest

    def check(self) -> None:
        """Raise ``Unreachable`` unless the journal answers."""
        with self._transaction() as db:
            db.execute(sa.select(sa.func.count()).select_from(STUDY))

    # -- receiving -------------------------------------------------------------------------

    def record(self, instances: Sequence[NewInstance]) -> list[Recorded]:
        """Write a batch of kept instances; open a revision of their studies where due.

        Raises
        ------
        Transient
            The journal is locked or away; the same batch may be written again.
        """
        by_study: dict[str, list[int]] = {}
        for at, one in enumerate(instances):
            by_study.setdefault(one.study_key, []).append(at)
        recorded: dict[int, Recorded] = {}
        with self._transaction() as db:
            for places in by_study.values():
                some = [instances[at] for at in places]
                recorded |= zip(places, self._record_study(db, some), strict=True)
        return [recorded[at] for at in range(len(instances))]

    def _record_study(self, db: sa.Connection, batch: Sequence[NewInstance]) -> list[Recorded]:
        """Write instances of one study; statements do not grow with their number."""
        study_key = batch[0].study_key
        known = self._known(db, study_key, {one.sop_key for one in batch})
        fresh: list[NewInstance] = []
        found: list[
            tuple[int | None, bool]
        ] = []  # revision that has it (None: a new one), conflict
        for one in batch:
            contents = known.setdefault(one.sop_key, {})
            if one.digest in contents:
                found.append((contents[one.digest], False))
                continue
            found.append((None, bool(contents)))
            contents[one.digest] = None
            fresh.append(one)
        revision = self._revision_for(db, fresh) if fresh else 0
        if fresh:
            rows = [
                {"revision": revision} | {f: getattr(one, f) for f in NewInstance.__slots__}
                for one in fresh
            ]
            db.execute(INSTANCE.insert(), rows)
        new = {id(one) for one in fresh}
        return [
            Recorded(study_key, revision if at is None else at, id(one) in new, conflict)
            for one, (at, conflict) in zip(batch, found, strict=True)
        ]

    def _known(
        self, db: sa.Connection, study_key: str, sop_keys: Collection[str]
    ) -> dict[str, dict[str, int | None]]:
        """Return the revision of every content that these instances have, by key and digest."""
        known: dict[str, dict[str, int | None]] = {}
        wanted = sorted(sop_keys)
        for start in range(0, len(wanted), _KEYS_AT_ONCE):
            rows = db.execute(
                sa.select(INSTANCE.c.sop_key, INSTANCE.c.digest, INSTANCE.c.revision).where(
                    INSTANCE.c.study_key == study_key,
                    INSTANCE.c.sop_key.in_(wanted[start : start + _KEYS_AT_ONCE]),
                )
            )
            for sop_key, digest, revision in rows:
                known.setdefault(sop_key, {})[digest] = revision
        return known

    def _revision_for(self, db: sa.Connection, fresh: Sequence[NewInstance]) -> int:
        """Return the revision that takes new instances; open one when the last is complete."""
        first, last = fresh[0], fresh[-1]
        latest = self._latest(db, first.study_key)
        if latest is None or latest.state != StudyState.RECEIVING:
            revision = latest.revision + 1 if latest is not None else 1
            self._open_revision(db, first.study_key, first.study_uid, revision, first.received_at)
        else:
            revision = latest.revision
        db.execute(
            STUDY.update()
            .where(STUDY.c.study_key == first.study_key, STUDY.c.revision == revision)
            .values(last_instance_at=last.received_at)
        )
        return int(revision)

    def _latest(self, db: sa.Connection, study_key: str) -> Any:
        """Return the newest revision of a study, locked until the transaction ends, or None."""
        return db.execute(
            sa.select(STUDY)
            .where(STUDY.c.study_key == study_key)
            .order_by(STUDY.c.revision.desc())
            .limit(1)
            .with_for_update()
        ).first()

    def _open_revision(
        self, db: sa.Connection, study_key: str, study_uid: str, revision: int, at: datetime
    ) -> None:
        db.execute(
            STUDY.insert().values(
                study_key=study_key,
                study_uid=study_uid,
                revision=revision,
                state=StudyState.RECEIVING.value,
                received_at=at,
                last_instance_at=at,
            )
        )

    def paths(self) -> set[str]:
        """Return the spool paths of every instance that has a row."""
        with self._transaction() as db:
            return set(db.scalars(sa.select(INSTANCE.c.path)))

    def receiving(self) -> list[tuple[str, int]]:
        """Return (study key, revision) of every study that is still being received."""
        with self._transaction() as db:
            rows = db.execute(
                sa.select(STUDY.c.study_key, STUDY.c.revision).where(
                    STUDY.c.state == StudyState.RECEIVING.value
                )
            )
            return [(r.study_key, r.revision) for r in rows]

    def complete(self, study_key: str, revision: int) -> bool:
        """End the receiving of a revision and create its prediction job.

        Returns
        -------
        bool
            False when it was complete already.
        """
        now = self.clock()
        with self._transaction() as db:
            if not self._move_study(db, study_key, revision, StudyState.COMPLETE, complete_at=now):
                return False
            self._queue_job(db, study_key, revision, Phase.PREDICTION, now)
            return True

    def replay(self, study_key: str) -> int | None:
        """Open and complete a new revision of a study with the instances it has.

        Returns
        -------
        int or None
            The new revision; None when the study is unknown or still being received.
        """
        now = self.clock()
        with self._transaction() as db:
            latest = self._latest(db, study_key)
            if latest is None or latest.state == StudyState.RECEIVING:
                return None
            revision: int = latest.revision + 1
            self._open_revision(db, study_key, latest.study_uid, revision, now)
            self._move_study(db, study_key, revision, StudyState.COMPLETE, complete_at=now)
            self._queue_job(db, study_key, revision, Phase.PREDICTION, now)
            return revision

    def instances(self, study_key: str, revision: int) -> list[Instance]:
        """Return the instances of a study as of ``revision``.

        Where a SOP instance came with several contents, the newest up to that revision is
        returned; the others stay in the spool.
        """
        with self._transaction() as db:
            rows = db.execute(
                sa.select(INSTANCE)
                .where(INSTANCE.c.study_key == study_key, INSTANCE.c.revision <= revision)
                .order_by(INSTANCE.c.revision, INSTANCE.c.received_at, INSTANCE.c.digest)
            ).all()
        newest = {
            r.sop_key: Instance(**{f: getattr(r, f) for f in Instance.__slots__}) for r in rows
        }
        return [newest[k] for k in sorted(newest)]

    def stored(self, sop_keys: Collection[str]) -> dict[str, list[StoredInstance]]:
        """Return what there is of these instances, by key, every content of each."""
        found: dict[str, list[StoredInstance]] = {}
        wanted = list(dict.fromkeys(sop_keys))
        with self._transaction() as db:
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                some = wanted[start : start + _KEYS_AT_ONCE]
                for row in db.execute(sa.select(INSTANCE).where(INSTANCE.c.sop_key.in_(some))):
                    values = {f: getattr(row, f) for f in StoredInstance.__slots__}
                    found.setdefault(row.sop_key, []).append(StoredInstance(**values))
        return found

    # -- storage commitment ----------------------------------------------------------------

    def ask_commitment(self, asked: NewCommitment) -> str:
        """Keep a request until it is answered; return its key.

        The same transaction of the same peer again is answered again, for what it lists now.
        """
        key = hashlib.sha256(f"{asked.peer}\0{asked.transaction_uid}".encode()).hexdigest()
        now = self.clock()
        values = {
            "transaction_uid": asked.transaction_uid,
            "peer": asked.peer,
            "address": asked.address,
            "instances": json.dumps(asked.instances),
            "state": WorkState.QUEUED.value,
            "attempts": 0,
            "created_at": now,
            "due_at": now,
            "lease_until": None,
            "owner": None,
            "last_error": "",
        }
        with self._transaction() as db:
            db.execute(COMMITMENT.delete().where(COMMITMENT.c.key == key))
            db.execute(COMMITMENT.insert().values(key=key, **values))
        return key

    def claim_commitment(self, owner: str, lease_s: float) -> Commitment | None:
        """Take the longest due request for ``owner``, or return None. Counts an attempt."""
        now = self.clock()
        free = _is_free(COMMITMENT, now)
        with self._transaction() as db:
            row = db.execute(
                sa.select(COMMITMENT)
                .where(free)
                .order_by(COMMITMENT.c.due_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            db.execute(
                COMMITMENT.update()
                .where(
                    COMMITMENT.c.key == row.key, COMMITMENT.c.state.in_(sources(WorkState.RUNNING))
                )
                .values(
                    state=WorkState.RUNNING.value,
                    attempts=row.attempts + 1,
                    owner=owner,
                    lease_until=now + timedelta(seconds=lease_s),
                )
            )
        pairs = tuple((c, i) for c, i in json.loads(row.instances))
        asked = NewCommitment(row.transaction_uid, row.peer, row.address, pairs)
        return Commitment(row.key, asked, row.attempts + 1, row.created_at)

    def settle_commitment(
        self, key: str, owner: str, state: WorkState, error: str = "", wait_s: float = 0.0
    ) -> bool:
        """Say what became of a claimed request; ``wait_s`` until it is due again, if queued.

        Returns
        -------
        bool
            False when it is no longer claimed by ``owner``: it was asked again meanwhile.
        """
        with self._transaction() as db:
            statement = (
                COMMITMENT.update()
                .where(
                    COMMITMENT.c.key == key,
                    COMMITMENT.c.owner == owner,
                    COMMITMENT.c.state == WorkState.RUNNING.value,
                    COMMITMENT.c.state.in_(sources(state)),
                )
                .values(
                    state=state.value,
                    owner=None,
                    lease_until=None,
                    last_error=error,
                    due_at=self.clock() + timedelta(seconds=wait_s),
                )
            )
            return db.execute(statement).rowcount == 1

    def commitments(self) -> list[tuple[str, str, int, str]]:
        """Return (transaction UID, state, attempts, last error) of every request, oldest first."""
        columns = COMMITMENT.c
        query = sa.select(
            columns.transaction_uid, columns.state, columns.attempts, columns.last_error
        ).order_by(columns.created_at)
        with self._transaction() as db:
            return [(r[0], r[1], r[2], r[3]) for r in db.execute(query)]

    # -- work: jobs and deliveries ---------------------------------------------------------

    def due(self, limit: int = 500) -> list[Work]:
        """Return work that is due and whose message, if any, is old: publish it."""
        now = self.clock()
        with self._transaction() as db:
            found: list[Work] = []
            for table in (JOB, DELIVERY):
                rows = db.execute(
                    sa.select(table)
                    .where(_is_free(table, now), table.c.publish_at <= now)
                    .order_by(table.c.phase.desc(), table.c.due_at)
                    .limit(limit)
                )
                found += [_work(table, r) for r in rows]
            return found

    def next_waiting(self, lane: str) -> Work | None:
        """Return the longest due piece of work of one lane, published or not.

        Parameters
        ----------
        lane
            A phase, for jobs; else a destination, for deliveries.
        """
        table, column = (
            (JOB, JOB.c.phase) if lane in set(Phase) else (DELIVERY, DELIVERY.c.destination)
        )
        query = (
            sa.select(table)
            .where(
                column == str(lane),
                table.c.state == WorkState.QUEUED.value,
                table.c.due_at <= self.clock(),
            )
            .order_by(table.c.due_at, table.c.key)
            .limit(1)
        )
        with self._transaction() as db:
            row = db.execute(query).first()
        return None if row is None else _work(table, row)

    def publishing(self, work: Work, republish_s: float) -> None:
        """Note that a message for ``work`` goes out now; the sweep sends the next one later.

        The interval doubles with each message, so that a long backlog fills no queue.
        """
        table = _table(work)
        with self._transaction() as db:
            count = db.scalar(sa.select(table.c.publications).where(table.c.key == work.key)) or 0
            wait = timedelta(seconds=republish_s * 2 ** min(count, 6))
            db.execute(
                table.update()
                .where(table.c.key == work.key)
                .values(publications=count + 1, publish_at=self.clock() + wait)
            )

    def unpublished(self, work: Work, wait_s: float) -> None:
        """Note that the broker did not confirm the message; try again in ``wait_s``.

        It does not count as sent: an outage must not stretch the interval of the sweep.
        """
        table = _table(work)
        with self._transaction() as db:
            db.execute(
                table.update()
                .where(table.c.key == work.key, table.c.publications > 0)
                .values(
                    publications=table.c.publications - 1,
                    publish_at=self.clock() + timedelta(seconds=wait_s),
                )
            )

    def claim(self, kind: type[Job] | type[Delivery], key: str, owner: str, lease_s: float) -> Any:
        """Take a piece of work for ``owner``, or return None when it is not to be had.

        Compare-and-set: it must be queued and due, or running under a lease that has ended.
        Counts an attempt.
        """
        table = JOB if kind is Job else DELIVERY
        now = self.clock()
        free = _is_free(table, now)
        with self._transaction() as db:
            won = db.execute(
                table.update()
                .where(table.c.key == key, free, table.c.state.in_(sources(WorkState.RUNNING)))
                .values(
                    state=WorkState.RUNNING.value,
                    attempts=table.c.attempts + 1,
                    owner=owner,
                    lease_until=now + timedelta(seconds=lease_s),
                )
            ).rowcount
            if won != 1:
                return None
            return _work(table, db.execute(sa.select(table).where(table.c.key == key)).one())

    def renew(self, owner: str, lease_s: float, keys: Collection[str]) -> None:
        """Extend the leases of ``owner`` on ``keys``; called while it works on them.

        What it no longer works on is left alone: that lease ends, and somebody else takes over.
        """
        until = self.clock() + timedelta(seconds=lease_s)
        with self._transaction() as db:
            for table in (JOB, DELIVERY):
                db.execute(
                    table.update()
                    .where(
                        table.c.key.in_(keys),
                        table.c.owner == owner,
                        table.c.state == WorkState.RUNNING.value,
                    )
                    .values(lease_until=until)
                )

    def holds(self, work: Work, owner: str) -> bool:
        """Return whether ``owner`` still has the claim on ``work``."""
        table = _table(work)
        with self._transaction() as db:
            row = db.execute(sa.select(table.c.owner).where(table.c.key == work.key)).first()
            return row is not None and row.owner == owner

    def owners(self) -> set[str]:
        """Return the owners of everything that is running."""
        with self._transaction() as db:
            return {
                o
                for table in (JOB, DELIVERY)
                for o in db.scalars(
                    sa.select(table.c.owner).where(table.c.state == WorkState.RUNNING.value)
                )
                if o is not None
            }

    def release(self, owner: str) -> int:
        """Put back whatever ``owner`` was running: it is gone. Attempts stay counted."""
        now = self.clock()
        with self._transaction() as db:
            return sum(
                db.execute(
                    table.update()
                    .where(table.c.owner == owner, table.c.state == WorkState.RUNNING.value)
                    .values(state=WorkState.QUEUED.value, due_at=now, publish_at=now, owner=None)
                ).rowcount
                for table in (JOB, DELIVERY)
            )

    def postpone(self, work: Work, owner: str, wait_s: float, error: str) -> bool:
        """Put a failed attempt back, due in ``wait_s``."""
        due = self.clock() + timedelta(seconds=wait_s)
        with self._transaction() as db:
            return self._move_work(
                db, work, owner, WorkState.QUEUED, due_at=due, publish_at=due, last_error=error
            )

    def delivered(self, delivery: Work, owner: str) -> bool:
        """End a delivery that arrived."""
        with self._transaction() as db:
            return self._move_work(db, delivery, owner, WorkState.DONE, last_error="")

    def bury(self, delivery: Work, owner: str, error: str) -> bool:
        """Give a delivery up; it stays visible with its reason."""
        with self._transaction() as db:
            return self._move_work(db, delivery, owner, WorkState.DEAD, last_error=error)

    def commit(
        self,
        job: Work,
        owner: str,
        summary: Summary,
        destinations: Sequence[str],
        *,
        explain: bool = False,
        failed: str = "",
    ) -> bool:
        """Commit the result of a job and all that follows from it, in one transaction.

        Parameters
        ----------
        summary
            What the result says of the study.
        destinations
            A delivery row is made for each.
        explain
            Whether an explanation job follows (prediction only).
        failed
            Why the job is given up; empty when it did its work.

        Returns
        -------
        bool
            False when another worker holds the job by now: nothing was written.
        """
        now = self.clock()
        prediction = job.phase is Phase.PREDICTION
        end = WorkState.DEAD if failed else WorkState.DONE
        state = StudyState.FAILED if failed else StudyState.DONE
        if explain and not failed:
            state = StudyState.PREDICTED
        values: dict[str, Any] = {"explained_at": now}
        if prediction:
            values = {"predicted_at": now, **_summary_values(summary)}
        if failed:
            values["reason"] = failed
        with self._transaction() as db:
            if not self._move_work(db, job, owner, end, last_error=failed):
                return False
            self._move_study(db, job.study_key, job.revision, state, **values)
            if state is StudyState.PREDICTED:
                self._queue_job(db, job.study_key, job.revision, Phase.EXPLANATION, now)
            for name in destinations:
                self._queue(db, DELIVERY, job, f"{job.key}-{name}", now, destination=name)
            return True

    def retry(self, key: str) -> bool:
        """Queue a dead delivery again, with its attempts counted from 0."""
        now = self.clock()
        with self._transaction() as db:
            return (
                db.execute(
                    DELIVERY.update()
                    .where(DELIVERY.c.key == key, DELIVERY.c.state == WorkState.DEAD.value)
                    .values(
                        state=WorkState.QUEUED.value,
                        attempts=0,
                        publications=0,
                        created_at=now,
                        due_at=now,
                        publish_at=now,
                        owner=None,
                    )
                ).rowcount
                == 1
            )

    # -- reading -----------------------------------------------------------------------------

    def studies(self, study: str | None = None, limit: int = 100) -> list[StudyRow]:
        """Return the newest study revisions, or every revision of one study.

        Parameters
        ----------
        study
            A study key, or a prefix of one, or a StudyInstanceUID.
        """
        query = sa.select(STUDY).order_by(STUDY.c.received_at.desc(), STUDY.c.revision.desc())
        if study is not None:
            query = query.where(
                sa.or_(
                    STUDY.c.study_key.startswith(study, autoescape=True),
                    STUDY.c.study_uid == study,
                )
            )
        with self._transaction() as db:
            rows = db.execute(query.limit(limit)).all()
            return [self._study_row(db, r) for r in rows]

    def study(self, study_key: str, revision: int) -> StudyRow:
        """Return one study revision.

        Raises
        ------
        Permanent
            There is no such revision.
        """
        with self._transaction() as db:
            row = db.execute(
                sa.select(STUDY).where(STUDY.c.study_key == study_key, STUDY.c.revision == revision)
            ).first()
            if row is None:
                raise Permanent(f"study {study_key} has no revision {revision}")
            return self._study_row(db, row)

    def queues(self) -> dict[str, dict[str, float | int]]:
        """Return, per lane, how much waits, runs and is dead, and the age of the oldest in s."""
        now = self.clock()
        lanes: dict[str, dict[str, float | int]] = {}
        with self._transaction() as db:
            for table, lane in ((JOB, JOB.c.phase), (DELIVERY, DELIVERY.c.destination)):
                rows = db.execute(
                    sa.select(
                        lane.label("lane"),
                        table.c.state,
                        sa.func.count().label("n"),
                        sa.func.min(table.c.created_at, type_=_Utc).label("oldest"),
                    )
                    .where(table.c.state != WorkState.DONE.value)
                    .group_by(lane, table.c.state)
                )
                for row in rows:
                    entry = lanes.setdefault(
                        row.lane, {"queued": 0, "running": 0, "dead": 0, "oldest_s": 0.0}
                    )
                    entry[row.state] = row.n
                    if row.state != WorkState.DEAD.value and row.oldest is not None:
                        age = round((now - row.oldest).total_seconds(), 1)
                        entry["oldest_s"] = max(entry["oldest_s"], age)
        return lanes

    def _study_row(self, db: sa.Connection, row: Any) -> StudyRow:
        here = {"study_key": row.study_key, "revision": row.revision}
        images = db.scalar(
            sa.select(sa.func.count(sa.distinct(INSTANCE.c.sop_key))).where(
                INSTANCE.c.study_key == row.study_key, INSTANCE.c.revision <= row.revision
            )
        )
        fields = {f: getattr(row, f) for f in StudyRow.__slots__ if hasattr(row, f)}
        return StudyRow(
            **fields,
            images=images or 0,
            jobs=tuple(_work_rows(db, JOB, here)),
            deliveries=tuple(_work_rows(db, DELIVERY, here)),
        )

    # -- the only places that change a state ---------------------------------------------------

    def _move_study(
        self, db: sa.Connection, study_key: str, revision: int, new: StudyState, **values: Any
    ) -> bool:
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

    def _move_work(
        self, db: sa.Connection, work: Work, owner: str, new: WorkState, **values: Any
    ) -> bool:
        table = _table(work)
        statement = (
            table.update()
            .where(
                table.c.key == work.key,
                table.c.owner == owner,
                table.c.state == WorkState.RUNNING.value,
                table.c.state.in_(sources(new)),
            )
            .values(state=new.value, owner=None, lease_until=None, **values)
        )
        return db.execute(statement).rowcount == 1

    def _queue_job(
        self, db: sa.Connection, study_key: str, revision: int, phase: Phase, now: datetime
    ) -> None:
        key = f"{study_key}-{revision}-{phase.value}"
        self._queue(db, JOB, Job(key, study_key, revision, phase, 0, now), key, now)

    def _queue(
        self, db: sa.Connection, table: sa.Table, job: Work, key: str, now: datetime, **more: str
    ) -> None:
        db.execute(
            table.insert().values(
                key=key,
                study_key=job.study_key,
                revision=job.revision,
                phase=job.phase.value,
                state=WorkState.QUEUED.value,
                created_at=now,
                due_at=now,
                publish_at=now,
                **more,
            )
        )

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except IntegrityError as exc:  # another process wrote the same row first
            raise Transient("the journal row was written by another process; try again") from exc
        except (OperationalError, DBAPIError) as exc:
            name = self._engine.url.render_as_string(hide_password=True)
            raise Unreachable(
                f"the journal {name} does not answer ({type(exc.orig).__name__}); "
                "check that its disk has space, or that PostgreSQL runs"
            ) from exc


def backoff_s(attempts: int, base_s: float, limit_s: float) -> float:
    """Return the wait after the n-th failed attempt: doubling from ``base_s`` to ``limit_s``."""
    return float(min(limit_s, base_s * 2 ** min(max(attempts - 1, 0), _BACKOFF_LIMIT)))


def host_name() -> str:
    """Return the name of this host, as it appears in owners of leases."""
    return socket.gethostname()


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    Path(sa.make_url(url).database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # Taking the write lock first means waiting for it, never failing half-way through.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: Any) -> None:
    """Put the file into WAL mode, once in its life.

    The switch fails at once while another process has just made the file: SQLite's busy timeout
    does not cover it.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_S)
        else:
            return


def _table(work: Work) -> sa.Table:
    return DELIVERY if isinstance(work, Delivery) else JOB


def _is_free(table: sa.Table, now: datetime) -> sa.ColumnElement[bool]:
    """Nobody works on it: it is queued and due, or running under a lease that has ended."""
    return sa.or_(
        sa.and_(table.c.state == WorkState.QUEUED.value, table.c.due_at <= now),
        sa.and_(table.c.state == WorkState.RUNNING.value, table.c.lease_until < now),
    )


def _work(table: sa.Table, row: Any) -> Work:
    phase = Phase(row.phase)
    if table is JOB:
        return Job(row.key, row.study_key, row.revision, phase, row.attempts, row.created_at)
    return Delivery(
        row.key,
        row.study_key,
        row.revision,
        phase,
        row.attempts,
        row.created_at,
        row.destination,
    )


def _work_rows(db: sa.Connection, table: sa.Table, here: dict[str, Any]) -> Iterator[WorkRow]:
    rows = db.execute(
        sa.select(table)
        .where(table.c.study_key == here["study_key"], table.c.revision == here["revision"])
        .order_by(table.c.key)
    )
    for r in rows:
        destination = r.destination if table is DELIVERY else ""
        yield WorkRow(r.key, destination, r.phase, r.state, r.attempts, r.last_error)


def _summary_values(summary: Summary) -> dict[str, Any]:
    return {
        "outcome": summary.outcome.value,
        "reason": summary.reason,
        "probability": summary.probability,
        "positive_images": summary.positive_images,
    }
