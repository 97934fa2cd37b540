"""worker.destinations.webhook: what is told of a result, in which order, and of which study."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limen.config import WebhookDestination as WebhookEntry
from limen.errors import Rejected, Transient, Unreachable, Unwelcome
from limen.result import Finding, Outcome, Phase
from limen.webhook import Webhook
from tests.support.messages import Courier, Scene
from tests.support.ports import free_ports
from tests.support.samples import result
from tests.support.webhooks import Receiver, secret_file, webhooks
from worker.destinations.sequence import Sequence
from worker.destinations.webhook import WebhookDestination


@pytest.fixture
def server() -> Iterator[Receiver]:
    with webhooks() as receiver:
        yield receiver


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


def hook(scene: Scene, server: Receiver, *, only_positive: bool = False) -> WebhookDestination:
    sequence = Sequence(scene.name, scene.journal.objects, only_positive=only_positive)
    to = Webhook(scene.name, server.url, secret_file(scene.folder), None, 5.0)
    return WebhookDestination(scene.name, "limen", to, sequence)


def types(server: Receiver) -> list[tuple[str, int]]:
    return [(body["type"], body["data"]["revision"]) for _, body in server.took]


NEGATIVE: dict[str, Any] = {
    "outcome": Outcome.NEGATIVE,
    "finding": Finding("any", "Intracranial hemorrhage", 0.1, 0, 1, 1),
    "images": [],
}


def test_finding_explanation_and_revision_are_told_in_order_with_what_was_found(
    scene: Scene, server: Receiver
) -> None:
    to = hook(scene, server)
    for phase, revision in ((Phase.PREDICTION, 1), (Phase.EXPLANATION, 1), (Phase.PREDICTION, 2)):
        scene.deliver(to, scene.commit(phase, revision))
    assert types(server) == [
        ("result.finding", 1),
        ("result.explanation", 1),
        ("result.revision", 2),
    ]
    data = server.took[0][1]["data"]
    assert (data["outcome"], data["look_first"], data["final"]) == ("positive", True, False)
    assert (data["finding"]["probability"], data["finding"]["positive_slices"]) == (0.9, 1)
    assert data["notice"] == "Research software. Not for diagnostic use."
    assert server.took[1][1]["data"]["final"]
    assert [key for key, _ in server.took] == scene.keys


def test_a_study_is_told_by_its_uid_and_accession_number_and_its_patient_not_at_all(
    scene: Scene, server: Receiver
) -> None:
    parcel = scene.commit(Phase.PREDICTION, 1, patient_id="P-4711", accession="A77")
    scene.deliver(hook(scene, server), parcel)
    text = json.dumps(server.took)
    assert "A77" in text
    assert result().study.study_uid in text
    for private in ("Müller", "M\\u00fcller", "P-4711"):
        assert private not in text


def test_what_a_later_one_has_replaced_is_not_sent_any_more(scene: Scene, server: Receiver) -> None:
    to = hook(scene, server)
    first = scene.commit(Phase.PREDICTION, 1)
    server.status = 503
    with pytest.raises(Unreachable):
        scene.deliver(to, first)
    second = scene.commit(Phase.EXPLANATION, 1)
    server.status = 204
    receipt = scene.deliver(to, first)
    assert not receipt.reached
    assert "a later message" in receipt.note
    scene.deliver(to, second)
    assert types(server) == [("result.explanation", 1)]


def test_one_that_follows_waits_for_the_one_that_is_on_its_way(
    scene: Scene, server: Receiver
) -> None:
    to = hook(scene, server)
    first = scene.commit(Phase.PREDICTION, 1)
    scene.claim(first)
    second = scene.commit(Phase.EXPLANATION, 1)
    with pytest.raises(Transient, match="on its way"):
        scene.deliver(to, second)
    assert server.asked == []


def test_what_was_given_up_replaces_nothing(scene: Scene, server: Receiver) -> None:
    to = hook(scene, server)
    first = scene.commit(Phase.PREDICTION, 1)
    scene.bury(scene.commit(Phase.EXPLANATION, 1))
    scene.deliver(to, first)
    assert types(server) == [("result.finding", 1)]


def test_who_wants_what_was_found_gets_that_and_what_came_of_it(
    scene: Scene, server: Receiver
) -> None:
    to = hook(scene, server, only_positive=True)
    receipt = scene.deliver(to, scene.commit(Phase.PREDICTION, 1, **NEGATIVE))
    assert not receipt.reached
    assert "only what was" in receipt.note
    undetermined = NEGATIVE | {"outcome": Outcome.UNDETERMINED}
    scene.deliver(to, scene.commit(Phase.PREDICTION, 2, **undetermined))
    scene.deliver(to, scene.commit(Phase.PREDICTION, 3, **NEGATIVE))
    assert types(server) == [("result.revision", 2), ("result.revision", 3)]


@pytest.mark.parametrize(("status", "kind"), [(401, Unwelcome), (422, Rejected)])
def test_who_does_not_let_us_in_or_refuses_is_told_with_the_next_step(
    scene: Scene, server: Receiver, status: int, kind: type[Exception]
) -> None:
    server.status = status
    parcel = scene.commit(Phase.PREDICTION, 1)
    with pytest.raises(kind, match="limen retry"):
        scene.deliver(hook(scene, server), parcel)
    server.status = 204
    scene.deliver(hook(scene, server), parcel)
    assert server.asked == [parcel.delivery] * 2


# ---- retried from the journal: whatever is answered, each is told once, in order ---------------


def courier(folder: Path, port: int) -> Courier:
    entry = WebhookEntry(
        name="ris", url=f"http://127.0.0.1:{port}/hook", secret_file=secret_file(folder),
        timeout_s=0.5,
    )  # fmt: skip
    return Courier(folder, "ris", webhook=(entry,))


def test_after_an_hour_of_every_trouble_each_study_is_told_once_and_the_latest_last(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    with courier(tmp_path, port) as to:
        first = to.commit(Phase.PREDICTION, 1)
        for _ in range(10):  # nobody listens
            to.work()
            to.clock.forward(180)
        with webhooks(port=port) as server:
            server.script = [410, 404, 500, 503, 429, 307]
            for _ in range(10):
                to.work()
                to.clock.forward(180)
            assert types(server) == [("result.finding", 1)]
            assert set(server.asked) == {first}, "one id, by which who has it knows it again"
            later = [to.commit(Phase.EXPLANATION, 1), to.commit(Phase.PREDICTION, 2)]
            for _ in range(3):
                to.work()
                to.clock.forward(60)
            assert types(server)[1:] == [("result.revision", 2)]
            assert [key for key, _ in server.took] == [first, later[1]]
        assert set(to.states().values()) == {"done"}


def test_who_does_not_answer_is_asked_again_with_the_same_id(tmp_path: Path) -> None:
    with webhooks() as server, courier(tmp_path, server.port) as to:
        key = to.commit(Phase.PREDICTION, 1)
        server.silent = threading.Event()
        to.work()
        server.silent.set()
        server.silent = None
        to.clock.forward(60)
        to.work()
        assert server.asked == [key, key]
        assert types(server) == [("result.finding", 1)]


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_what_is_refused_is_dead_until_a_person_sends_it_again(tmp_path: Path, status: int) -> None:
    with webhooks() as server, courier(tmp_path, server.port) as to:
        server.script = [status]
        key = to.commit(Phase.PREDICTION, 1)
        for _ in range(2):
            to.work()
            to.clock.forward(3600)
        assert (to.states(), server.asked) == ({key: "dead"}, [key])
        assert str(status) in to.notes()[key]
        assert to.journal.work.retry(key)
        to.work()
        assert types(server) == [("result.finding", 1)]
