"""limen.journal.faults: an error of the database says what it is, and whether to try again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from limen.errors import JournalError, LimenError, OutOfSpace, Transient, Unreachable
from limen.journal import Journal
from limen.journal.tables import COMMITMENT
from tests.support.journals import receive


def execute(journal: Journal, statement: sa.Executable) -> None:
    with journal.database.writing() as db:
        db.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        sa.text("SELECT nothing FROM nowhere"),
        sa.text("this is no SQL"),
        sa.text("INSERT INTO study (study_key) VALUES (NULL)"),
    ],
)
def test_a_statement_that_is_wrong_is_not_called_a_server_that_is_away(
    journal: Journal, statement: sa.Executable
) -> None:
    with pytest.raises(JournalError, match="refuses a statement") as caught:
        execute(journal, statement)
    assert "does not answer" not in str(caught.value)


def test_a_value_that_the_database_cannot_hold_is_a_refusal(journal: Journal) -> None:
    if journal.url.startswith("sqlite"):
        pytest.skip("SQLite holds any text")
    with pytest.raises(JournalError, match="refuses a statement"):
        journal.status.studies("a\0b")


def test_a_row_that_another_process_wrote_first_may_be_tried_again(journal: Journal) -> None:
    row = COMMITMENT.insert().values(
        key="k", transaction_uid="1", peer="A", address="a", instances="[]", state="queued",
        attempts=0, created_at=journal.clock(), due_at=journal.clock(), last_error="",
    )  # fmt: skip
    execute(journal, row)
    with pytest.raises(Transient, match="another process"):
        execute(journal, row)


def test_a_mistake_in_the_use_of_the_library_is_a_fault_of_ours(journal: Journal) -> None:
    with pytest.raises(JournalError), journal.database.reading() as db:
        db.execute(sa.select(sa.bindparam("nothing")))


def test_a_reader_may_not_write_to_postgresql(journal: Journal) -> None:
    if journal.url.startswith("sqlite"):
        pytest.skip("SQLite has no such transaction")
    with pytest.raises(LimenError), journal.database.reading() as db:
        db.execute(sa.text("DELETE FROM study"))


def test_a_disk_that_is_full_is_out_of_space(sqlite_journal: Journal) -> None:
    def fill() -> None:
        with sqlite_journal.database.writing() as db:
            db.exec_driver_sql("PRAGMA max_page_count = 1")  # no more than there are now
            db.execute(sa.text("CREATE TABLE t (x)"))
            db.execute(sa.text("INSERT INTO t VALUES (randomblob(1000000))"))

    with pytest.raises(OutOfSpace, match="is full"):
        fill()


def test_a_file_that_is_no_journal_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database at all" * 100)
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    with pytest.raises(Unreachable, match="is damaged"):
        journal.migrate()
    journal.close()


def test_a_folder_in_place_of_the_journal_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    with pytest.raises(Unreachable, match="cannot be opened; check who owns"):
        journal.migrate()
    journal.close()


def test_tables_of_another_version_are_named_as_the_cause(sqlite_journal: Journal) -> None:
    receive(sqlite_journal)
    with sqlite3.connect(sqlite_journal.url.removeprefix("sqlite:///")) as db:
        db.execute("ALTER TABLE job DROP COLUMN publications")
    with pytest.raises(JournalError, match="another version"):
        sqlite_journal.publishing.due()
