"""worker.process: how a worker starts, or says why it does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from limen.errors import LimenError
from limen.journal import Job, Journal
from tests.support.journals import PREDICTION, receive
from tests.support.samples import settings
from worker.process import _give_back, run
from worker.work.lease import Presence


def test_a_metrics_port_in_use_is_told_by_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = settings(tmp_path, metrics={"worker_port": taken.getsockname()[1]})
        with pytest.raises(LimenError, match="metrics.worker_port"):
            run(config)


def test_who_ends_gives_back_what_it_held_and_is_gone(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    journal.migrate()
    receive(journal)
    presence = Presence(tmp_path / "workers")
    journal.work.claim(Job, PREDICTION, presence.owner, 30)
    assert _give_back(journal, presence) == 1
    (job,) = journal.publishing.due()
    assert (job.attempts, job.losses) == (0, 0)
    assert [p for p in (tmp_path / "workers").rglob("*") if p.is_file()] == []
    journal.close()


def test_who_ends_while_the_journal_is_away_ends_all_the_same(tmp_path: Path) -> None:
    journal = Journal("postgresql+psycopg://limen@127.0.0.1:1/limen")
    presence = Presence(tmp_path / "workers")
    with capture_logs() as logs:
        assert _give_back(journal, presence) == 0
    assert [x["event"] for x in logs] == ["worker.gave_nothing_back"]
    presence.leave()
    journal.close()
