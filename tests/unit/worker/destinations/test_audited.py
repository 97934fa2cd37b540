"""What leaves for a destination is told: once, with what is there, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from limen.audit import Event, Kind, Trail
from limen.audit.notes import Notes
from limen.config import (
    Audit,
    Config,
    Destination,
    Hl7Destination,
    Node,
    PacsDestination,
    WebhookDestination,
)
from limen.errors import Rejected, Unreachable
from limen.journal import Journal, SentObject
from limen.result import Phase
from limen.states import ObjectState
from tests.support.journals import KEY, claimed, receive
from tests.support.samples import SUMMARY, result
from worker.destinations import ARRIVED, Parcel, Receipt
from worker.destinations.audited import audited

PACS = "main-pacs"
DELIVERY = f"{KEY}-1-prediction-{PACS}"


class Scripted:
    """A destination that does what a test says."""

    def __init__(self) -> None:
        self.turns: list[Callable[[], None]] = []
        self.receipt = ARRIVED

    def deliver(self, parcel: Parcel) -> Receipt:
        """Do the next turn."""
        self.turns.pop(0)()
        return self.receipt


class Scene:
    def __init__(self, folder: Path, host: str = "localhost") -> None:
        pacs = PacsDestination(name=PACS, ae_title="PACS", host="10.0.0.8", port=104)
        hook = WebhookDestination(
            name="hook", url="https://ris:8443/limen?token=t0ken", secret_file=folder / "secret"
        )
        ris = Hl7Destination(name="ris", host="10.0.0.9", tls=True)
        self.config = Config(
            node=Node(data_dir=folder),
            audit=Audit(host=host),
            destination=Destination(pacs=(pacs,), webhook=(hook,), hl7=(ris,)),
        )
        self.journal = Journal(f"sqlite:///{folder / 'journal.db'}")
        self.journal.migrate()
        receive(self.journal)
        assert self.journal.work.commit(claimed(self.journal), "a", SUMMARY, [PACS])
        self.inner = Scripted()
        self.trail = Trail(self.config, "worker")
        inner = {name: self.inner for name in ("django", "archive", PACS, "hook", "ris")}
        self.places = audited(inner, self.config, self.journal.objects, self.trail)  # type: ignore[arg-type]
        self.parcel = Parcel(
            *(KEY, 1, Phase.PREDICTION, result().to_json(), {}, ()), delivery=DELIVERY
        )

    def events(self) -> list[Event]:
        notes = Notes(self.config.audit_dir, 1)
        return [notes.read(name) for name in notes.waiting()]

    def stored(self, sop_uid: str) -> None:
        one = SentObject(sop_uid, "1.2.840.10008.5.1.4.1.1.88.34", "sr", ObjectState.SENT)
        self.journal.objects.note(DELIVERY, [one])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def away() -> None:
    raise Unreachable("away")


def refuses() -> None:
    raise Rejected("not this")


def test_a_pacs_that_is_away_is_begun_with_once_and_told_with_what_arrived(scene: Scene) -> None:
    scene.inner.turns = [away, away, lambda: scene.stored("1.2.3"), lambda: None]
    for _ in range(2):
        with pytest.raises(Unreachable):
            scene.places[PACS].deliver(scene.parcel)
    scene.places[PACS].deliver(scene.parcel)
    scene.places[PACS].deliver(scene.parcel)  # nothing new is there
    events = scene.events()
    assert [e.kind for e in events] == [Kind.SENDING, Kind.SENT]
    assert events[1].instances == {"1.2.840.10008.5.1.4.1.1.88.34": 1}
    assert (events[1].peer, events[1].address) == ("PACS", "10.0.0.8")
    study = result().study
    assert {(e.study_uid, e.patient_id) for e in events} == {(study.study_uid, study.patient_id)}


def test_a_refusal_for_good_is_told_as_a_failure(scene: Scene) -> None:
    scene.inner.turns = [refuses, refuses]
    for name in (PACS, "django"):
        with pytest.raises(Rejected):
            scene.places[name].deliver(scene.parcel)
    told = [(e.kind, e.outcome, e.reason) for e in scene.events()]
    assert told[1:] == [(Kind.SENT, 8, "not this"), (Kind.EXPORTED, 8, "not this")]


def test_a_result_to_the_results_server_is_exported_a_word_on_a_delivery_is_not(
    scene: Scene,
) -> None:
    scene.inner.turns = [lambda: None, lambda: None]
    scene.places["django"].deliver(scene.parcel)
    update = Parcel(*(KEY, 1, Phase.PREDICTION, b"", {}, ()), update=b"{}")
    scene.places["django"].deliver(update)
    assert [(e.kind, e.uri) for e in scene.events()] == [(Kind.EXPORTED, scene.config.django_url)]


def test_the_archive_in_a_folder_is_part_of_the_node(scene: Scene) -> None:
    assert scene.places["archive"] is scene.inner  # type: ignore[comparison-overlap]


def test_nothing_is_told_when_there_is_no_collector(tmp_path: Path) -> None:
    scene = Scene(tmp_path, host="")
    scene.inner.turns = [lambda: None]
    scene.places["django"].deliver(scene.parcel)
    scene.trail.start()
    scene.trail.stop()
    assert not scene.config.audit_dir.exists()


def test_what_a_ris_was_told_is_exported(scene: Scene) -> None:
    scene.inner.turns = [lambda: None]
    scene.places["ris"].deliver(scene.parcel)
    assert [(e.kind, e.uri) for e in scene.events()] == [(Kind.EXPORTED, "mllps://10.0.0.9:2575")]


def test_what_a_webhook_was_told_is_exported_and_what_it_was_not_is_not(scene: Scene) -> None:
    scene.inner.turns = [lambda: None] * 2
    scene.inner.receipt = Receipt(note="not sent", reached=False)
    scene.places["hook"].deliver(scene.parcel)
    assert scene.events() == []
    scene.inner.receipt = ARRIVED
    scene.places["hook"].deliver(scene.parcel)
    assert [(e.kind, e.uri) for e in scene.events()] == [(Kind.EXPORTED, "https://ris:8443/limen")]
