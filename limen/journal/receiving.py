"""What is received: rows of instances, revisions of studies, and when one is complete."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from limen.instance import NewInstance
from limen.journal import events
from limen.journal.database import Database
from limen.journal.retention import came_again, goes_on
from limen.journal.rows import Instance, OpenRevision, Recorded, StoredInstance
from limen.journal.tables import DELIVERY, INSTANCE, PURGE, STUDY
from limen.journal.transitions import move_study, queue, queue_job
from limen.result import Phase
from limen.states import ARCHIVE, StudyState

__all__ = ["INSTANCE_FIELDS", "Receiving", "record_study"]

_KEYS_AT_ONCE = 500
INSTANCE_FIELDS = [f for f in NewInstance.__slots__ if f not in {"accession", "is_result"}]
"""Of a ``NewInstance``, what its row has."""


class Receiving:
    """Instances and the revisions that they belong to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, instances: Sequence[NewInstance], receiver: str = "") -> list[Recorded]:
        """Write a batch of kept instances; open a revision of their studies where due.

        Parameters
        ----------
        receiver
            Name of the receiver that kept them.

        Raises
        ------
        Transient
            The journal is locked or away; the same batch may be written again.
        """
        by_study: dict[str, list[int]] = {}
        for at, one in enumerate(instances):
            by_study.setdefault(one.study_key, []).append(at)
        recorded: dict[int, Recorded] = {}
        with self._database.writing() as db:
            shift = self._database.correction(db)
            for places in by_study.values():
                some = [_moved(instances[at], shift) for at in places]
                recorded |= zip(places, record_study(db, some, receiver), strict=True)
        return [recorded[at] for at in range(len(instances))]

    def paths(self, study_keys: Collection[str]) -> set[str]:
        """Return the spool paths of every instance of some studies that has a row.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        wanted, found = sorted(study_keys), set[str]()
        with self._database.reading() as db:
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                some = INSTANCE.c.study_key.in_(wanted[start : start + _KEYS_AT_ONCE])
                found.update(db.scalars(sa.select(INSTANCE.c.path).where(some)))
        return found

    def open_revisions(self, silent_s: float = 0.0) -> list[OpenRevision]:
        """Return every revision that is still being received.

        Parameters
        ----------
        silent_s
            Only those of which nothing came for so long.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(STUDY.c.study_key, STUDY.c.revision).where(
            STUDY.c.state == StudyState.RECEIVING.value
        )
        with self._database.reading() as db:
            if silent_s:
                before = self._database.now(db) - timedelta(seconds=silent_s)
                query = query.where(STUDY.c.last_instance_at <= before)
            return [OpenRevision(r.study_key, r.revision) for r in db.execute(query)]

    def knows_any(self) -> bool:
        """Return whether any study was ever received.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._database.reading() as db:
            return db.execute(sa.select(STUDY.c.study_key).limit(1)).first() is not None

    def kept_elsewhere(self, receiver: str, within_s: float, limit: int) -> list[str]:
        """Return the spool paths of some instances that other receivers have just kept.

        Parameters
        ----------
        receiver
            Whose instances are not meant.
        within_s
            Only of revisions that were opened so lately.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        of_study = sa.and_(
            STUDY.c.study_key == INSTANCE.c.study_key, STUDY.c.revision == INSTANCE.c.revision
        )
        purged = sa.exists().where(PURGE.c.study_key == INSTANCE.c.study_key)
        query = sa.select(INSTANCE.c.path).join(STUDY, of_study)
        query = query.where(INSTANCE.c.receiver.not_in(["", receiver]), ~purged).limit(limit)
        with self._database.reading() as db:
            since = self._database.now(db) - timedelta(seconds=within_s)
            return list(db.scalars(query.where(STUDY.c.received_at > since)))

    def complete(
        self,
        study_key: str,
        revision: int,
        receiver: str = "",
        quiet_s: float = 0.0,
        *,
        originals_first: bool = False,
    ) -> bool | None:
        """End the receiving of a revision and create its prediction job.

        Parameters
        ----------
        receiver, quiet_s
            Who says so; instances of any other receiver have to be older than that.
        originals_first
            Have its instances archived; the job is created when they are.

        Returns
        -------
        bool or None
            False when it was complete already; None when it comes to another receiver too, which
            was not quiet for so long.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            if quiet_s and _comes_elsewhere(
                db, (study_key, revision), receiver, now - timedelta(seconds=quiet_s)
            ):
                return None
            if not move_study(db, study_key, revision, StudyState.COMPLETE, complete_at=now):
                return False
            _begin(db, study_key, revision, now, originals_first=originals_first)
            return True

    def replay(self, study_key: str, by: str = "", *, originals_first: bool = False) -> int | None:
        """Open and complete a new revision of a study with the instances it has.

        Parameters
        ----------
        by
            Who asks for it.
        originals_first
            As of ``complete``.

        Returns
        -------
        int or None
            The new revision; None when the study is unknown or still being received.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            latest = _latest(db, study_key)
            if latest is None or latest.state == StudyState.RECEIVING:
                return None
            revision: int = latest.revision + 1
            _open_revision(db, study_key, latest.study_uid, revision, now, latest.accession)
            move_study(db, study_key, revision, StudyState.COMPLETE, complete_at=now)
            _begin(db, study_key, revision, now, originals_first=originals_first)
            events.happened(db, "replay", (study_key, revision), "", by, now)
            return revision

    def instances(self, study_key: str, revision: int) -> list[Instance]:
        """Return the instances of a study as of ``revision``.

        Where a SOP Instance UID came with several contents up to that revision, each of them is
        returned: nobody can say which one the sender meant.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = (
            sa.select(INSTANCE)
            .where(INSTANCE.c.study_key == study_key, INSTANCE.c.revision <= revision)
            .order_by(INSTANCE.c.sop_key, INSTANCE.c.revision, INSTANCE.c.digest)
        )
        with self._database.reading() as db:
            rows = db.execute(query).all()
        return [Instance(**{f: getattr(r, f) for f in Instance.__slots__}) for r in rows]

    def stored(self, sop_keys: Collection[str]) -> dict[str, list[StoredInstance]]:
        """Return what there is of these instances, by key, every content of each.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        found: dict[str, list[StoredInstance]] = {}
        wanted = list(dict.fromkeys(sop_keys))
        with self._database.reading() as db:
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                some = wanted[start : start + _KEYS_AT_ONCE]
                for row in db.execute(sa.select(INSTANCE).where(INSTANCE.c.sop_key.in_(some))):
                    values = {f: getattr(row, f) for f in StoredInstance.__slots__}
                    found.setdefault(row.sop_key, []).append(StoredInstance(**values))
        return found


