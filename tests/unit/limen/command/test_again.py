"""limen.command.again: what is dead or wanted again is done again."""

from __future__ import annotations

import io
from datetime import datetime

import pytest

from limen.journal import Delivery, Job, Journal, Summary
from limen.result import Outcome
from limen.uids import key_of
from tests.support.command import run
from tests.support.journals import KEY, receive
from tests.support.samples import START, STUDY_UID, SUMMARY, Clock, new_instance

pytestmark = pytest.mark.usefixtures("quiet")
Captured = pytest.CaptureFixture[str]


def test_a_dead_delivery_is_queued_again(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    kept.work.commit(
        kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30), "a", SUMMARY, ["archive"]
    )
    key = f"{KEY}-1-prediction-archive"
    kept.work.bury(kept.work.claim(Delivery, key, "a", 30), "a", "answered 409")
    assert run("retry", key) == 0
    assert "queued again" in capsys.readouterr().out
    assert kept.status.study(KEY, 1).deliveries[0].state == "queued"


def kill_job(journal: Journal) -> str:
    key = f"{KEY}-1-prediction"
    summary = Summary(Outcome.NOT_ANALYSED, "x", None, None, None)
    journal.work.commit(journal.work.claim(Job, key, "a", 30), "a", summary, [], failed="x")
    return key


