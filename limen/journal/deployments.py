"""Deployments: which version of a model looks at which studies, for every worker on every host.

What is asked for here is loaded by the workers beside what serves, and tried. When the last of
those that live has said that it is ready, the same transaction lets it serve, everywhere at once;
when one of them says that it is not, it never does. A worker asks here before each prediction, so
that none misses a change. A version is bound to the digest of its bundle for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from limen.errors import Permanent
from limen.journal.database import Database
from limen.journal.rows import EVERY_STUDY, Deployed, Deployment, Holding
from limen.journal.tables import DEPLOYMENT, HOLDING, WORKER
from limen.states import DeploymentState, HoldingState

__all__ = ["Deployments", "chosen", "forget", "is_withdrawn"]

_OPEN = (DeploymentState.ASKED.value, DeploymentState.SERVING.value)
_DIGITS = 8


def chosen(serving: Sequence[Deployment], study_key: str) -> Deployment | None:
    """Return which of the versions that serve a model looks at a study; None: none serves.

    By the key of the study, the hash of its UID: the same on every worker, and for every revision.
    """
    bucket = int(study_key[:_DIGITS], 16) % EVERY_STUDY
    canary = next((one for one in serving if one.is_canary and bucket < one.percent), None)
    return canary or next((one for one in serving if not one.is_canary), None)


class Deployments:
    """What was asked for, and how far the workers are with it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- questions ---------------------------------------------------------------------------

    def serving(self, name: str) -> list[Deployment]:
        """Return what serves a model: one for all studies, and at most one for a part of them.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        return [d for d in self.open(name) if d.state is DeploymentState.SERVING]

    def open(self, name: str = "") -> list[Deployment]:
        """Return what serves or is asked for, of one model or of all.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(DEPLOYMENT).where(DEPLOYMENT.c.state.in_(_OPEN))
        if name:
            query = query.where(DEPLOYMENT.c.name == name)
        with self._database.reading() as db:
            return _values(db, query)

    def all(self, name: str = "") -> list[Deployment]:
        """Return all that was ever asked for, the newest first.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(DEPLOYMENT)
        if name:
            query = query.where(DEPLOYMENT.c.name == name)
        with self._database.reading() as db:
            return _values(db, query)

    def standing(self) -> Deployed:
        """Return how it stands now.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        later = DEPLOYMENT.alias()
        since = sa.exists().where(later.c.name == DEPLOYMENT.c.name, later.c.id > DEPLOYMENT.c.id)
        refused = DEPLOYMENT.c.state == DeploymentState.REFUSED.value
        shown = sa.or_(DEPLOYMENT.c.state.in_(_OPEN), sa.and_(refused, ~since))
        with self._database.reading() as db:
            now = self._database.now(db)
            alive = _said().where(WORKER.c.expected_at >= now)
            rows = db.execute(alive.order_by(HOLDING.c.worker))
            holdings = tuple(
                Holding(r.worker, r.name, r.deployment, HoldingState(r.state), r.text, r.host)
                for r in rows
            )
            found = _values(db, sa.select(DEPLOYMENT).where(shown))
        return Deployed(now, tuple(found), holdings)

    # -- what people ask for -----------------------------------------------------------------

    def ask(self, name: str, version: str, digest: str, percent: int, who: str) -> Deployment:
        """Ask for a version; what was asked for before and does not serve yet is given up.

        Raises
        ------
        Permanent
            It serves so already, was deployed with other files before, or is to look at a part of
            the studies while nothing looks at the rest.
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            known = _of(db, name)
            _refuse(known, name, version, digest, percent)
            for one in known:
                if one.state is DeploymentState.ASKED:
                    note = f"{version} was asked for before it served"
                    _end(db, one, DeploymentState.REPLACED, now, note=note)
            values = {"name": name, "version": version, "digest": digest, "percent": percent}
            made = db.execute(
                DEPLOYMENT.insert().values(
                    **values, state=DeploymentState.ASKED.value, asked_by=who, asked_at=now
                )
            )
            (number,) = made.inserted_primary_key or (0,)
            return next(one for one in _of(db, name) if one.id == number)

    def take_back(self, name: str, who: str, why: str = "") -> tuple[Deployment, Deployment | None]:
        """Withdraw the version that was asked for last; what served before serves again, at once.

        Nothing that it says is committed any more when this returns, also of studies that it is
        looking at.

        Returns
        -------
        tuple
            What was withdrawn, and what serves all studies now.

        Raises
        ------
        Permanent
            Nothing of that name is deployed, or nothing served before.
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            known = _of(db, name)
            current = [one for one in known if one.state.value in _OPEN]
            if known and known[0].state is DeploymentState.REFUSED:
                current.append(known[0])
            if not current:
                raise Permanent(f"no version of {name} is deployed; see `limen model list`")
            last = min(current, key=_how_settled)
            gone = [one for one in current if one.version == last.version]
            stable = next((one for one in current if one not in gone and _is_stable(one)), None)
            before = _before(known, last.version) if stable is None else None
            serves_all = any(_is_stable(one) for one in gone)
            if serves_all and before is None:
                raise Permanent(
                    f"{name} {last.version} is the first that serves: there is nothing to go back "
                    "to; deploy another version, or take its route out of the settings"
                )
            for one in gone:
                _end(db, one, DeploymentState.WITHDRAWN, now, by=who, note=why)
            if before is not None and serves_all:
                db.execute(
                    DEPLOYMENT.insert().values(
                        name=name,
                        version=before.version,
                        digest=before.digest,
                        percent=EVERY_STUDY,
                        state=DeploymentState.SERVING.value,
                        asked_by=who,
                        asked_at=now,
                        served_at=now,
                        note=f"in place of {last.version}",
                    )
                )
            now_serving = [one for one in _of(db, name) if one.state is DeploymentState.SERVING]
            return last, next((one for one in now_serving if not one.is_canary), None)

    # -- what workers say --------------------------------------------------------------------

    def report(self, worker: str, holdings: Sequence[Holding]) -> None:
        """Note how far a worker is, in place of what it said before; decide what waits for it.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            now = self._database.now(db)
            said = {
                (row.name, row.deployment, row.state, row.text): row.since
                for row in db.execute(sa.select(HOLDING).where(HOLDING.c.worker == worker))
            }
            forget(db, worker)
            for one in holdings:
                key = (one.name, one.deployment, one.state.value, one.text)
                values = dict(zip(("name", "deployment", "state", "text"), key, strict=True))
                since = said.get(key, now)
                db.execute(HOLDING.insert().values(worker=worker, since=since, **values))
            for name in sorted({one.name for one in holdings}):
                _decide(db, name, now)

    def decide(self, name: str) -> None:
        """Let serve, or refuse, what is asked for, where all workers that live have said enough.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            _decide(db, name, self._database.now(db))

    def died(self, worker: str) -> None:
        """Refuse what a worker was loading when it died: it would take the next one with it.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        loading = sa.and_(HOLDING.c.worker == worker, HOLDING.c.state == HoldingState.LOADING.value)
        with self._database.writing() as db:
            now = self._database.now(db)
            tried = list(db.scalars(sa.select(HOLDING.c.deployment).where(loading)))
            for one in _values(db, sa.select(DEPLOYMENT).where(DEPLOYMENT.c.id.in_(tried))):
                if one.state is DeploymentState.ASKED:
                    note = f"worker {worker[:8]} died while it loaded it"
                    _end(db, one, DeploymentState.REFUSED, now, note=note)


def is_withdrawn(db: sa.Connection, deployment: int) -> bool:
    """Return whether a version was taken back; until this transaction ends nobody does."""
    state = sa.select(DEPLOYMENT.c.state).where(DEPLOYMENT.c.id == deployment)
    found = db.scalar(state.with_for_update(read=True))
    return bool(found == DeploymentState.WITHDRAWN.value)


def forget(db: sa.Connection, worker: str) -> None:
    """Forget how far a worker is: it has ended, or says it anew."""
    db.execute(HOLDING.delete().where(HOLDING.c.worker == worker))


def _decide(db: sa.Connection, name: str, now: datetime) -> None:
    is_asked = DEPLOYMENT.c.state == DeploymentState.ASKED.value
    if not db.scalar(sa.select(DEPLOYMENT.c.id).where(DEPLOYMENT.c.name == name, is_asked)):
        return
    known = _of(db, name)  # and waits for another worker that says that it is ready right now
    asked = next((one for one in known if one.state is DeploymentState.ASKED), None)
    if asked is None:
        return
    every = db.execute(_said().where(HOLDING.c.name == name)).all()
    rows = [row for row in every if row.expected_at >= now]
    workers = {row.worker for row in rows}
    about = [row for row in rows if row.deployment == asked.id]
    if note := _against([row for row in every if row.deployment == asked.id], now):
        _end(db, asked, DeploymentState.REFUSED, now, note=note)
        return
    ready = {row.worker for row in about if row.state == HoldingState.READY.value}
    if not workers or ready != workers:
        return
    for one in known:
        if one.state is DeploymentState.SERVING and (one.is_canary or not asked.is_canary):
            _end(db, one, DeploymentState.REPLACED, now)
    values = {"state": DeploymentState.SERVING.value, "served_at": now}
    still = sa.and_(DEPLOYMENT.c.id == asked.id, DEPLOYMENT.c.state == DeploymentState.ASKED.value)
    db.execute(DEPLOYMENT.update().where(still).values(**values))


def _against(rows: Iterable[sa.Row[Any]], now: datetime) -> str:
    """Return what speaks against a version, in words; "" where nothing does."""
    for row in rows:
        who, late = f"worker {row.worker[:8]} on {row.host}", row.expected_at < now
        if row.state == HoldingState.FAILED.value and not late:
            return f"{who}: {row.text}"
        if row.state == HoldingState.LOADING.value and late:
            return f"{who} has given no sign of life since it began to load it"
    return ""


def _refuse(
    known: Sequence[Deployment], name: str, version: str, digest: str, percent: int
) -> None:
    other = next((one for one in known if one.version == version and one.digest != digest), None)
    if other is not None:
        raise Permanent(
            f"{name} {version} was deployed on {other.asked_at:%Y-%m-%d} with other files (digest "
            f"{other.digest[:12]}, these have {digest[:12]}); put those back, or give these a "
            "version of their own"
        )
    serving = [one for one in known if one.state is DeploymentState.SERVING]
    stable = next((one for one in serving if not one.is_canary), None)
    if any(one.version == version and one.percent == percent for one in serving):
        raise Permanent(f"{name} {version} serves that already; see `limen model list`")
    if stable is None and percent < EVERY_STUDY:
        raise Permanent(
            f"no version of {name} serves yet, and all studies need one: leave out --percent"
        )
    if stable is not None and stable.version == version:
        raise Permanent(
            f"{name} {version} serves already; `limen model rollback {name}` ends what serves "
            "beside it"
        )


def _is_stable(one: Deployment) -> bool:
    return one.state is DeploymentState.SERVING and not one.is_canary


def _how_settled(one: Deployment) -> int:
    """What does not serve goes first, then what serves a part, then what serves all."""
    return 0 if one.state is not DeploymentState.SERVING else 1 if one.is_canary else 2


def _before(known: Sequence[Deployment], version: str) -> Deployment | None:
    """Return what served all studies before a version and was not taken back since."""
    withdrawn = {version}
    for one in known:  # the newest first
        if one.state is DeploymentState.WITHDRAWN:
            withdrawn.add(one.version)
        served = one.served_at is not None and not one.is_canary
        if served and one.state is DeploymentState.REPLACED and one.version not in withdrawn:
            return one
    return None


def _end(
    db: sa.Connection,
    one: Deployment,
    state: DeploymentState,
    now: datetime,
    *,
    by: str = "",
    note: str = "",
) -> None:
    values = {"state": state.value, "ended_at": now, "ended_by": by, "note": note or one.note}
    still = sa.and_(DEPLOYMENT.c.id == one.id, DEPLOYMENT.c.state == one.state.value)
    db.execute(DEPLOYMENT.update().where(still).values(**values))


def _of(db: sa.Connection, name: str) -> list[Deployment]:
    """Return all of a model, the newest first; nobody else changes them before the end."""
    return _values(db, sa.select(DEPLOYMENT).where(DEPLOYMENT.c.name == name).with_for_update())


def _values(db: sa.Connection, query: sa.Select[Any]) -> list[Deployment]:
    rows = db.execute(query.order_by(DEPLOYMENT.c.id.desc())).all()
    names = [field.name for field in fields(Deployment)]
    return [
        Deployment(**{n: getattr(row, n) for n in names} | {"state": DeploymentState(row.state)})
        for row in rows
    ]


def _said() -> sa.Select[Any]:
    """Select what workers said, with when their next sign of life is due."""
    query = sa.select(HOLDING, WORKER.c.host, WORKER.c.expected_at)
    return query.join(WORKER, WORKER.c.id == HOLDING.c.worker)
