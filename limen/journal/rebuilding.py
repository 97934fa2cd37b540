"""Rebuilding: the rows of a journal that was lost, made again of what is kept of each study.

What is kept are instances (spool, archive) and result documents (results folder, archive). A result
that is there is never made again: its revision gets its row back as it ended, and is delivered once
more, the same bytes under the same names and UIDs, because nobody can say where it had arrived.
An instance that came after the newest result opens the next revision, as if it had just come.

Rows that are there are left alone: rebuilding twice is rebuilding once, and a journal that was put
back from an old copy is brought up to what happened since.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from limen.instance import NewInstance
from limen.journal import events
from limen.journal.database import Database
from limen.journal.receiving import INSTANCE_FIELDS, record_study
from limen.journal.rows import Summary
from limen.journal.tables import DELIVERY, EVENT, INSTANCE, JOB, STUDY
from limen.journal.transitions import queue, queue_job
from limen.journal.work import said, summary_values
from limen.result import Outcome, Phase, Result
from limen.states import OVER, StudyState, WorkState

__all__ = ["KeptResult", "Rebuilding", "Rebuilt"]

REPAIRED = "repair"
"""The kind of event that says so of a study."""


@dataclass(frozen=True, slots=True)
class KeptResult:
    """A result document that is kept.

    Attributes
    ----------
    sha256
        Of its bytes.
    archived
        Whether the archive holds it, and with it all that it names.
    shadow
        Name of the bundle when it ran in shadow; empty otherwise.
    """

    result: Result
    sha256: str
    archived: bool
    shadow: str = ""

    @property
    def place(self) -> tuple[int, Phase]:
        """Revision and phase."""
        return self.result.revision, self.result.phase


@dataclass(slots=True)
class Rebuilt:
    """How many rows were missing: instances, results, deliveries; and what is due anew."""

    instances: int = 0
    results: int = 0
    deliveries: int = 0
    analyses: int = 0

    def __iadd__(self, other: Rebuilt) -> Rebuilt:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


@dataclass(slots=True)
class _Study:
    """One study while its rows are written."""

    db: sa.Connection
    key: str
    now: datetime
    by: str
    done: Rebuilt = field(default_factory=Rebuilt)


class Rebuilding:
    """Makes rows of what is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def study(
        self,
        study_key: str,
        instances: Sequence[tuple[int | None, NewInstance]],
        results: Collection[KeptResult],
        destinations: Sequence[str],
        by: str,
        *,
        told_once: Collection[str] = (),
        dry_run: bool = False,
    ) -> Rebuilt:
        """Write what the journal lacks of a study, in one transaction.

        Parameters
        ----------
        instances
            All of them that are kept, each with its revision; None: it came after the newest
            result.
        destinations
            Where results of this study go.
        by
            Who asks for it.
        told_once
            Destinations that call somebody: what is older than a day is not told there again.
        dry_run
            Write nothing.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            study = _Study(db, study_key, self._database.now(db), by)
            by_place = {one.place: one for one in results if not one.shadow}
            known = {(row.sop_key, row.digest) for row in db.execute(_contents(study_key))}
            missing = [(n, i) for n, i in instances if (i.sop_key, i.digest) not in known]
            for revision in sorted({revision for revision, _ in by_place}):
                first = [i.received_at for n, i in instances if n == revision]
                _revision(study, revision, by_place, min(first, default=None), instances)
            for one in results:
                _deliveries(study, one, destinations, told_once)
            _instances(study, missing)
            if dry_run:
                db.rollback()
            return study.done


def _contents(study_key: str) -> sa.Select[Any]:
    return sa.select(INSTANCE.c.sop_key, INSTANCE.c.digest).where(INSTANCE.c.study_key == study_key)


def _instances(study: _Study, missing: Sequence[tuple[int | None, NewInstance]]) -> None:
    rows = [
        {"revision": revision, "receiver": ""} | {f: getattr(one, f) for f in INSTANCE_FIELDS}
        for revision, one in missing
        if revision is not None
    ]
    if rows:
        study.db.execute(INSTANCE.insert(), rows)
    newer = [one for revision, one in missing if revision is None]
    if newer:
        record_study(study.db, newer)
        study.done.analyses += 1
    study.done.instances += len(missing)


def _revision(
    study: _Study,
    revision: int,
    results: Mapping[tuple[int, Phase], KeptResult],
    first_at: datetime | None,
    instances: Sequence[tuple[int | None, NewInstance]],
) -> None:
    """Write the row of a revision and its jobs, where a result is kept that it does not know."""
    kept = [one for phase in Phase if (one := results.get((revision, phase))) is not None]
    lacking = [one for one in kept if not _is_done(study, one)]
    if not lacking:
        return
    newest, predicted = kept[-1].result, kept[0].result
    explained = newest.phase is Phase.EXPLANATION
    due = predicted.wants_explanation and not explained
    times = newest.timings
    values: dict[str, Any] = {
        "study_uid": newest.study.study_uid,
        "accession": next((i.accession for _, i in instances if i.accession), ""),
        "state": (StudyState.PREDICTED if due else StudyState.DONE).value,
        "received_at": first_at or _time(times.received),
        "last_instance_at": _time(times.received),
        "complete_at": _time(times.complete),
        "predicted_at": _time(times.predicted or times.complete),
        "explained_at": _time(times.explained) if explained and times.explained else None,
        **summary_values(Summary.of(kept[0].result, kept[0].sha256)),
    }
    here = sa.and_(STUDY.c.study_key == study.key, STUDY.c.revision == revision)
    study.db.execute(STUDY.delete().where(here))
    study.db.execute(STUDY.insert().values(study_key=study.key, revision=revision, **values))
    for one in lacking:
        _job_done(study, one)
    if due and not _has(study, JOB, f"{study.key}-{revision}-{Phase.EXPLANATION}"):
        queue_job(study.db, study.key, revision, Phase.EXPLANATION, study.now)
        study.done.analyses += 1
    study.done.results += len(lacking)


def _is_done(study: _Study, kept: KeptResult) -> bool:
    state = study.db.scalar(sa.select(JOB.c.state).where(JOB.c.key == _job_key(study, kept)))
    return state in {*OVER, WorkState.DEAD}


def _job_done(study: _Study, kept: KeptResult) -> None:
    key, (revision, phase) = _job_key(study, kept), kept.place
    study.db.execute(JOB.delete().where(JOB.c.key == key))
    queue(study.db, JOB, key, study.key, revision, phase, study.now)
    done = {"state": WorkState.DONE.value, "attempts": 1}
    study.db.execute(JOB.update().where(JOB.c.key == key).values(**done))
    events.happened(
        study.db, REPAIRED, (study.key, revision), key, study.by, study.now,
        "the journal was rebuilt: this result is the one that was kept",
    )  # fmt: skip
    this = sa.and_(EVENT.c.study_key == study.key, EVENT.c.subject == key)
    detail = json.dumps(said(Summary.of(kept.result, kept.sha256)))
    study.db.execute(EVENT.update().where(this, EVENT.c.kind == REPAIRED).values(detail=detail))


def _deliveries(
    study: _Study, kept: KeptResult, destinations: Sequence[str], told_once: Collection[str]
) -> None:
    """Have a result delivered wherever no delivery of it is known."""
    times = kept.result.timings
    is_old = study.now - _time(times.explained or times.predicted or times.complete) > _NEWS
    revision, phase = kept.place
    name = f"shadow-{kept.shadow}" if kept.shadow else phase.value
    urgent = kept.result.outcome in {Outcome.POSITIVE, Outcome.UNDETERMINED}
    for destination in destinations:
        if kept.shadow and (destination != _ARCHIVE or kept.archived):
            continue
        key = f"{study.key}-{revision}-{name}-{destination}"
        same = sa.and_(
            DELIVERY.c.study_key == study.key,
            DELIVERY.c.revision == revision,
            DELIVERY.c.phase == phase.value,
            DELIVERY.c.destination == destination,
            DELIVERY.c.shadow == kept.shadow,
            DELIVERY.c.about == "",
            ~DELIVERY.c.originals,
        )  # fmt: skip
        if study.db.execute(sa.select(DELIVERY.c.key).where(same)).first() is not None:
            continue
        queue(
            study.db, DELIVERY, key, study.key, revision, phase, study.now,
            destination=destination, urgent=urgent, shadow=kept.shadow,
        )  # fmt: skip
        if destination == _ARCHIVE and kept.archived:
            there = {"state": WorkState.DONE.value, "attempts": 1}
            study.db.execute(DELIVERY.update().where(DELIVERY.c.key == key).values(**there))
        elif destination in told_once and is_old:
            values = {"state": WorkState.DISCARDED.value, "last_error": _NO_NEWS}
            study.db.execute(DELIVERY.update().where(DELIVERY.c.key == key).values(**values))
        else:
            study.done.deliveries += 1


_ARCHIVE = "archive"
_NEWS = timedelta(days=1)
_NO_NEWS = "not told again: the journal was rebuilt, and this is older than a day"


def _has(study: _Study, table: sa.Table, key: str) -> bool:
    found = study.db.execute(sa.select(table.c.key).where(table.c.key == key)).first()
    return found is not None


def _job_key(study: _Study, kept: KeptResult) -> str:
    revision, phase = kept.place
    return f"{study.key}-{revision}-{phase.value}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
