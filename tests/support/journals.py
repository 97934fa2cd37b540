"""A journal brought to where a test begins."""

from __future__ import annotations

import sqlalchemy as sa

from limen.journal import Job, Journal
from limen.journal.tables import INSTANCE
from limen.uids import key_of
from tests.support.samples import STUDY_UID, SUMMARY, new_instance

KEY = key_of(STUDY_UID)
PREDICTION, EXPLANATION = f"{KEY}-1-prediction", f"{KEY}-1-explanation"
BOTH = ("django", "archive")


def receive(journal: Journal, study_uid: str = STUDY_UID, instances: int = 3) -> str:
    """Record a study and complete it; return its key."""
    journal.receiving.record([new_instance(n, study_uid) for n in range(1, instances + 1)])
    assert journal.receiving.complete(key_of(study_uid), 1)
    return key_of(study_uid)


def claimed(
    journal: Journal, key: str = PREDICTION, owner: str = "a", lease_s: float = 30.0
) -> Job:
    """Claim a job that is there to be had."""
    job = journal.work.claim(Job, key, owner, lease_s)
    assert job is not None
    return job


def predicted(journal: Journal, *, explain: bool = False) -> None:
    """Bring the study of ``receive`` past its prediction."""
    receive(journal)
    assert journal.work.commit(claimed(journal), "a", SUMMARY, BOTH, explain=explain)


def paths(journal: Journal) -> set[str]:
    """Return the spool paths of every instance that has a row."""
    with journal.database.reading() as db:
        return set(db.scalars(sa.select(INSTANCE.c.path)))


def state_of(journal: Journal, key: str) -> str:
    """Return the state of a job or delivery."""
    for row in journal.status.studies():
        for work in (*row.jobs, *row.shadows, *row.deliveries):
            if work.key == key:
                return work.state
    raise AssertionError(f"no work {key}")
