"""Requests for storage commitment, kept until they are answered."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import sqlalchemy as sa

from limen.instance import NewCommitment
from limen.journal.database import Database
from limen.journal.rows import Commitment, CommitmentRow
from limen.journal.tables import COMMITMENT
from limen.journal.transitions import claim, is_free, renew, settle
from limen.states import WorkState

__all__ = ["Commitments"]


class Commitments:
    """The requests of every peer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, asked: NewCommitment) -> str:
        """Keep a request until it is answered; return its key.

        The same transaction of the same peer again is answered again, for what it lists now.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        key = hashlib.sha256(f"{asked.peer}\0{asked.transaction_uid}".encode()).hexdigest()
        values = {
            "transaction_uid": asked.transaction_uid,
            "peer": asked.peer,
            "address": asked.address,
            "instances": json.dumps(asked.instances),
            "state": WorkState.QUEUED.value,
            "attempts": 0,
            "lease_until": None,
            "owner": None,
            "last_error": "",
        }
        with self._database.writing() as db:
            now = self._database.now(db)
            db.execute(COMMITMENT.delete().where(COMMITMENT.c.key == key))
            db.execute(COMMITMENT.insert().values(key=key, created_at=now, due_at=now, **values))
        return key

    def claim(self, owner: str, lease_s: float) -> Commitment | None:
        """Take the longest due request for ``owner``, or return None. Counts an attempt.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        query = sa.select(COMMITMENT.c.key).order_by(COMMITMENT.c.due_at).limit(1)
        with self._database.writing() as db:
            now = self._database.now(db)
            free = query.where(is_free(COMMITMENT, now)).with_for_update(skip_locked=True)
            key = db.scalar(free)
            row = None if key is None else claim(db, COMMITMENT, key, owner, now, lease_s)
        if row is None:
            return None
        pairs = tuple((c, i) for c, i in json.loads(row.instances))
        asked = NewCommitment(row.transaction_uid, row.peer, row.address, pairs)
        return Commitment(row.key, asked, row.attempts, row.created_at)

    def renew(self, key: str, owner: str, lease_s: float) -> None:
        """Extend the lease of ``owner`` on a request that it is answering.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            renew(db, COMMITMENT, [key], owner, self._database.now(db), lease_s)

    def settle(
        self, key: str, owner: str, state: WorkState, error: str = "", wait_s: float = 0.0
    ) -> bool:
        """Say what became of a claimed request; ``wait_s`` until it is due again, if queued.

        Returns
        -------
        bool
            False when it is no longer claimed by ``owner``: it was asked again meanwhile.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._database.writing() as db:
            due = self._database.now(db) + timedelta(seconds=wait_s)
            return settle(db, COMMITMENT, key, owner, state, last_error=error, due_at=due)

    def all(self) -> list[CommitmentRow]:
        """Return every request, oldest first.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        columns = [COMMITMENT.c[name] for name in CommitmentRow.__slots__]
        with self._database.reading() as db:
            found = db.execute(sa.select(*columns).order_by(COMMITMENT.c.created_at))
            return [CommitmentRow(*row) for row in found]
