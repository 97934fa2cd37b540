"""Work: jobs, deliveries and shadows, which one worker at a time claims under a lease."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from limen.errors import Delayed
from limen.journal import circuits, deployments, events
from limen.journal.database import Database
from limen.journal.kinds import KINDS, W, value
from limen.journal.objects import begin_again, is_awaiting
from limen.journal.rows import AnyWork, Delivery, Job, Shadow, Summary
from limen.journal.tables import DELIVERY, JOB, SHADOW
from limen.journal.transitions import claim, move_study, queue, queue_job, renew, settle
from limen.result import Outcome, Phase
from limen.states import StudyState, WorkState

__all__ = ["WorkQueue", "said", "summary_values"]


class WorkQueue:
    """What is due, who works on it, and how it ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- claims ------------------------------------------------------------------------------

    def claim(self, kind: type[W], key: str, owner: str, lease_s: float) -> W | None:
        """Take a piece of work for ``owner``, or return None when it is not to be had.

        Compare-and-set: it must be queued and due, or running under a lease that has ended. A
        delivery to a destination that is away is to be had as a probe only. Counts an attempt.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            if kind is Delivery and not circuits.admits(db, key, now):
                return None
            row = claim(db, KINDS[kind], key, owner, now, lease_s)
            if row is not None:
                events.begun(db, (row.study_key, row.revision), key, owner, now)
            if row is not None and kind is Delivery:
                circuits.probing(db, row.destination, now + timedelta(seconds=lease_s))
        return None if row is None else value(kind, row)

    def renew(self, owner: str, lease_s: float, keys: Collection[str]) -> None:
        """Extend the leases of ``owner`` on ``keys``; called while it works on them.

        What it no longer works on is left alone: that lease ends, and somebody else takes over.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            for table in KINDS.values():
                renew(db, table, keys, owner, now, lease_s)

    def holds(self, work: AnyWork, owner: str) -> bool:
        """Return whether ``owner`` still has the claim on ``work``.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        table = KINDS[type(work)]
        with self._database.reading() as db:
            row = db.execute(sa.select(table.c.owner).where(table.c.key == work.key)).first()
            return row is not None and row.owner == owner

    def owners(self) -> set[str]:
        """Return the owners of everything that is running.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._database.reading() as db:
            return {
                owner
                for table in KINDS.values()
                for owner in db.scalars(
                    sa.select(table.c.owner).where(table.c.state == WorkState.RUNNING.value)
                )
                if owner is not None
            }

    def release(self, owner: str) -> int:
        """Put back what ``owner`` was running when it was told to end: no attempt is counted.

        Returns
        -------
        int
            How much that was.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        return self._put_back(owner, attempts=-1, losses=0)

    def release_dead(self, owner: str) -> int:
        """Put back what ``owner`` was running when it died: its attempts are losses.

        Returns
        -------
        int
            How much that was.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        return self._put_back(owner, attempts=0, losses=1)

    def _put_back(self, owner: str, attempts: int, losses: int) -> int:
        with self._database.writing() as db:
            now = self._database.now(db)
            count = 0
            for table in KINDS.values():
                its = sa.and_(table.c.owner == owner, table.c.state == WorkState.RUNNING.value)
                keys = db.scalars(sa.select(table.c.key).where(its).with_for_update()).all()
                events.cut_off(db, keys, now, "lost" if losses else "given back")
                values = {
                    "state": WorkState.QUEUED.value,
                    "attempts": table.c.attempts + attempts,
                    "losses": table.c.losses + losses,
                    "due_at": now,
                    "publish_at": now,
                    "owner": None,
                    "lease_until": None,
                }
                count += db.execute(table.update().where(its).values(**values)).rowcount
            return count

    # -- how it ended; each returns False when another worker holds the work by now --------------

    def give_back(
        self, kind: type[W], key: str, owner: str, wait_s: float, error: str = ""
    ) -> bool:
        """Put work back that is not to blame for its end, due in ``wait_s``: no attempt is counted.

        Parameters
        ----------
        error
            What it waits for; empty where there is nothing to say.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        table = KINDS[kind]
        with self._database.writing() as db:
            now = self._database.now(db)
            due = now + timedelta(seconds=wait_s)
            values = {"due_at": due, "publish_at": due, "attempts": table.c.attempts - 1}
            if error:
                values["last_error"] = error
            if not settle(db, table, key, owner, WorkState.QUEUED, **values):
                return False
            how = WorkState.QUEUED.value if error else "given back"
            events.ended(db, key, owner, now, how, error)
            return True

    def postpone(self, work: AnyWork, owner: str, wait_s: float, error: str) -> bool:
        """Put a failed attempt back, due in ``wait_s``.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            return _postpone(db, work, owner, now, now + timedelta(seconds=wait_s), error)

    def postpone_until_there(
        self,
        delivery: Delivery,
        owner: str,
        wait_s: float,
        error: str,
        *,
        probe_s: tuple[float, float],
    ) -> bool:
        """Put a delivery back whose destination is away.

        From now on one delivery at a time goes there, now and then, until one arrives.

        Parameters
        ----------
        wait_s
            Until this one is due by itself.
        probe_s
            From a failure to the next probe: at first, and at most.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            due = now + timedelta(seconds=wait_s)
            if not _postpone(db, delivery, owner, now, due, error):
                return False
            circuits.away(db, delivery, now, *probe_s)
            return True

    def reject(self, delivery: Delivery, owner: str, error: str, *, tell: str = "") -> bool:
        """Put a delivery back whose destination rejects this node; nothing goes there any more.

        Parameters
        ----------
        tell
            The destination that is told of it; empty: none.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            if not _postpone(db, delivery, owner, now, now, error):
                return False
            circuits.reject(db, delivery, now, error)
            _tell(db, delivery, tell, now)
            return True

    def delivered(
        self,
        delivery: Delivery,
        owner: str,
        state: WorkState = WorkState.DONE,
        *,
        note: str = "",
        wait_s: float = 0.0,
        tell: str = "",
        reached: bool = True,
    ) -> bool:
        """End a delivery that arrived; where its destination was away, the others are due at once.

        Parameters
        ----------
        state
            ``SENT``: it is due again when a report comes, and in ``wait_s`` at the latest.
        note
            What people should know of it.
        tell
            The destination that is told of it; empty: none.
        reached
            Whether the destination was asked at all: of what need not be sent nothing is learned.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            if reached:
                circuits.arrived(db, delivery, now)
            else:
                circuits.not_asked(db, delivery.destination, now)
            values: dict[str, Any] = {"last_error": note}
            if state is WorkState.SENT:
                # A report may have come between the request and now.
                due = now + timedelta(seconds=wait_s if is_awaiting(db, delivery.key) else 0)
                values |= {"due_at": due, "publish_at": due, "publications": 0}
            if not _settle(db, delivery, owner, now, state, **values):
                return False
            _go_on(db, delivery, now)
            _tell(db, delivery, tell, now)
            return True

    def bury(self, work: Delivery | Shadow, owner: str, error: str, *, tell: str = "") -> bool:
        """Give a delivery or a shadow up; it stays visible with its reason.

        Parameters
        ----------
        tell
            The destination that is told of it; empty: none.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            if not _settle(db, work, owner, now, WorkState.DEAD, last_error=error):
                return False
            if isinstance(work, Delivery):
                _go_on(db, work, now)  # without them: the result then says what was not there
                _tell(db, work, tell, now)
            return True

    def ask_again(self, destination: str) -> bool:
        """Let deliveries go again to a destination that rejected us; return whether it did.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            return circuits.ask_again(db, destination, self._database.now(db))

    def commit_shadow(self, shadow: Shadow, owner: str, summary: Summary, destination: str) -> bool:
        """End a shadow that has looked, and send what it says to one destination.

        Parameters
        ----------
        summary
            What it says of the study; its document is where its bundle says.

        Raises
        ------
        Transient
            The journal is locked or away: nothing was written.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            said_so = said(summary)
            if not _settle(db, shadow, owner, now, WorkState.DONE, said_so, last_error=""):
                return False
            where = (shadow.study_key, shadow.revision, shadow.phase)
            key = f"{shadow.key}-{destination}"
            queue(db, DELIVERY, key, *where, now, destination=destination, shadow=summary.bundle)
            return True

    def commit(
        self,
        job: Job,
        owner: str,
        summary: Summary,
        destinations: Sequence[str],
        *,
        explain: bool = False,
        shadows: Sequence[str] = (),
        failed: str = "",
        deployment: int = 0,
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
        shadows
            Names of the routes in shadow that look at the study too.
        failed
            Why the job is given up; empty when it did its work.
        deployment
            Which version of a model a prediction is of; 0: one that has no versions.

        Returns
        -------
        bool
            False when another worker holds the job by now: nothing was written.

        Raises
        ------
        Delayed
            The version was taken back meanwhile: nothing was written.
        Transient
            The journal is locked or away: nothing was written.
        """
        end = WorkState.DEAD if failed else WorkState.DONE
        state = StudyState.FAILED if failed else StudyState.DONE
        if explain and not failed:
            state = StudyState.PREDICTED
        prediction = job.phase is Phase.PREDICTION
        values: dict[str, Any] = summary_values(summary) if prediction else {}
        if failed:
            values["reason"] = failed
        where = (job.study_key, job.revision, job.phase)
        urgent = summary.outcome in {Outcome.POSITIVE, Outcome.UNDETERMINED}
        with self._database.writing() as db:
            now = self._database.now(db)
            if deployment and deployments.is_withdrawn(db, deployment):
                raise Delayed(
                    f"{summary.bundle} {summary.bundle_version} was taken back while it looked at "
                    "this study: another version does",
                    wait_s=0,
                )
            if not _settle(db, job, owner, now, end, said(summary), last_error=failed):
                return False
            values["predicted_at" if prediction else "explained_at"] = now
            move_study(db, job.study_key, job.revision, state, **values)
            if state is StudyState.PREDICTED:
                queue_job(db, job.study_key, job.revision, Phase.EXPLANATION, now)
            for name in destinations:
                key = f"{job.key}-{name}"
                queue(db, DELIVERY, key, *where, now, destination=name, urgent=urgent)
            for n, route in enumerate(shadows, start=1):
                key = f"{job.study_key}-{job.revision}-shadow{n}"
                queue(db, SHADOW, key, *where, now, route=route)
            return True

    def retry(self, key: str, by: str = "") -> bool:
        """Queue a dead or discarded delivery again, with its attempts counted from 0.

        Parameters
        ----------
        by
            Who asks for it.

        Returns
        -------
        bool
            False when there is no such delivery of that key.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        dead = DELIVERY.update().where(DELIVERY.c.key == key, DELIVERY.c.state.in_(_GIVEN_UP))
        with self._database.writing() as db:
            now = self._database.now(db)
            again = {"attempts": 0, "losses": 0, "publications": 0, "owner": None}
            times = {"created_at": now, "due_at": now, "publish_at": now}
            statement = dead.values(state=WorkState.QUEUED.value, **again, **times)
            if not db.execute(statement).rowcount:
                return False
            begin_again(db, key)
            _asked_for(db, "retry", DELIVERY, key, by, now)
            return True

    def discard(self, key: str, reason: str, *, by: str = "", tell: str = "") -> bool:
        """Let dead work stay undone; it is no fault any more, and never counts as done.

        Parameters
        ----------
        reason
            Who says so and why; kept before what the work failed of.
        by
            Who says so.
        tell
            The destination that is told of it, where it is a delivery; empty: none.

        Returns
        -------
        bool
            False when there is no dead work of that key.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            for kind, table in KINDS.items():
                here = sa.and_(table.c.key == key, table.c.state == WorkState.DEAD.value)
                words = sa.literal(f"{reason}; it had failed: ").concat(table.c.last_error)
                values = {"state": WorkState.DISCARDED.value, "last_error": words}
                if not db.execute(table.update().where(here).values(**values)).rowcount:
                    continue
                _asked_for(db, "discard", table, key, by, self._database.now(db), reason)
                if kind is Delivery:
                    row = db.execute(sa.select(table).where(table.c.key == key)).one()
                    _tell(db, value(Delivery, row), tell, self._database.now(db))
                return True
        return False


def _asked_for(  # noqa: PLR0917 - as of _settle
    db: sa.Connection,
    kind: str,
    table: sa.Table,
    key: str,
    by: str,
    now: datetime,
    text: str = "",
) -> None:
    """Note what a person asked for."""
    row = db.execute(sa.select(table.c.study_key, table.c.revision).where(table.c.key == key)).one()
    events.happened(db, kind, (row.study_key, row.revision), key, by, now, text)


_GIVEN_UP = (WorkState.DEAD.value, WorkState.DISCARDED.value)


def _postpone(  # noqa: PLR0917 - six different types, nothing to mix up
    db: sa.Connection, work: AnyWork, owner: str, now: datetime, due: datetime, error: str
) -> bool:
    values: dict[str, Any] = {"due_at": due, "publish_at": due, "last_error": error}
    return _settle(db, work, owner, now, WorkState.QUEUED, **values)


def _settle(  # noqa: PLR0917 - as above
    db: sa.Connection,
    work: AnyWork,
    owner: str,
    now: datetime,
    new: WorkState,
    detail: dict[str, str | float | None] | None = None,
    **values: Any,
) -> bool:
    """End a claim and note how the attempt ended; return False when it is no longer claimed."""
    if not settle(db, KINDS[type(work)], work.key, owner, new, **values):
        return False
    events.ended(db, work.key, owner, now, new.value, values.get("last_error", ""), detail)
    return True


def said(summary: Summary) -> dict[str, str | float | None]:
    """Return what is kept of a result in its event, also when its files are purged."""
    return {
        "outcome": summary.outcome.value,
        "probability": summary.probability,
        "bundle": summary.bundle,
        "bundle_version": summary.bundle_version,
        "bundle_sha256": summary.bundle_sha256,
        "document_sha256": summary.document_sha256,
    }


def _tell(db: sa.Connection, delivery: Delivery, destination: str, now: datetime) -> None:
    """Have ``destination`` told how a delivery stands; it reads that when it goes."""
    if not destination:
        return
    key = f"{delivery.key}-told"
    again = {"attempts": 0, "losses": 0, "publications": 0, "owner": None, "lease_until": None}
    values = {"state": WorkState.QUEUED.value, "created_at": now, "due_at": now, "publish_at": now}
    there = DELIVERY.update().where(DELIVERY.c.key == key).values(**again, **values)
    if not db.execute(there).rowcount:
        where = (delivery.study_key, delivery.revision, delivery.phase)
        about = delivery.destination
        queue(db, DELIVERY, key, *where, now, destination=destination, about=about)


def _go_on(db: sa.Connection, delivery: Delivery, now: datetime) -> None:
    """Make the prediction that has waited for the originals; one that is there stays."""
    if not delivery.originals:
        return
    where = (delivery.study_key, delivery.revision, Phase.PREDICTION)
    there = sa.select(JOB.c.key).where(
        JOB.c.study_key == delivery.study_key,
        JOB.c.revision == delivery.revision,
        JOB.c.phase == Phase.PREDICTION.value,
    )
    if db.execute(there).first() is None:
        queue_job(db, *where, now)


def summary_values(summary: Summary) -> dict[str, Any]:
    """Return what the row of a revision keeps of a result."""
    return {
        "outcome": summary.outcome.value,
        "reason": summary.reason,
        "probability": summary.probability,
        "positive_slices": summary.positive_slices,
        "slices": summary.slices,
    }
