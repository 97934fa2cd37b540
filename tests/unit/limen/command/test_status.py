"""limen.command.status: JSON, and what people read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from limen.instance import NewCommitment
from limen.journal import Delivery, Holding, Job, Journal, SentObject, Summary, WorkerSign
from limen.result import Outcome
from limen.states import HoldingState, ObjectState, WorkState
from tests.support.command import run
from tests.support.journals import KEY, predicted, receive
from tests.support.samples import STUDY_UID, SUMMARY, Clock, new_instance

pytestmark = pytest.mark.usefixtures("quiet")
Captured = pytest.CaptureFixture[str]


ONE = WorkerSign("abcdef01" * 4, "host-a", "0.1.0", ("prediction", "explanation", "archive"))


@pytest.fixture
def working(kept: Journal) -> None:
    """A worker that has just given a sign of life."""
    kept.workers.seen(ONE, 30)


def faults(capsys: Captured, *words: str) -> list[str]:
    """Return what is not well, and check that the exit code says the same."""
    code = run("status", "--json", *words)
    tree = json.loads(capsys.readouterr().out)
    assert code == (1 if tree["faults"] else 0)
    assert tree["well"] is not bool(tree["faults"])
    return list(tree["faults"])


def test_status_without_a_journal_says_what_to_do(capsys: Captured) -> None:
    assert run("status") == 1
    assert "limen up" in capsys.readouterr().err


def test_status_of_an_empty_journal_says_what_to_do(
    kept: Journal, working: None, capsys: Captured
) -> None:
    assert run("status") == 0
    assert "limen send" in capsys.readouterr().out
    assert run("status", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["well"], tree["faults"], tree["studies"], tree["queues"]) == (True, [], [], {})


def test_which_version_of_a_model_serves_is_shown(
    kept: Journal, working: None, capsys: Captured
) -> None:
    for version, percent in (("1.0", 100), ("2.0", 5)):
        made = kept.deployments.ask("heads", version, version * 20, percent, "anna@host")
        kept.deployments.report(ONE.id, [Holding(ONE.id, "heads", made.id, HoldingState.READY)])
    assert run("status") == 0
    said = capsys.readouterr().out
    assert "model heads: 1.0, 95 % of studies since 2026-01-02 03:04:05, by anna@host" in said
    assert "2.0, 5 % of studies since" in said
    assert run("status", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert [(m["name"], m["version"], m["state"]) for m in tree["models"]] == [
        ("heads", "2.0", "serving"),
        ("heads", "1.0", "serving"),
    ]


def test_status_prints_one_json_object_with_the_keys_of_the_contract(
    kept: Journal, working: None, capsys: Captured
) -> None:
    receive(kept)
    kept.work.commit(
        kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30), "a", SUMMARY, ["archive"]
    )
    assert run("status", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    (study,) = tree["studies"]
    wanted = (
        "study_uid revision state outcome reason probability positive_slices slices instances "
        "received_at complete_at predicted_at explained_at deliveries"
    )
    assert set(wanted.split()) <= set(study)
    assert (study["outcome"], study["instances"], study["state"]) == ("positive", 3, "done")
    (delivery,) = study["deliveries"]
    wanted = "destination phase state attempts last_error"
    assert set(wanted.split()) <= set(delivery)
    assert tree["queues"]["archive"]["queued"] == 1


def test_status_prints_a_table_and_every_reason(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    summary = Summary(Outcome.NOT_ANALYSED, "x", None, None, None)
    job = kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    kept.work.commit(job, "a", summary, ["archive"], failed="the worker died in each of 3 attempts")
    assert run("status") == 1
    said = capsys.readouterr().out
    assert KEY[:12] in said
    assert "not analysed" in said
    assert "dead after 1: the worker died in each of 3 attempts" in said
    assert "archive: 1 waiting, 0 running, 0 dead" in said


def test_status_says_how_many_slices_of_how_many_are_positive(
    kept: Journal, capsys: Captured
) -> None:
    """One enhanced instance holds many slices; the instances of other series hold others."""
    kept.receiving.record([new_instance()])
    kept.receiving.complete(KEY, 1)
    job = kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    summary = Summary(Outcome.POSITIVE, "x", 0.9, positive_slices=12, slices=40)
    kept.work.commit(job, "a", summary, [])
    run("status")
    assert "12 of 40" in capsys.readouterr().out


def test_the_status_of_one_study_is_asked_for_by_key_or_uid(
    kept: Journal, capsys: Captured
) -> None:
    receive(kept)
    for text in (KEY[:6], STUDY_UID):
        assert run("status", text, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)["studies"]) == 1
    assert run("status", "ffff") == 1
    assert "no study ffff" in capsys.readouterr().err


def die(journal: Journal) -> None:
    """End the prediction of the study of ``receive`` as one that killed its workers."""
    job = journal.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    summary = Summary(Outcome.NOT_ANALYSED, "x", None, None, None)
    journal.work.commit(job, "a", summary, [], failed="the worker died in each of 3 attempts")


def test_a_dead_job_is_not_well_until_the_study_runs_again(
    kept: Journal, working: None, capsys: Captured
) -> None:
    receive(kept)
    die(kept)
    assert faults(capsys) == ["prediction: 1 dead; `limen status --dead` says which"]
    assert faults(capsys, KEY) == [
        f"{KEY}-1-prediction is dead: the worker died in each of 3 attempts"
    ]
    assert run("retry", f"{KEY}-1-prediction") == 0
    capsys.readouterr()
    assert faults(capsys) == []
    assert faults(capsys, KEY) == []


def test_work_that_waits_for_a_quarter_of_an_hour_is_late(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    receive(kept)
    (work,) = kept.publishing.due()
    assert kept.publishing.sending(work, 60)
    clock.forward(800)
    kept.workers.seen(ONE, 30)
    assert faults(capsys) == []
    clock.forward(110)
    kept.workers.seen(ONE, 30)
    assert faults(capsys) == ["prediction: late, the oldest has waited for 15 min"]


def test_workers_are_listed_and_one_that_is_missing_or_late_is_not_well(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    (told,) = faults(capsys)
    assert "no worker" in told
    kept.workers.seen(ONE, 30)
    assert faults(capsys) == []
    clock.forward(31)
    assert faults(capsys) == ["worker abcdef01 on host-a: dead or cut off, last seen 31 s ago"]
    assert run("status") == 1
    said = capsys.readouterr().out
    assert "worker abcdef01 on host-a: prediction, explanation, archive; seen 31 s ago" in said
    assert "LATE" in said


def test_work_that_no_worker_takes_is_not_well(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    kept.workers.seen(replace(ONE, lanes=("archive",)), 30)
    assert faults(capsys) == ["prediction: no worker takes it"]


def test_a_clock_that_is_off_is_told(kept: Journal, capsys: Captured) -> None:
    kept.database.clock_off_s = -90.0
    kept.workers.seen(ONE, 30)
    assert run("status") == 1
    assert "the clock of host-a is 90 s behind" in capsys.readouterr().out


def test_requests_for_storage_commitment_that_are_not_done_are_shown(
    kept: Journal, working: None, capsys: Captured
) -> None:
    kept.commitments.ask(NewCommitment("1.2.3", "CT1", "127.0.0.1", (("1.2.4", "1.2.5"),)))
    assert run("status") == 0
    assert "storage commitment 1.2.3: queued after 0" in capsys.readouterr().out


def test_status_says_what_a_pacs_has_and_what_it_refused(
    kept: Journal, working: None, capsys: Captured
) -> None:
    receive(kept)
    job = kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    kept.work.commit(job, "a", SUMMARY, ["main-pacs"])
    delivery = kept.work.claim(Delivery, f"{KEY}-1-prediction-main-pacs", "a", 30)
    one = SentObject("1.2.1", "1.2", "sr", ObjectState.SENT)
    kept.objects.note(
        delivery.key,
        [
            one,
            replace(one, sop_uid="1.2.2", kind="sc"),
            replace(one, sop_uid="1.2.3", kind="sc"),
            SentObject("1.2.4", "1.2", "pm", ObjectState.REFUSED, "0xA900, does not match"),
        ],
    )
    kept.objects.ask(delivery.key, "1.9", ["1.2.1", "1.2.2", "1.2.3"])
    kept.work.delivered(delivery, "a", WorkState.SENT, note="parametric map refused", wait_s=60)
    assert run("status") == 0
    out = capsys.readouterr().out
    assert "1 sent and not yet committed" in out
    assert "1 of 1" in out
    assert run("status", KEY) == 0
    out = capsys.readouterr().out
    assert f"{delivery.key}: sent: 2 sc, sr" in out
    assert f"{delivery.key}: refused: pm: 0xA900, does not match" in out
    assert run("status", "--json", KEY) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert [o["kind"] for o in study["deliveries"][0]["objects"]] == ["pm", "sc", "sc", "sr"]


def test_a_pacs_that_rejects_this_node_is_not_well(
    kept: Journal, working: None, capsys: Captured
) -> None:
    receive(kept)
    job = kept.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    kept.work.commit(job, "a", SUMMARY, ["archive"])
    delivery = kept.work.claim(Delivery, f"{KEY}-1-prediction-archive", "a", 30)
    kept.work.reject(delivery, "a", "PACS rejected LIMEN; then `limen retry archive`")
    assert faults(capsys) == ["archive: PACS rejected LIMEN; then `limen retry archive`"]


def listed(capsys: Captured, *words: str) -> list[tuple[str, int]]:
    """Return which revisions `limen status` lists."""
    run("status", "--json", *words)
    tree = json.loads(capsys.readouterr().out)
    return [(row["study_uid"], row["revision"]) for row in tree["studies"]]


def test_of_each_study_the_newest_revision_is_listed_and_of_one_all(
    kept: Journal, capsys: Captured
) -> None:
    receive(kept)
    kept.receiving.replay(KEY)
    assert listed(capsys) == [(STUDY_UID, 2)]
    assert listed(capsys, "--revisions", "all") == [(STUDY_UID, 2), (STUDY_UID, 1)]
    assert listed(capsys, KEY[:8]) == [(STUDY_UID, 2), (STUDY_UID, 1)]


def test_studies_are_chosen_by_outcome_state_time_and_what_is_dead(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    receive(kept, "1.2.1")
    clock.forward(7200)
    kept.receiving.record([new_instance(1, "1.2.2", at=clock.now)])
    receive(kept)
    die(kept)
    assert listed(capsys, "--state", "receiving") == [("1.2.2", 1)]
    assert listed(capsys, "--outcome", "not_analysed") == [(STUDY_UID, 1)]
    assert listed(capsys, "--dead") == [(STUDY_UID, 1)]
    assert ("1.2.1", 1) not in listed(capsys, "--since", "1h")
    assert len(listed(capsys, "--since", "2026-01-01")) == 3
    assert listed(capsys, "--since", "2027-01-01") == []
    assert run("status", "--since", "yesterday") == 2
    assert "neither an age such as 30min" in capsys.readouterr().err


def test_studies_that_have_not_arrived_somewhere_are_found(kept: Journal, capsys: Captured) -> None:
    predicted(kept)
    key = f"{KEY}-1-prediction-archive"
    kept.work.delivered(kept.work.claim(Delivery, key, "a", 30), "a")
    assert listed(capsys, "--destination", "archive") == []
    assert listed(capsys, "--destination", "django") == [(STUDY_UID, 1)]
    assert listed(capsys, "--destination", "django", "--dead") == []


def test_a_long_list_is_cut_and_says_how_much_more_there_is(
    kept: Journal, capsys: Captured
) -> None:
    for n in range(5):
        receive(kept, f"1.2.{n}")
    run("status", "--limit", "2", "--json")
    tree = json.loads(capsys.readouterr().out)
    assert (len(tree["studies"]), tree["more"]) == (2, 3)
    run("status", "--limit", "2")
    assert "and 3 more: --limit N shows more" in capsys.readouterr().out
    run("status", "--outcome", "positive")
    assert "No study is like that" in capsys.readouterr().out


def test_a_study_is_found_by_its_accession_number_which_is_not_shown(
    kept: Journal, capsys: Captured
) -> None:
    kept.receiving.record([replace(new_instance(1), accession="A-4711"), new_instance(1, "1.2.2")])
    assert listed(capsys, "A-4711") == [(STUDY_UID, 1)]
    kept.receiving.complete(KEY, 1)
    kept.receiving.replay(KEY)
    assert listed(capsys, "A-4711") == [(STUDY_UID, 2), (STUDY_UID, 1)]
    run("status", "A-4711")
    assert "A-4711" not in capsys.readouterr().out
    assert run("status", "A-4712") == 1


def test_a_study_that_waits_for_the_archive_says_so(kept: Journal, capsys: Captured) -> None:
    kept.receiving.record([new_instance()])
    kept.receiving.complete(KEY, 1, originals_first=True)
    delivery = kept.work.claim(Delivery, f"{KEY}-1-originals", "a", 30)
    kept.work.postpone_until_there(delivery, "a", 9, "bucket b answered 503", probe_s=(9, 9))
    run("status")
    told = capsys.readouterr().out
    assert "predicted when its originals are in the archive: bucket b answered 503" in told
    assert "archive: away for" in told