def _begin(
    db: sa.Connection, study_key: str, revision: int, now: datetime, *, originals_first: bool
) -> None:
    """Make the first work of a revision that is complete."""
    if originals_first:
        where = (study_key, revision, Phase.PREDICTION)
        key = f"{study_key}-{revision}-originals"
        queue(db, DELIVERY, key, *where, now, destination=ARCHIVE, originals=True)
    else:
        queue_job(db, study_key, revision, Phase.PREDICTION, now)


def _moved(one: NewInstance, shift: timedelta) -> NewInstance:
    """Return an instance with the time that the journal's clock had when it was received."""
    return replace(one, received_at=one.received_at + shift) if shift else one


def _comes_elsewhere(
    db: sa.Connection, place: tuple[str, int], receiver: str, since: datetime
) -> bool:
    """Return whether another receiver has kept an instance of a revision since then.

    The study is locked first: what another receiver is writing now is seen, or comes after.
    """
    study_key, revision = place
    _latest(db, study_key)
    here = sa.and_(INSTANCE.c.study_key == study_key, INSTANCE.c.revision == revision)
    lately = here, INSTANCE.c.receiver != receiver, INSTANCE.c.received_at > since
    return db.execute(sa.select(INSTANCE.c.sop_key).where(*lately).limit(1)).first() is not None


def record_study(
    db: sa.Connection, batch: Sequence[NewInstance], receiver: str = ""
) -> list[Recorded]:
    """Write instances of one study; statements do not grow with their number."""
    study_key = batch[0].study_key
    known = _known(db, study_key, {one.sop_key for one in batch})
    fresh: list[NewInstance] = []
    found: list[tuple[int | None, bool]] = []  # revision that has it (None: a new one), conflict
    for one in batch:
        contents = known.setdefault(one.sop_key, {})
        if one.digest in contents:
            found.append((contents[one.digest], False))
            continue
        found.append((None, bool(contents)))
        contents[one.digest] = None
        fresh.append(one)
    revision = _revision_for(db, fresh) if fresh else 0
    if fresh:
        rows = [
            {"revision": revision, "receiver": receiver}
            | {f: getattr(one, f) for f in INSTANCE_FIELDS}
            for one in fresh
        ]
        db.execute(INSTANCE.insert(), rows)
    else:
        came_again(db, study_key)
    new = {id(one) for one in fresh}
    return [
        Recorded(study_key, revision if at is None else at, id(one) in new, conflict)
        for one, (at, conflict) in zip(batch, found, strict=True)
    ]


def _known(
    db: sa.Connection, study_key: str, sop_keys: Collection[str]
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


def _revision_for(db: sa.Connection, fresh: Sequence[NewInstance]) -> int:
    """Return the revision that takes new instances; open one when the last is complete.

    Results of Limen that come back open none: they wait for the next, else a PACS that forwards
    what it gets, and is sent results, would have a study analysed without end.
    """
    first, last = fresh[0], fresh[-1]
    latest = _latest(db, first.study_key)
    is_over = latest is not None and latest.state != StudyState.RECEIVING
    if latest is not None and is_over and all(one.is_result for one in fresh):
        goes_on(db, first.study_key)
        return int(latest.revision) + 1
    if latest is None or latest.state != StudyState.RECEIVING:
        revision = latest.revision + 1 if latest is not None else 1
        accession = first.accession or (latest.accession if latest is not None else "")
        _open_revision(db, first.study_key, first.study_uid, revision, first.received_at, accession)
    else:
        revision = latest.revision
    db.execute(
        STUDY.update()
        .where(STUDY.c.study_key == first.study_key, STUDY.c.revision == revision)
        .values(last_instance_at=last.received_at)
    )
    return int(revision)


def _latest(db: sa.Connection, study_key: str) -> sa.Row[Any] | None:
    """Return the newest revision of a study, locked until the transaction ends, or None."""
    return db.execute(
        sa.select(STUDY)
        .where(STUDY.c.study_key == study_key)
        .order_by(STUDY.c.revision.desc())
        .limit(1)
        .with_for_update()
    ).first()


def _open_revision(
    db: sa.Connection, study_key: str, study_uid: str, revision: int, at: datetime, accession: str
) -> None:
    db.execute(
        STUDY.insert().values(
            study_key=study_key,
            study_uid=study_uid,
            revision=revision,
            accession=accession,
            state=StudyState.RECEIVING.value,
            received_at=at,
            last_instance_at=at,
        )
    )
