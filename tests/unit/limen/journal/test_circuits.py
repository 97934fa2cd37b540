"""limen.journal.circuits: a destination that is away is asked by one delivery at a time."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from limen.config import Queue
from limen.journal import Delivery, Journal, Summary
from limen.result import Outcome, Phase
from limen.uids import key_of
from tests.support.journals import claimed, receive
from tests.support.samples import SUMMARY, Clock

QUEUE = Queue()
PROBE = (QUEUE.retry_base_s, QUEUE.probe_s)
NEGATIVE = Summary(Outcome.NEGATIVE, "", 0.1, 0, 3)


def predict(journal: Journal, clock: Clock, n: int, summary: Summary = NEGATIVE) -> str:
    """Predict one more study; return the key of its delivery to the results server."""
    key = f"{receive(journal, f'1.2.{n}', instances=1)}-1-prediction"
    explain = summary.outcome is Outcome.POSITIVE
    job = claimed(journal, key)
    assert journal.work.commit(job, "a", summary, ("archive", "django"), explain=explain)
    clock.forward(1)
    return f"{key}-django"


def explained(journal: Journal, n: int) -> str:
    key = f"{key_of(f'1.2.{n}')}-1-explanation"
    assert journal.work.commit(claimed(journal, key), "a", SUMMARY, ("archive", "django"))
    return f"{key}-django"


def due(journal: Journal) -> list[str]:
    """Keys of the deliveries to the results server that need a message."""
    found = journal.publishing.due()
    return [w.key for w in found if isinstance(w, Delivery) and w.destination == "django"]


def claim(journal: Journal, key: str) -> Delivery | None:
    return journal.work.claim(Delivery, key, "a", QUEUE.lease_s)


def fail(journal: Journal, key: str, wait_s: float = 60) -> None:
    """Try a delivery while the results server is away."""
    delivery = claim(journal, key)
    assert delivery is not None
    assert journal.work.postpone_until_there(delivery, "a", wait_s, "away", probe_s=PROBE)


def arrive(journal: Journal, key: str) -> None:
    delivery = claim(journal, key)
    assert delivery is not None
    assert journal.work.delivered(delivery, "a")


def test_while_a_destination_is_away_one_delivery_goes_at_a_time(
    journal: Journal, clock: Clock
) -> None:
    keys = [predict(journal, clock, n) for n in range(6)]
    fail(journal, keys[0])
    fail_too = [claim(journal, key) for key in keys[1:]]
    assert fail_too == [None] * 5
    assert due(journal) == []
    assert journal.publishing.waiting("django", 5) == []
    clock.forward(QUEUE.retry_base_s)
    (probe,) = due(journal)
    assert len(journal.publishing.waiting("django", 5)) == 1
    assert claim(journal, probe) is not None
    assert [claim(journal, key) for key in keys if key != probe] == [None] * 5
    assert due(journal) == []


def test_another_destination_notices_nothing(journal: Journal, clock: Clock) -> None:
    keys = [predict(journal, clock, n) for n in range(3)]
    fail(journal, keys[0])
    for key in keys:
        assert claim(journal, key.replace("django", "archive")) is not None


def test_probes_are_at_most_as_far_apart_as_the_settings_say(
    journal: Journal, clock: Clock
) -> None:
    for n in range(3):
        predict(journal, clock, n)
    waits, probes = [], set()
    (key, *_) = due(journal)
    for _ in range(8):
        fail(journal, key, wait_s=900)
        before = clock.now
        while not due(journal):
            clock.forward(0.5)
        waits.append((clock.now - before).total_seconds())
        (key,) = due(journal)
        probes.add(key)
    assert waits == [2, 4, 8, 15, 15, 15, 15, 15]
    assert len(probes) == 3  # one document that fails alone must not be all that is asked


def test_one_delivery_alone_is_tried_as_often_as_many(journal: Journal, clock: Clock) -> None:
    key = predict(journal, clock, 1)
    for _ in range(10):
        fail(journal, key, wait_s=900)
        clock.forward(QUEUE.probe_s)
        assert due(journal) == [key]


def test_the_first_that_arrives_lets_all_others_go_at_once_the_urgent_first(
    journal: Journal, clock: Clock
) -> None:
    divided = Summary(Outcome.UNDETERMINED, "", 0.6, 0, 3)
    summaries = [NEGATIVE, SUMMARY, NEGATIVE, divided]
    keys = [predict(journal, clock, n, s) for n, s in enumerate(summaries)]
    keys.append(explained(journal, 1))
    fail(journal, keys[0], wait_s=600)
    for _ in range(12):
        clock.forward(QUEUE.probe_s)
        (probe,) = due(journal)
        fail(journal, probe, wait_s=600)
    clock.forward(QUEUE.probe_s)
    (probe,) = due(journal)
    arrive(journal, probe)
    wanted = [keys[1], keys[3], keys[0], keys[2], keys[4]]
    wanted.remove(probe)
    assert due(journal) == wanted
    assert [w.key for w in journal.publishing.waiting("django", 9)] == wanted
    for key in wanted:
        assert claim(journal, key) is not None


def test_messages_that_were_dropped_meanwhile_are_sent_again(
    journal: Journal, clock: Clock
) -> None:
    keys = [predict(journal, clock, n) for n in range(4)]
    for work in journal.publishing.due():
        journal.publishing.sending(work, QUEUE.republish_s)
    for _ in range(2):  # the destination was away for two
        (probe, *_) = [w.key for w in journal.publishing.waiting("django")]
        fail(journal, probe)
        clock.forward(2 * QUEUE.retry_base_s)
    (probe,) = due(journal)
    arrive(journal, probe)
    assert sorted(due(journal)) == sorted(set(keys) - {probe})


def test_a_document_that_fails_alone_keeps_its_own_wait(journal: Journal, clock: Clock) -> None:
    """A server that cannot take one document answers as one that is away: the others show it."""
    keys = [predict(journal, clock, n) for n in range(4)]
    fail(journal, keys[0], wait_s=600)
    clock.forward(QUEUE.retry_base_s)
    (probe,) = due(journal)
    assert probe != keys[0]
    arrive(journal, probe)
    assert keys[0] not in due(journal)
    assert claim(journal, keys[0]) is None
    clock.forward(600)
    assert keys[0] in due(journal)


def test_a_probe_whose_worker_dies_is_followed_by_another(journal: Journal, clock: Clock) -> None:
    keys = [predict(journal, clock, n) for n in range(3)]
    fail(journal, keys[0])
    clock.forward(QUEUE.retry_base_s)
    (probe,) = due(journal)
    assert claim(journal, probe)
    clock.forward(QUEUE.lease_s + 1)
    (again,) = due(journal)
    assert claim(journal, again)


def test_of_two_that_probe_at_the_same_time_one_goes(journal: Journal, clock: Clock) -> None:
    keys = [predict(journal, clock, n) for n in range(8)]
    fail(journal, keys[0], wait_s=1)
    clock.forward(QUEUE.retry_base_s)
    together, won = threading.Barrier(8), []

    def probe(key: str) -> None:
        together.wait()
        won.append(claim(journal, key) is not None)

    threads = [threading.Thread(target=probe, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 1


def test_two_that_find_out_at_the_same_time_both_do(journal: Journal, clock: Clock) -> None:
    deliveries = [claim(journal, predict(journal, clock, n)) for n in range(4)]
    together, said = threading.Barrier(4), []

    def find_out(delivery: Delivery) -> None:
        together.wait()
        work = journal.work
        said.append(work.postpone_until_there(delivery, "a", 60, "away", probe_s=PROBE))

    threads = [threading.Thread(target=find_out, args=(d,)) for d in deliveries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [True] * 4


def test_a_destination_that_is_away_is_told_with_how_long(journal: Journal, clock: Clock) -> None:
    key = predict(journal, clock, 1)
    assert journal.status.queues()["django"].away_s is None
    fail(journal, key)
    clock.forward(90)
    queues = journal.status.queues()
    assert queues["django"].away_s == 90.0
    assert queues["archive"].away_s is None
    arrive(journal, key)
    assert "django" not in journal.status.queues()


def test_who_no_longer_holds_a_delivery_says_nothing_of_its_destination(
    journal: Journal, clock: Clock
) -> None:
    delivery = claim(journal, predict(journal, clock, 1))
    assert delivery is not None
    lost = replace(delivery)
    assert not journal.work.postpone_until_there(lost, "b", 60, "away", probe_s=PROBE)
    assert journal.status.queues()["django"].away_s is None


@pytest.mark.parametrize("phase", list(Phase))
def test_a_lane_of_a_phase_knows_no_circuit(journal: Journal, clock: Clock, phase: Phase) -> None:
    key = predict(journal, clock, 1, SUMMARY)
    fail(journal, key)
    receive(journal, "1.3", instances=1)
    assert len(journal.publishing.waiting(phase.value)) == 1
