"""limen.doctor.trial and study: a test study that gets lost on its way, at each step of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from limen.doctor import study, trial
from limen.doctor.check import Node, Verdict
from limen.doctor.trial import Head, NotArrived, Sent
from limen.journal import Delivery, Journal
from limen.result import Outcome
from tests.support.doctor import node_of
from tests.support.journals import PREDICTION, claimed, receive
from tests.support.samples import STUDY_UID, SUMMARY


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return node_of(tmp_path)


def sent() -> Sent:
    """Return a study that the receiver has stored just now."""
    return Sent(STUDY_UID, "aa", time.monotonic())


def lost(node: Node, journal: Journal) -> str:
    with pytest.raises(NotArrived) as told:
        trial.follow(node, journal, sent(), 0.0)
    return f"{told.value} -> {told.value.next}"


def predict(journal: Journal, summary: object = SUMMARY) -> Delivery:
    """Commit a prediction and claim its way to the results server."""
    receive(journal)
    assert journal.work.commit(claimed(journal), "a", summary, ("django",), explain=False)  # type: ignore[arg-type]
    delivery = journal.work.claim(Delivery, f"{PREDICTION}-django", "a", 30)
    assert delivery is not None
    return delivery


def test_a_study_that_the_journal_never_gets_is_told(node: Node, sqlite_journal: Journal) -> None:
    told = lost(node, sqlite_journal)
    assert "the journal has no row of it" in told
    assert "does it write to this journal?" in told


def test_a_study_that_does_not_end_is_told(node: Node, sqlite_journal: Journal) -> None:
    from tests.support.samples import new_instance

    sqlite_journal.receiving.record([new_instance(1, STUDY_UID)])
    assert "waits for the end of the study" in lost(node, sqlite_journal)


def test_a_study_that_no_worker_takes_is_told(node: Node, sqlite_journal: Journal) -> None:
    receive(sqlite_journal)
    told = lost(node, sqlite_journal)
    assert "waits for its prediction" in told
    assert "limen doctor workers broker" in told


def test_a_study_that_has_failed_is_told_at_once_with_its_reason(
    node: Node, sqlite_journal: Journal
) -> None:
    receive(sqlite_journal)
    gone = replace(SUMMARY, outcome=Outcome.NOT_ANALYSED)
    assert sqlite_journal.work.commit(
        claimed(sqlite_journal), "a", gone, ("django",), explain=False, failed="given up"
    )
    with pytest.raises(NotArrived, match="failed: given up") as told:
        trial.follow(node, sqlite_journal, sent(), 60.0)
    assert "limen status" in told.value.next


def test_a_result_that_does_not_arrive_is_told_with_what_the_delivery_says(
    node: Node, sqlite_journal: Journal
) -> None:
    delivery = predict(sqlite_journal)
    assert "has not arrived at the results server: running" in lost(node, sqlite_journal)
    assert sqlite_journal.work.bury(delivery, "a", "answered 409")
    with pytest.raises(NotArrived, match="answered 409") as told:
        trial.follow(node, sqlite_journal, sent(), 60.0)
    assert "limen doctor web" in told.value.next


def test_a_result_that_has_arrived_says_who_looked_and_how_long_it_took(
    node: Node, sqlite_journal: Journal
) -> None:
    delivery = predict(sqlite_journal, replace(SUMMARY, bundle="ich", bundle_sha256="bb" * 32))
    waits: list[str] = []
    with pytest.raises(NotArrived):
        trial.follow(node, sqlite_journal, sent(), 0.15, waits.append)
    assert set(waits) == {"the results server"}
    assert sqlite_journal.work.delivered(delivery, "a")
    arrived = trial.follow(node, sqlite_journal, sent(), 0.0)
    assert arrived.outcome == SUMMARY.outcome.value
    assert (arrived.bundle, arrived.bundle_sha256) == ("ich", "bb" * 32)
    assert 0 <= arrived.predicted_s <= arrived.delivered_s


def test_where_there_is_no_results_server_a_prediction_is_the_end(
    tmp_path: Path, sqlite_journal: Journal
) -> None:
    node = node_of(tmp_path, "[destination.django]\nenabled = false\n")
    receive(sqlite_journal)
    job = claimed(sqlite_journal)
    assert sqlite_journal.work.commit(job, "a", SUMMARY, (), explain=False)
    arrived = trial.follow(node, sqlite_journal, sent(), 0.0)
    assert arrived.delivered_s == arrived.predicted_s


@pytest.mark.parametrize(
    ("outcome", "settings", "verdict"),
    [
        (Outcome.POSITIVE, "", Verdict.OK),
        (Outcome.NEGATIVE, "", Verdict.WARNING),
        (Outcome.NOT_ANALYSED, "", Verdict.WARNING),
        (Outcome.NEGATIVE, '[[route]]\nname = "r"\nmodality = "CT"\nbundle = "mine"\n', Verdict.OK),
    ],
)
def test_a_bleed_that_is_not_found_is_a_warning_where_blood_is_looked_for(
    tmp_path: Path, sqlite_journal: Journal, outcome: Outcome, settings: str, verdict: Verdict
) -> None:
    node = node_of(tmp_path, settings)
    delivery = predict(sqlite_journal, replace(SUMMARY, outcome=outcome))
    assert sqlite_journal.work.delivered(delivery, "a")
    found = study._judge(node, trial.follow(node, sqlite_journal, sent(), 0.0))
    assert found.verdict is verdict
    assert ("limen model check ich" in found.next) is (verdict is Verdict.WARNING)


def test_each_head_of_a_test_study_is_one_that_the_phantom_makes() -> None:
    from models.ich.phantom import TEST_HEADS

    assert {head.value for head in Head} == set(TEST_HEADS)