def test_a_dead_job_runs_again_as_a_new_revision(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert run("retry", kill_job(kept)) == 0
    assert "runs again as revision 2" in capsys.readouterr().out


def test_a_dead_job_is_found_however_many_studies_came_since(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    receive(kept)
    key = kill_job(kept)
    clock.forward(60)
    kept.receiving.record([new_instance(1, f"1.2.{n}", at=clock.now) for n in range(101)])
    assert run("retry", key) == 0
    assert "revision 2" in capsys.readouterr().out


def test_what_is_not_dead_is_not_retried(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    for key in (f"{KEY}-1-prediction", "nothing", KEY):
        assert run("retry", key) == 1
        assert "is not a dead job or delivery" in capsys.readouterr().err


def test_a_study_is_replayed_as_a_new_revision(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert run("replay", STUDY_UID) == 0
    assert "revision 2" in capsys.readouterr().out


def test_a_study_that_is_still_arriving_is_not_replayed(kept: Journal, capsys: Captured) -> None:
    kept.receiving.record([new_instance()])
    assert run("replay", KEY) == 1
    assert "still being received" in capsys.readouterr().err


def test_a_beginning_of_several_keys_is_not_replayed(kept: Journal, capsys: Captured) -> None:
    uids = {key_of(f"1.2.{n}")[0]: f"1.2.{n}" for n in range(60)}
    shared = next(key_of(f"1.3.{n}") for n in range(60) if key_of(f"1.3.{n}")[0] in uids)
    other = next(f"1.3.{n}" for n in range(60) if key_of(f"1.3.{n}") == shared)
    receive(kept, uids[shared[0]])
    receive(kept, other)
    assert run("replay", shared[0]) == 1
    assert "matches 2 studies" in capsys.readouterr().err
    assert run("replay", "nothing") == 1


def test_a_pacs_that_rejects_this_node_is_asked_again(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    kept.work.commit(
        kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30), "a", SUMMARY, ["main-pacs"]
    )
    key = f"{KEY}-1-prediction-main-pacs"
    kept.work.reject(kept.work.claim(Delivery, key, "a", 30), "a", "rejected LIMEN")
    assert run("retry", "main-pacs") == 0
    assert "main-pacs is asked again" in capsys.readouterr().out
    assert kept.work.claim(Delivery, key, "a", 30) is not None
    assert run("retry", "main-pacs") == 1


def bury(journal: Journal, n: int, destination: str = "archive", at: datetime = START) -> str:
    """Predict a study whose delivery to one destination dies; return its key."""
    journal.receiving.record([new_instance(1, f"1.2.{n}", at=at)])
    assert journal.receiving.complete(key_of(f"1.2.{n}"), 1)
    job = f"{key_of(f'1.2.{n}')}-1-prediction"
    journal.work.commit(journal.work.claim(Job, job, "a", 30), "a", SUMMARY, [destination])
    key = f"{job}-{destination}"
    journal.work.bury(journal.work.claim(Delivery, key, "a", 30), "a", "answered 409")
    return key


def states(journal: Journal) -> dict[str, str]:
    return {d.key: d.state for row in journal.status.studies() for d in row.deliveries}


def test_everything_that_is_dead_is_tried_again_at_once(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    keys = [bury(kept, n) for n in range(3)]
    receive(kept)
    kill_job(kept)
    assert run("retry", "--all", "--yes") == 0
    assert capsys.readouterr().out == "3 deliveries are queued again, 1 studies run again\n"
    assert [states(kept)[key] for key in keys] == ["queued"] * 3
    assert kept.status.study(KEY, 2).state == "complete"
    assert run("retry", "--all", "--yes") == 0
    assert capsys.readouterr().out == "nothing is dead\n"


def test_what_is_tried_again_can_be_chosen(kept: Journal, clock: Clock) -> None:
    old, other = bury(kept, 1), bury(kept, 2, "django")
    clock.forward(7200)
    new = bury(kept, 3, at=clock.now)
    assert run("retry", "--all", "--yes", "--destination", "archive", "--since", "1h") == 0
    assert [states(kept)[key] for key in (old, other, new)] == ["dead", "dead", "queued"]


def test_nothing_is_tried_again_when_nobody_is_asked(
    kept: Journal, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    key = bury(kept, 1)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run("retry", "--all") == 2
    assert "try 1 of archive again? Nobody is there to answer: say --yes" in capsys.readouterr().err
    assert states(kept)[key] == "dead"


@pytest.mark.parametrize(("answer", "state", "code"), [("y", "queued", 0), ("", "dead", 1)])
def test_whoever_sits_there_is_asked(
    answer: str, state: str, code: int, kept: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bury(kept, 1)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert run("retry", "--all") == code
    assert states(kept)[key] == state


def test_what_is_discarded_is_no_fault_and_never_done(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    key = bury(kept, 1)
    assert run("discard", key, "--reason", "the study was\n sent by hand") == 0
    (row,) = kept.status.studies()
    (delivery,) = row.deliveries
    assert delivery.state == "discarded"
    assert delivery.last_error.startswith("discarded by ")
    assert delivery.last_error.endswith(": the study was sent by hand; it had failed: answered 409")
    assert kept.status.queues() == {}
    capsys.readouterr()
    assert run("status", row.study_key, "--json") == 0
    assert run("status", "--dead", "--json") == 1  # no worker, but nothing dead
    assert "No study is like that" not in capsys.readouterr().err
    clock.forward(40 * 86400)
    assert [one.study_key for one in kept.retention.oldest(clock.now)] == [row.study_key]
    assert run("retry", key) == 0
    assert states(kept)[key] == "queued"


def test_a_dead_job_is_discarded_too_and_its_study_stays_failed(kept: Journal) -> None:
    receive(kept)
    assert run("discard", kill_job(kept), "--reason", "a phantom") == 0
    (row,) = kept.status.studies()
    assert (row.state, row.jobs[0].state) == ("failed", "discarded")


def test_what_is_not_dead_is_not_discarded(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert run("discard", f"{KEY}-1-prediction", "--reason", "x") == 1
    assert "is no dead work; see `limen status --dead`" in capsys.readouterr().err
    assert run("discard", f"{KEY}-1-prediction", "--reason", "  ") == 2


def test_a_pacs_delivery_that_is_discarded_is_told_to_the_page(
    kept: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "LIMEN_DESTINATION__PACS", '[{"name": "main", "ae_title": "PACS", "host": "127.0.0.1"}]'
    )
    key = bury(kept, 1, "main")
    assert run("discard", key, "--reason", "x") == 0
    assert [w.key for w in kept.publishing.waiting("django")] == [f"{key}-told"]
