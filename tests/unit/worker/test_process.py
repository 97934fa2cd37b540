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
from worker.__main__ import main
from worker.process import _give_back, _queues, _with_models_it_needs, run
from worker.work.lease import Presence


def test_a_metrics_port_in_use_is_told_by_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = settings(tmp_path, metrics={"worker_port": taken.getsockname()[1]})
        with pytest.raises(LimenError, match="metrics.worker_port"):
            run(config)


def test_a_worker_asks_for_messages_of_its_lanes_alone(tmp_path: Path) -> None:
    all_of_them = ["limen.predict", "limen.explain", "limen.deliver"]
    assert _queues(settings(tmp_path)) == all_of_them
    assert _queues(settings(tmp_path, worker={"lanes": ["explain"]})) == ["limen.explain"]


def test_a_worker_that_only_delivers_loads_no_model(tmp_path: Path) -> None:
    def routes(*lanes: str) -> int:
        return len(_with_models_it_needs(settings(tmp_path, worker={"lanes": lanes})).route)

    assert (routes("deliver"), routes("deliver", "explain"), routes("predict")) == (0, 1, 1)


@pytest.mark.parametrize("words", ["", "predict,deliveries"])
def test_a_lane_that_there_is_not_is_told_with_those_that_there_are(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--lanes", words])
    assert ended.value.code == 2
    assert "is no lane; take some of predict,explain,deliver" in capsys.readouterr().err


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
