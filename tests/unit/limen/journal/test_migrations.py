"""limen.journal.migrations: what an upgrade does with the rows that it finds."""

from __future__ import annotations

from importlib import import_module

from alembic.migration import MigrationContext
from alembic.operations import Operations

from limen.journal import Delivery, Job, Journal
from limen.uids import key_of
from tests.support.samples import STUDY_UID, SUMMARY, new_instance

KEY = key_of(STUDY_UID)


def migrate_again(journal: Journal, name: str) -> None:
    """Run one migration, of rows and not of tables, on a journal that has new rows meanwhile."""
    with journal.database.engine.begin() as db, Operations.context(MigrationContext.configure(db)):
        import_module(f"limen.journal.migrations.versions.{name}").upgrade()


def test_deliveries_to_the_archive_by_its_old_name_still_arrive(journal: Journal) -> None:
    journal.receiving.record([new_instance()])
    journal.receiving.complete(KEY, 1)
    job = journal.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    journal.work.commit(job, "a", SUMMARY, ("django", "gcs"))
    for work in journal.publishing.due():
        journal.publishing.sending(work, 60)
    migrate_again(journal, "0003_archive")
    (due,) = journal.publishing.due()  # its message named the old key: it needs another
    assert due.key == f"{KEY}-1-prediction-archive"
    assert journal.publishing.waiting("archive") == [due]
    delivery = journal.work.claim(Delivery, due.key, "a", 30)
    assert journal.work.delivered(delivery, "a")
    assert [(d.key, d.destination, d.state) for d in journal.status.study(KEY, 1).deliveries] == [
        (f"{KEY}-1-prediction-archive", "archive", "done"),
        (f"{KEY}-1-prediction-django", "django", "queued"),
    ]
