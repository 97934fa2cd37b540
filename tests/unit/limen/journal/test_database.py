"""limen.journal.database: engine, transactions, version; on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from limen.errors import NewerJournal, Unreachable
from limen.journal import Journal, sqlite
from limen.journal.tables import METADATA, VERSION
from tests.support.journals import (
    KEY,
    receive,
)
from tests.support.samples import START, new_instance


def test_migrating_again_changes_nothing(journal: Journal) -> None:
    receive(journal)
    journal.migrate()
    journal.migrate()
    assert len(journal.status.studies()) == 1


def test_a_journal_of_a_newer_version_is_left_alone_and_says_the_next_step(
    journal: Journal,
) -> None:
    with journal.database.writing() as db:
        before = db.scalar(sa.select(VERSION.c.version_num))
        db.execute(sa.update(VERSION).values(version_num="0999"))
    try:
        for look in (journal.migrate, journal.is_current):
            with pytest.raises(NewerJournal, match=r"newer Limen \(.*0999.*\); install") as told:
                look()
            assert told.value.exit_code == 2
    finally:
        with journal.database.writing() as db:
            db.execute(sa.update(VERSION).values(version_num=before))


def test_the_migrations_make_the_tables_that_the_code_uses(journal: Journal) -> None:
    with journal.database.engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        found = compare_metadata(context, METADATA)
    assert found == []


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/journal.db"
    faults: Counter[str] = Counter()

    def start() -> None:
        journal = Journal(url)
        try:
            journal.migrate()
            journal.status.studies()
        except Exception as exc:
            faults[repr(exc)] += 1
        finally:
            journal.close()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_sqlite_keeps_a_commit_through_a_power_cut(sqlite_journal: Journal) -> None:
    with sqlite_journal.database.engine.connect() as db:
        assert db.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert db.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL


def test_a_locked_file_is_unreachable_for_now(
    sqlite_journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.1)
    path = sqlite_journal.url.removeprefix("sqlite:///")
    impatient = Journal(sqlite_journal.url)
    other = sqlite3.connect(path)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="locked"):
            impatient.receiving.record([new_instance()])
        other.rollback()
        assert impatient.receiving.record([new_instance()])[0].new
    finally:
        other.close()
        impatient.close()


def test_a_server_that_is_away_is_unreachable_and_its_password_stays_ours() -> None:
    journal = Journal("postgresql+psycopg://limen:hunter2@127.0.0.1:1/limen")
    with pytest.raises(Unreachable) as caught:
        journal.status.studies()
    journal.close()
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


def test_times_are_read_back_in_utc(journal: Journal) -> None:
    journal.receiving.record([new_instance()])
    assert journal.status.study(KEY, 1).received_at == START
    assert journal.receiving.instances(KEY, 1)[0].received_at.tzinfo is not None
