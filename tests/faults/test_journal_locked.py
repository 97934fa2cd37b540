"""I1, I2: while another program holds the journal of SQLite, nobody is told what is not so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from limen.command.send import Peer, send
from limen.uids import key_of
from scp import arrivals
from scp.server import Receiver
from tests.support.journals import paths
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set, settings, write_file

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


def _uid(number: int) -> str:
    return f"{STUDY_UID}.1.{number}"
