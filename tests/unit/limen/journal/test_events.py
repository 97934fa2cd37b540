"""limen.journal.events: every attempt is kept, whoever made it and however it ended."""

from __future__ import annotations

from dataclasses import replace

from limen.journal import Brought, Delivery, Job, Journal
from tests.support.journals import KEY, PREDICTION, claimed, predicted, receive
from tests.support.samples import START, SUMMARY, Clock


def attempts(journal: Journal, subject: str = PREDICTION) -> list[tuple[str, str, int, str]]:
    found = [e for e in journal.events.of(KEY) if e.subject == subject]
    return [(e.who, e.how, e.times, e.text) for e in found if e.kind == "attempt"]


def test_an_attempt_is_kept_with_its_worker_and_what_its_result_says(
    journal: Journal, clock: Clock
) -> None:
    receive(journal)
    job = claimed(journal)
    clock.forward(3)
    summary = replace(SUMMARY, bundle="tiny", bundle_sha256="ab" * 32, document_sha256="cd" * 32)
    assert journal.work.commit(job, "a", summary, [])
    (event,) = journal.events.of(KEY)
    assert (event.who, event.how, event.revision) == ("a", "done", 1)
    assert event.until is not None
    assert (event.until - event.at).total_seconds() == 3
    assert event.detail["bundle_sha256"] == "ab" * 32
    assert event.detail["probability"] == SUMMARY.probability


def test_a_worker_that_died_is_told_from_one_that_gave_back(journal: Journal) -> None:
    receive(journal)
    claimed(journal, owner="a")
    journal.work.release_dead("a")
    claimed(journal, owner="b")
    journal.work.release("b")
    assert attempts(journal) == [("a", "lost", 1, ""), ("b", "given back", 1, "")]


def test_a_claim_that_was_taken_over_has_no_end(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal, owner="a")
    clock.forward(60)
    claimed(journal, owner="b")
    assert [e.until for e in journal.events.of(KEY)] == [None, None]
    assert attempts(journal) == [("a", "", 1, ""), ("b", "", 1, "")]


def test_attempts_that_fail_alike_share_a_row_and_those_that_do_not_are_bounded(
    journal: Journal, clock: Clock
) -> None:
    predicted(journal)
    key = f"{PREDICTION}-archive"

    def fail(text: str) -> None:
        delivery = journal.work.claim(Delivery, key, "a", 30)
        assert delivery is not None
        assert journal.work.postpone(delivery, "a", 0, text)

    for _ in range(3):
        fail("away")
    assert attempts(journal, key) == [("a", "queued", 3, "away")]
    for n in range(60):
        fail(f"away {n}")
    kept = attempts(journal, key)
    assert len(kept) < 51
    assert sum(times for _, _, times, _ in kept) == 63


def test_what_people_ask_for_is_kept_with_who_asked(journal: Journal) -> None:
    predicted(journal)
    key = f"{PREDICTION}-archive"
    delivery = journal.work.claim(Delivery, key, "a", 30)
    assert delivery is not None
    journal.work.bury(delivery, "a", "answered 409")
    journal.work.discard(key, "a phantom", by="jane")
    journal.work.retry(key, "john")
    journal.receiving.replay(KEY, "jill")
    asked = [(e.kind, e.who, e.text) for e in journal.events.of(KEY) if e.kind != "attempt"]
    assert asked == [
        ("discard", "jane", "a phantom"),
        ("retry", "john", ""),
        ("replay", "jill", ""),
    ]


def test_what_associations_brought_is_kept(journal: Journal) -> None:
    receive(journal)
    brought = Brought(KEY, 1, 7, "CT1", "10.0.0.1", START, START, 3, 1, {"0xA900 other class": 2})
    journal.events.brought([brought])
    (event,) = journal.events.of(KEY)
    assert (event.kind, event.subject, event.who) == ("association", "7", "CT1")
    assert event.detail["refused"] == {"0xA900 other class": 2}
    (arrived,) = journal.events.arrived(KEY)
    assert (arrived.peer, arrived.instances, arrived.series, arrived.size_bytes) == (
        "CT1", 3, 1, 3000,
    )  # fmt: skip
    assert journal.work.claim(Job, PREDICTION, "a", 30) is not None
