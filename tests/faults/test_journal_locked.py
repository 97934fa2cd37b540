"""I1, I2: a journal of SQLite that is locked, or damaged, while instances come."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from limen.command.send import Peer, send
from limen.errors import LostJournal
from limen.journal import Journal
from limen.uids import key_of
from scp import arrivals
from scp.server import Receiver
from tests.support.journals import paths
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set, settings, write_file
from worker.tools.repair import repair

ROWS = 8
"""How many instances may wait for their rows here, in place of 2,000."""


@pytest.mark.timeout(120)
def test_a_locked_journal_takes_what_it_has_room_for_and_then_refuses_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_LIMIT", ROWS)
    monkeypatch.setattr(arrivals, "_ROOM_S", 0.1)
    config = settings(tmp_path, scp={"release_quiet_s": 30.0})
    files = [tmp_path / f"{number}.dcm" for number in range(3 * ROWS)]
    for number, path in enumerate(files, 1):
        write_file(path, data_set(number))
    receiver = Receiver(config)
    peer = Peer(config.scp.ae_title, "127.0.0.1", receiver.start())
    try:
        with closing(sqlite3.connect(config.data_dir / "journal.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            report = send(files, peer, "TESTSCU")
            assert ROWS <= report.sent < len(files)
            assert set(report.failed.values()) == {"0xA700"}
            assert paths(receiver.journal) == set(), "who reads waits for no writer"
            db.execute("ROLLBACK")
        told = [path for path in files if path not in report.failed]
        kept = {f"{key_of(STUDY_UID)}/{key_of(_uid(files.index(path) + 1))}.dcm" for path in told}
        until(lambda: kept <= paths(receiver.journal), 30, "every Success to have its row")
        assert send([*report.failed], peer, "TESTSCU").sent == len(report.failed)
        until(lambda: len(paths(receiver.journal)) == len(files), 30, "all to have rows")
        assert [row.revision for row in receiver.journal.status.studies()] == [1]
    finally:
        receiver.stop()


@pytest.mark.timeout(120)
def test_what_was_told_success_while_the_journal_was_damaged_is_in_the_one_that_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_LIMIT", ROWS)
    monkeypatch.setattr(arrivals, "_ROOM_S", 0.1)
    config = settings(tmp_path, scp={"release_quiet_s": 30.0})
    file = config.data_dir / "journal.db"
    files = [tmp_path / f"{number}.dcm" for number in range(3 * ROWS)]
    for number, path in enumerate(files, 1):
        write_file(path, data_set(number))
    receiver = Receiver(config)
    peer = Peer(config.scp.ae_title, "127.0.0.1", receiver.start())
    try:
        assert send(files[:2], peer, "TESTSCU").sent == 2
        until(lambda: len(paths(receiver.journal)) == 2, 30, "rows while all is well")
        with closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.write_bytes(bytes(file.stat().st_size))
        receiver.journal.close()  # what this process has read of it before
        report = send(files, peer, "TESTSCU")
        assert set(report.failed.values()) <= {"0xA700"}
    finally:
        receiver.stop()
    refused = Receiver(config)
    with pytest.raises(LostJournal, match="limen doctor --repair"):
        refused.start()
    refused.stop()
    done = repair(config, lambda _done, _total: None)
    assert Path(done.kept_as).is_file()
    told = [path for path in files if path not in report.failed]
    journal = Journal(config.journal_url)
    kept = {f"{key_of(STUDY_UID)}/{key_of(_uid(files.index(path) + 1))}.dcm" for path in told}
    assert kept <= paths(journal)
    assert len(paths(journal)) == len(list(config.spool_dir.glob("*/*.dcm")))
    journal.close()


def _uid(number: int) -> str:
    return f"{STUDY_UID}.1.{number}"
