"""worker.work.jobs: claim, work, commit; and every way that work can end."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from limen.broker import make_app
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import (
    Delayed,
    EngineError,
    JournalAway,
    Rejected,
    Transient,
    Unreachable,
    Unwelcome,
)
from limen.journal import Delivery, Holding, Job, Journal, StudyRow, WorkerSign
from limen.result import Image, Outcome, Phase, Result
from limen.states import HoldingState, WorkState
from limen.uids import key_of
from tests.support.node import until
from tests.support.samples import SERIES_UID, STUDY_UID, Clock, new_instance, result, settings
from worker.bundles.bundle import Bundle
from worker.destinations import ARRIVED, Parcel, Receipt
from worker.destinations.archive import ArchiveDestination, Content
from worker.destinations.folder import FolderArchive
from worker.dicom.decoder import Decoder
from worker.objects import Built, Kind, Objects, Refused
from worker.serving.engine import Engine
from worker.study import routes
from worker.study.parts import Read, Stamp, StudyOutput
from worker.work import jobs as work_jobs
from worker.work import sendable
from worker.work.instances import SpooledInstances
from worker.work.jobs import Jobs, lanes
from worker.work.models import Chosen, Models
from worker.work.outbox import Outbox

KEY = key_of(STUDY_UID)
PREDICTION, EXPLANATION = f"{KEY}-1-prediction", f"{KEY}-1-explanation"
ME = "me"


class Scripted:
    """A destination that does what it is told."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.parcels: list[Parcel] = []
        self.gate: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.receipt = ARRIVED

    def deliver(self, parcel: Parcel) -> Receipt:
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.errors:
            raise self.errors.pop(0)
        self.parcels.append(parcel)
        return self.receipt

    @property
    def documents(self) -> list[Result]:
        return [Result.from_json(p.document) for p in self.parcels]


class OneModel:
    """Stands for a loaded bundle; what the model says is scripted in ``Analysis``."""

    def __init__(self) -> None:
        self.deployment = 0

    @contextmanager
    def for_study(self, *_: str) -> Iterator[Chosen]:
        yield Chosen(cast(Bundle, None), cast(Engine, None), self.deployment)

    @contextmanager
    def that_made(self, _: Result) -> Iterator[tuple[None, None]]:
        yield None, None


@dataclass
class Analysis:
    """What ``worker.study`` answers, and the errors it raises first."""

    positive: bool = True
    outcome: Outcome | None = None
    errors: list[Exception] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    gate: threading.Event | None = None
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def answer(self, phase: Phase, stamp: Stamp) -> StudyOutput:
        self.calls.append(phase.value)
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.errors:
            raise self.errors.pop(0)
        image = Image(f"{SERIES_UID}.1", 1, 0, 0.0, {"any": 0.9}, self.positive, original="a-1.png")
        files = {"a-1.png": b"slice"}
        if phase is Phase.EXPLANATION:
            image, files = replace(image, explanation="a-1-o.png"), {"a-1-o.png": b"overlay"}
        document = result(
            phase,
            stamp.revision,
            outcome=self.outcome or (Outcome.POSITIVE if self.positive else Outcome.NEGATIVE),
            images=[image],
            timings=stamp.timings,
            provenance=stamp.provenance,
        )
        return StudyOutput(document, files)


@dataclass
class Bench:
    """One worker process in parts: real journal, broker folder and outbox."""

    config: Config
    clock: Clock
    journal: Journal
    dispatcher: Dispatcher
    outbox: Outbox
    jobs: Jobs
    django: Scripted
    archive: Scripted
    pacs: Scripted
    chosen: OneModel

    def receive(self, study_uid: str = STUDY_UID) -> str:
        self.journal.receiving.record(
            [new_instance(n, study_uid, at=self.clock.now) for n in (1, 2)]
        )
        assert self.journal.receiving.complete(key_of(study_uid), 1)
        return f"{key_of(study_uid)}-1-prediction"

    def row(self, study_uid: str = STUDY_UID) -> StudyRow:
        return self.journal.status.study(key_of(study_uid), 1)

    def state(self, key: str) -> tuple[str, int, str]:
        row = self.journal.status.study(key.split("-", maxsplit=1)[0], 1)
        (found,) = [w for w in (*row.jobs, *row.deliveries) if w.key == key]
        return found.state, found.attempts, found.last_error

    def deliver(self) -> None:
        """Handle every delivery that is due."""
        for work in self.journal.publishing.due():
            if isinstance(getattr(work, "destination", None), str):
                self.jobs.handle(work.key, work.destination)  # type: ignore[attr-defined]

    def messages(self) -> list[str]:
        """Queue and key of each message that waits."""
        folder = self.config.data_dir / "queue" / "messages"
        return sorted(
            json.loads(p.read_text("utf-8"))["headers"]["argsrepr"] for p in folder.glob("*.msg")
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def bench(**sections: dict[str, Any]) -> Bench:
        config = settings(tmp_path, **sections)
        journal = Journal(config.journal_url, clock)
        journal.migrate()
        dispatcher = Dispatcher(config, journal, make_app(config))
        outbox = Outbox(config.results_dir)
        config.spool_dir.mkdir(exist_ok=True)
        kept = FolderArchive(config.archive_dir)
        spool = SpooledInstances(config.spool_dir, ArchiveDestination(kept, originals=True))
        django, archive, pacs = Scripted(), Scripted(), Scripted()
        model = OneModel()
        process = Jobs(
            config,
            ME,
            journal,
            dispatcher,
            spool,
            outbox,
            cast(Decoder, None),
            cast(Models, model),
            {
                "django": django,
                "archive": archive,
                **{entry.name: pacs for entry in config.object_destinations},
            },
        )
        parts = (journal, dispatcher, outbox, process, django, archive, pacs, model)
        made.append(Bench(config, clock, *parts))
        return made[-1]

    yield bench
    for one in made:
        one.journal.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Analysis:
    """Route every study to one model, whose answers the test writes."""
    script = Analysis()
    monkeypatch.setattr(work_jobs, "read_headers", lambda *_: Read((), ()))
    monkeypatch.setattr(routes, "choose", lambda found, _: found[0])
    monkeypatch.setattr(
        work_jobs, "predict_study", lambda *args: script.answer(Phase.PREDICTION, args[5])
    )
    monkeypatch.setattr(
        work_jobs, "explain_study", lambda *args: script.answer(Phase.EXPLANATION, args[6])
    )
    return script


# -- the straight line -----------------------------------------------------------------------------


def test_a_study_is_predicted_explained_and_delivered(bench: Bench) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    assert bench.row().state == "predicted"
    bench.deliver()
    bench.jobs.handle(EXPLANATION, "explanation")
    bench.deliver()
    row = bench.row()
    assert (row.state, row.outcome, row.probability) == ("done", "positive", 0.9)
    assert [d.state for d in row.deliveries] == ["done"] * 4
    for destination in (bench.django, bench.archive):
        assert [d.phase for d in destination.documents] == [Phase.PREDICTION, Phase.EXPLANATION]


def test_a_parcel_names_files_and_originals_that_are_there(bench: Bench) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    bench.jobs.handle(EXPLANATION, "explanation")
    bench.deliver()
    first, second = bench.archive.parcels
    assert {n: p.read_bytes() for n, p in first.files.items()} == {"a-1.png": b"slice"}
    assert {n: p.read_bytes() for n, p in second.files.items()} == {
        "a-1.png": b"slice",
        "a-1-o.png": b"overlay",
    }
    assert [o.path for o in first.originals] == [
        bench.config.spool_dir / i.path for i in bench.journal.receiving.instances(KEY, 1)
    ]


def test_a_negative_study_needs_no_explanation(bench: Bench, model: Analysis) -> None:
    model.positive = False
    bench.jobs.handle(bench.receive(), "prediction")
    assert (bench.row().state, len(bench.row().jobs)) == ("done", 1)


def test_an_undetermined_study_is_explained_and_delivered_as_such(
    bench: Bench, model: Analysis
) -> None:
    model.positive, model.outcome = False, Outcome.UNDETERMINED
    bench.jobs.handle(bench.receive(), "prediction")
    bench.jobs.handle(EXPLANATION, "explanation")
    bench.deliver()
    assert (bench.row().state, bench.row().outcome) == ("done", "undetermined")
    for destination in (bench.django, bench.archive):
        assert [d.outcome for d in destination.documents] == [Outcome.UNDETERMINED] * 2


def test_a_negative_study_with_a_positive_slice_is_explained(bench: Bench, model: Analysis) -> None:
    model.outcome = Outcome.NEGATIVE
    bench.jobs.handle(bench.receive(), "prediction")
    assert (bench.row().state, len(bench.row().jobs)) == ("predicted", 2)


def test_a_positive_study_is_told_when_no_slice_is_to_be_explained(
    make: Callable[..., Bench],
) -> None:
    bench = make(explain={"max_explained": 0})
    bench.jobs.handle(bench.receive(), "prediction")
    assert (bench.row().state, len(bench.row().jobs)) == ("predicted", 2)


def test_a_study_that_no_route_takes_says_so_and_is_delivered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "choose", lambda *_: None)
    bench.jobs.handle(bench.receive(), "prediction")
    bench.deliver()
    (document,) = bench.django.documents
    assert document.outcome is Outcome.NOT_ANALYSED
    assert document.reason == "no instance of this study can be read"
    assert bench.row().state == "done"


def test_the_document_carries_times_and_provenance(bench: Bench, clock: Clock) -> None:
    clock.forward(5)
    bench.jobs.handle(bench.receive(), "prediction")
    bench.deliver()
    clock.forward(60)
    bench.jobs.handle(EXPLANATION, "explanation")
    bench.deliver()
    first, second = bench.django.documents
    assert first.timings.received == "2026-01-02T03:04:10.000Z"
    assert first.timings.predicted == second.timings.predicted == "2026-01-02T03:04:10.000Z"
    assert (first.timings.explained, second.timings.explained) == (
        None,
        "2026-01-02T03:05:10.000Z",
    )
    assert first.provenance.config_sha256 == bench.config.sha256()


def test_the_result_is_on_the_disk_before_it_is_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.journal.work.commit

    def commit(*args: Any, **more: Any) -> bool:
        assert bench.outbox.read(KEY, 1, Phase.PREDICTION)
        return real(*args, **more)

    monkeypatch.setattr(bench.journal.work, "commit", commit)
    bench.jobs.handle(bench.receive(), "prediction")
    assert bench.row().state == "predicted"


# -- messages --------------------------------------------------------------------------------------


def test_the_same_message_again_does_nothing(bench: Bench, model: Analysis) -> None:
    key = bench.receive()
    for _ in range(3):
        bench.jobs.handle(key, "prediction")
    assert model.calls == ["prediction"]


@pytest.mark.parametrize(
    ("key", "lane"),
    [("nothing", "prediction"), ("", "archive"), (PREDICTION, "archive"), (PREDICTION, "nowhere")],
)
def test_a_message_that_means_nothing_is_dropped(
    bench: Bench, model: Analysis, key: str, lane: str
) -> None:
    bench.receive()
    with capture_logs():
        bench.jobs.handle(key, lane)
    assert model.calls == []
    assert bench.state(PREDICTION)[0] == "queued"


def test_a_message_to_a_full_lane_is_dropped_and_rung_again(
    make: Callable[..., Bench], model: Analysis
) -> None:
    bench = make(worker={"predict_slots": 1})
    first, second = bench.receive(), bench.receive("1.2.3")
    model.gate = threading.Event()
    busy = threading.Thread(target=bench.jobs.handle, args=(first, "prediction"))
    busy.start()
    assert model.entered.acquire(timeout=10)
    bench.jobs.handle(second, "prediction")  # returns at once
    assert bench.state(second)[0] == "queued"
    assert bench.messages() == []
    model.gate.set()
    busy.join()
    assert bench.messages() == [f"['{second}', 'prediction']"]
    bench.jobs.handle(second, "prediction")
    assert model.calls == ["prediction"] * 2


def test_a_backlog_of_explanations_does_not_hold_up_a_prediction(
    make: Callable[..., Bench], model: Analysis
) -> None:
    bench = make(worker={"explain_slots": 1})
    bench.jobs.handle(bench.receive(), "prediction")
    assert model.entered.acquire(timeout=10)
    model.gate = threading.Event()
    busy = threading.Thread(target=bench.jobs.handle, args=(EXPLANATION, "explanation"))
    busy.start()
    assert model.entered.acquire(timeout=10)
    gate, model.gate = model.gate, None
    bench.jobs.handle(bench.receive("1.2.3"), "prediction")
    assert bench.row("1.2.3").state == "predicted"
    gate.set()
    busy.join()


def test_every_lane_has_the_slots_of_its_setting(tmp_path: Path) -> None:
    config = settings(tmp_path, worker={"predict_slots": 4, "explain_slots": 2, "deliver_slots": 3})
    sizes = {"prediction": 4, "explanation": 2, "django": 3, "archive": 3}
    assert lanes(config, ["django", "archive"]) == sizes
    shadow = {"name": "try", "modality": "CT", "bundle": "b", "shadow": True}
    config = settings(tmp_path, route=[shadow])
    assert lanes(config, [])["shadow"] == 1


def test_a_worker_of_some_lanes_has_slots_for_no_other(tmp_path: Path) -> None:
    shadow = {"name": "try", "modality": "CT", "bundle": "b", "shadow": True}

    def taken(*names: str, to: tuple[str, ...] = ()) -> set[str]:
        config = settings(tmp_path, worker={"lanes": names}, route=[shadow])
        return set(lanes(config, to))

    assert taken("predict") == {"prediction", "shadow"}
    assert taken("explain") == {"explanation"}
    assert taken("deliver", to=("django", "archive")) == {"django", "archive"}


def test_a_worker_asks_for_work_for_every_slot_when_it_starts(
    make: Callable[..., Bench], clock: Clock
) -> None:
    """Whatever was sent to the worker before it, and died with it."""
    bench = make(worker={"predict_slots": 2})
    keys = []
    for n in range(3):
        keys.append(bench.receive(f"1.2.{n}"))
        clock.forward(1)
    for _ in range(5):
        bench.dispatcher.sweep()
        clock.forward(600)
    for path in (bench.config.data_dir / "queue" / "messages").glob("*.msg"):
        path.unlink()
    bench.jobs.ring()
    assert bench.messages() == sorted(f"['{key}', 'prediction']" for key in keys[:2])


# -- failures of jobs ------------------------------------------------------------------------------


def test_what_may_work_later_is_postponed_with_its_reason(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    model.errors = [Transient("the model did not answer")]
    key = bench.receive()
    bench.jobs.handle(key, "prediction")
    assert bench.state(key) == ("queued", 1, "the model did not answer")
    bench.jobs.handle(key, "prediction")
    assert model.calls == ["prediction"]  # not due yet
    clock.forward(2)
    bench.jobs.handle(key, "prediction")
    assert bench.state(key)[:2] == ("done", 2)


def test_what_can_never_work_is_dead_at_once_and_told_to_everybody(
    bench: Bench, model: Analysis
) -> None:
    model.errors = [EngineError("the model failed")]
    key = bench.receive()
    bench.jobs.handle(key, "prediction")
    assert bench.state(key) == ("dead", 1, "prediction failed: the model failed")
    assert (bench.row().state, bench.row().outcome) == ("failed", "not_analysed")
    bench.deliver()
    for destination in (bench.django, bench.archive):
        (document,) = destination.documents
        assert document.outcome is Outcome.NOT_ANALYSED
        assert document.reason == "prediction failed: the model failed"
        assert document.study.study_uid == STUDY_UID


def test_a_job_that_fails_each_time_is_dead_after_its_attempts(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    model.errors = [Transient("full")] * 10
    key = bench.receive()
    for _ in range(5):
        bench.jobs.handle(key, "prediction")
        clock.forward(3600)
    assert bench.state(key) == ("dead", 3, "prediction failed: full")
    assert len(model.calls) == 3


def test_a_job_that_kills_its_worker_is_dead_after_its_attempts(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    key = bench.receive()
    for n in range(3):
        assert bench.journal.work.claim(Job, key, f"host:{n}:gone", 30)
        clock.forward(31)
    bench.jobs.handle(key, "prediction")
    assert model.calls == []
    assert bench.state(key)[0] == "dead"
    assert "died in each of 3 attempts" in bench.state(key)[2]
    bench.deliver()
    assert [d.outcome for d in bench.django.documents] == [Outcome.NOT_ANALYSED]


def test_a_delivery_that_kills_its_worker_is_dead_after_its_attempts(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    model.positive = False
    bench.jobs.handle(bench.receive(), "prediction")
    key = f"{PREDICTION}-archive"
    for n in range(3):
        assert bench.journal.work.claim(Delivery, key, f"gone{n}", 30)
        clock.forward(31)
    bench.deliver()
    assert bench.archive.parcels == []
    assert bench.state(key)[::2] == ("dead", "the worker died in each of 3 attempts")
    assert bench.state(f"{PREDICTION}-django")[0] == "done"


def test_attempts_that_failed_and_that_were_lost_are_told_apart(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    key = bench.receive()
    model.errors = [Transient("full")]
    bench.jobs.handle(key, "prediction")
    for n in range(2):
        clock.forward(60)
        assert bench.journal.work.claim(Job, key, f"gone{n}", 30)
    clock.forward(60)
    bench.jobs.handle(key, "prediction")
    assert "3 attempts failed; the worker died in 2 of them" in bench.state(key)[2]


def test_attempts_that_were_given_back_are_not_counted(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    """Five restarts in a row during one long job."""
    key = bench.receive()
    for n in range(5):
        assert bench.journal.work.claim(Job, key, f"restarted{n}", 30)
        assert bench.journal.work.release(f"restarted{n}") == 1
    bench.jobs.handle(key, "prediction")
    assert bench.state(key)[:2] == ("done", 1)


def test_of_work_that_its_worker_did_not_outlive_a_lane_runs_one_at_a_time(
    make: Callable[..., Bench], model: Analysis, clock: Clock
) -> None:
    """What kills its worker must not take others with it, again and again."""
    bench = make(worker={"predict_slots": 4})
    first, second, fresh = bench.receive(), bench.receive("1.2.3"), bench.receive("1.2.4")
    for key in (first, second):
        assert bench.journal.work.claim(Job, key, "gone", 30)
    assert bench.journal.work.release_dead("gone") == 2
    model.gate = threading.Event()
    busy = threading.Thread(target=bench.jobs.handle, args=(first, "prediction"))
    busy.start()
    assert model.entered.acquire(timeout=10)
    bench.jobs.handle(second, "prediction")
    assert bench.state(second)[:2] == ("queued", 1)
    beside = threading.Thread(target=bench.jobs.handle, args=(fresh, "prediction"))
    beside.start()
    assert model.entered.acquire(timeout=10)
    model.gate.set()
    busy.join()
    beside.join()
    clock.forward(5)
    bench.jobs.handle(second, "prediction")
    assert [bench.state(key)[0] for key in (first, second, fresh)] == ["done"] * 3


def test_the_text_of_a_foreign_exception_stays_out_of_the_journal(
    bench: Bench, model: Analysis
) -> None:
    model.errors = [RuntimeError("Doe^Jane")]
    key = bench.receive()
    with capture_logs():
        bench.jobs.handle(key, "prediction")
    assert bench.state(key) == ("queued", 1, "RuntimeError (see log)")


def test_a_dead_explanation_leaves_the_prediction_as_it_is(bench: Bench, model: Analysis) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    model.errors = [EngineError("the model is gone")]
    bench.jobs.handle(EXPLANATION, "explanation")
    assert bench.state(EXPLANATION) == ("dead", 1, "explanation failed: the model is gone")
    assert (bench.row().state, bench.row().outcome) == ("failed", "positive")
    bench.deliver()
    last = bench.django.documents[-1]
    assert (last.phase, last.outcome) == (Phase.EXPLANATION, Outcome.POSITIVE)
    assert "explanation failed: the model is gone" in last.reason


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_an_explanation_without_its_prediction_ends_all_the_same(
    bench: Bench, clock: Clock, damage: str
) -> None:
    """The prediction's files are gone or damaged: not even giving up can read them."""
    bench.jobs.handle(bench.receive(), "prediction")
    path = bench.outbox.objects(KEY) / "1" / "prediction" / "result.json"
    path.unlink() if damage == "removed" else path.write_bytes(b"{")
    with capture_logs():
        for _ in range(5):
            bench.jobs.handle(EXPLANATION, "explanation")
            clock.forward(3600)
    assert bench.state(EXPLANATION)[0] == "dead"
    assert (bench.row().state, bench.row().outcome) == ("failed", "positive")
    (document,) = [
        Result.from_json(bench.outbox.read(KEY, 1, Phase.EXPLANATION)[1]),
    ]
    assert (document.phase, document.outcome) == (Phase.EXPLANATION, Outcome.POSITIVE)
    assert "explanation failed" in document.reason


def test_a_result_of_a_lost_lease_is_not_committed(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    key = bench.receive()
    model.gate = threading.Event()
    slow = threading.Thread(target=bench.jobs.handle, args=(key, "prediction"))
    with capture_logs() as logs:
        slow.start()
        assert model.entered.acquire(timeout=10)
        clock.forward(31)
        assert bench.journal.work.claim(Job, key, "host:2:other", 30)
        model.gate.set()
        slow.join()
    assert "work.lease_lost" in [x["event"] for x in logs]
    assert bench.row().deliveries == ()
    assert bench.journal.work.owners() == {"host:2:other"}


# -- a journal that is away ------------------------------------------------------------------------


def fail_once(monkeypatch: pytest.MonkeyPatch, journal: Journal, *names: str) -> None:
    """Make the next call of each method fail as if the database were away."""
    parts = (journal.work, journal.publishing, journal.status, journal.receiving)
    for name in names:
        part = next(p for p in parts if hasattr(p, name))

        def away(*_: Any, _again: tuple[Any, ...] = (part, name, getattr(part, name)), **__: Any):
            monkeypatch.setattr(*_again)
            raise JournalAway("the journal is away")

        monkeypatch.setattr(part, name, away)


def test_a_study_that_a_version_looks_at_while_it_is_taken_back_is_looked_at_by_the_one_before(
    bench: Bench, model: Analysis
) -> None:
    key, deployments = bench.receive(), bench.journal.deployments
    bench.journal.workers.seen(WorkerSign(ME, "here", "0", ("prediction",)), 1e6)
    made = []
    for version, digest in (("1.0", "a" * 64), ("2.0", "b" * 64)):
        made.append(deployments.ask("heads", version, digest, 100, "anna"))
        deployments.report(ME, [Holding(ME, "heads", made[-1].id, HoldingState.READY)])
    bench.chosen.deployment = made[-1].id
    model.gate = threading.Event()
    running = threading.Thread(target=bench.jobs.handle, args=(key, "prediction"))
    running.start()
    assert model.entered.acquire(timeout=20)
    deployments.take_back("heads", "anna")
    model.gate.set()
    running.join(20)
    state, attempts, error = bench.state(key)
    assert (state, attempts) == ("queued", 0)
    assert "was taken back while it looked at this study" in error
    assert (bench.row().outcome, bench.row().deliveries) == (None, ())
    (serving,) = deployments.serving("heads")
    bench.chosen.deployment = serving.id
    bench.jobs.handle(key, "prediction")
    assert (bench.state(key)[0], bench.row().outcome) == ("done", "positive")
    assert model.calls == ["prediction", "prediction"]


def test_a_result_waits_for_a_journal_that_goes_away_as_it_is_committed(
    bench: Bench, model: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bench.receive()
    fail_once(monkeypatch, bench.journal, "commit", "holds")
    bench.jobs.handle(key, "prediction")
    assert bench.state(key)[:2] == ("done", 1)
    assert model.calls == ["prediction"]


def test_a_journal_that_goes_away_again_and_again_costs_no_attempt(
    bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bench.receive()
    for _ in range(5):
        fail_once(monkeypatch, bench.journal, "study", "give_back")
        with capture_logs():
            bench.jobs.handle(key, "prediction")
        assert bench.state(key)[:2] == ("queued", 0)
        clock.forward(2)
    bench.jobs.handle(key, "prediction")
    assert bench.state(key)[:2] == ("done", 1)


def test_a_claim_that_was_written_without_an_answer_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, claim = bench.receive(), bench.journal.work.claim

    def unanswered(*args: Any) -> None:
        claim(*args)
        raise JournalAway("the journal is away")

    monkeypatch.setattr(bench.journal.work, "claim", unanswered)
    with capture_logs():
        bench.jobs.handle(key, "prediction")
    assert bench.state(key)[:2] == ("queued", 0)
    assert [key in message for message in bench.messages()] == [True]


def test_a_delivery_that_arrived_while_the_journal_went_away_is_not_made_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    fail_once(monkeypatch, bench.journal, "delivered")
    bench.deliver()
    assert len(bench.django.parcels) == 1
    assert deliveries(bench)["django"][:2] == ("done", 1)


def test_a_journal_that_is_away_is_not_taken_for_a_destination_that_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    fail_once(monkeypatch, bench.journal, "instances")
    with capture_logs():
        bench.jobs.handle(f"{PREDICTION}-archive", "archive")
    assert bench.journal.status.queues()["archive"].away_s is None
    assert deliveries(bench)["archive"][:2] == ("queued", 0)


def test_who_is_told_to_end_waits_for_no_journal(
    bench: Bench, model: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be told is no longer held: its lease ends, and the sweep starts it again."""
    key, asked = bench.receive(), threading.Semaphore(0)

    def away(*_: Any, **__: Any) -> None:
        asked.release()
        raise JournalAway("the journal is away")

    monkeypatch.setattr(bench.journal.work, "commit", away)
    monkeypatch.setattr(bench.journal.work, "give_back", away)
    busy = threading.Thread(target=bench.jobs.handle, args=(key, "prediction"))
    with capture_logs():
        busy.start()
        assert asked.acquire(timeout=10)
        assert bench.jobs.drain(10)
        busy.join()
    assert bench.jobs.held() == []
    assert bench.state(key)[0] == "running"


def test_what_is_worked_on_is_held(bench: Bench, model: Analysis) -> None:
    key = bench.receive()
    model.gate = threading.Event()
    busy = threading.Thread(target=bench.jobs.handle, args=(key, "prediction"))
    busy.start()
    assert model.entered.acquire(timeout=10)
    assert bench.jobs.held() == [key]
    model.gate.set()
    busy.join()
    assert bench.jobs.held() == []


@pytest.mark.parametrize("call", ["claim", "study", "instances", "waiting"])
def test_a_journal_that_is_away_for_a_moment_loses_nothing(
    bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    key = bench.receive()
    fail_once(monkeypatch, bench.journal, call)
    with capture_logs():
        bench.jobs.handle(key, "prediction")
    clock.forward(60)
    bench.jobs.handle(key, "prediction")
    assert bench.state(key)[0] == "done"


# -- deliveries ------------------------------------------------------------------------------------


def deliveries(bench: Bench) -> dict[str, tuple[str, int, str]]:
    return {d.destination: (d.state, d.attempts, d.last_error) for d in bench.row().deliveries}


def test_a_destination_that_is_away_never_blocks_another(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    model.positive = False
    bench.django.errors = [Unreachable("the web server is away")] * 3
    bench.jobs.handle(bench.receive(), "prediction")
    bench.deliver()
    assert deliveries(bench) == {
        "django": ("queued", 1, "the web server is away"),
        "archive": ("done", 1, ""),
    }
    for _ in range(3):
        clock.forward(60)
        bench.deliver()
    assert deliveries(bench)["django"] == ("done", 4, "")
    assert len(bench.archive.parcels) == 1


def test_a_destination_that_hangs_never_blocks_another(
    make: Callable[..., Bench], model: Analysis
) -> None:
    bench = make(worker={"deliver_slots": 1})
    model.positive = False
    bench.jobs.handle(bench.receive(), "prediction")
    bench.django.gate = threading.Event()
    stuck = threading.Thread(target=bench.jobs.handle, args=(f"{PREDICTION}-django", "django"))
    stuck.start()
    assert bench.django.entered.acquire(timeout=10)
    bench.jobs.handle(f"{PREDICTION}-archive", "archive")
    assert len(bench.archive.parcels) == 1
    bench.django.gate.set()
    stuck.join()


def test_a_destination_that_refuses_ends_the_delivery_with_its_reason(
    bench: Bench, model: Analysis
) -> None:
    model.positive = False
    bench.django.errors = [Rejected("results server answered 409")]
    bench.jobs.handle(bench.receive(), "prediction")
    bench.deliver()
    assert deliveries(bench)["django"] == ("dead", 1, "results server answered 409")
    assert bench.row().state == "done"


def test_a_destination_is_tried_for_a_week_and_no_longer(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    model.positive = False
    bench.django.errors = [Unreachable("away")] * 20
    bench.jobs.handle(bench.receive(), "prediction")
    for _ in range(8):
        bench.deliver()
        clock.forward(86_000)
    assert deliveries(bench)["django"][0] == "queued"
    clock.forward(86_400)
    bench.deliver()
    assert deliveries(bench)["django"] == ("dead", 9, "away")


def test_a_bug_in_a_destination_is_tried_as_often_as_a_job(
    bench: Bench, model: Analysis, clock: Clock
) -> None:
    model.positive = False
    bench.django.errors = [RuntimeError("bug")] * 20
    bench.jobs.handle(bench.receive(), "prediction")
    with capture_logs():
        for _ in range(5):
            bench.deliver()
            clock.forward(3600)
    assert deliveries(bench)["django"] == ("dead", 3, "RuntimeError (see log)")


def test_the_end_of_a_delivery_rings_for_the_next_of_its_lane(
    bench: Bench, model: Analysis
) -> None:
    model.positive = False
    for uid in (STUDY_UID, "1.2.3"):
        bench.jobs.handle(bench.receive(uid), "prediction")
    bench.jobs.handle(f"{PREDICTION}-archive", "archive")
    assert f"['{key_of('1.2.3')}-1-prediction-archive', 'archive']" in bench.messages()


# -- the end ---------------------------------------------------------------------------------------


def test_draining_waits_for_what_runs_and_takes_nothing_new(bench: Bench, model: Analysis) -> None:
    first, second = bench.receive(), bench.receive("1.2.3")
    model.gate = threading.Event()
    busy = threading.Thread(target=bench.jobs.handle, args=(first, "prediction"))
    busy.start()
    assert model.entered.acquire(timeout=10)
    assert not bench.jobs.drain(0.01)
    bench.jobs.handle(second, "prediction")
    assert bench.state(second)[:2] == ("queued", 0)
    model.gate.set()
    assert bench.jobs.drain(10)
    busy.join()
    assert bench.state(first)[0] == "done"


def test_draining_an_idle_process_takes_no_time(bench: Bench) -> None:
    assert bench.jobs.drain(0)


def test_handle_never_raises(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery would send the message again at once, and again."""
    key = bench.receive()

    def bug(*_: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(bench.journal.work, "claim", bug)
    with capture_logs() as logs:
        bench.jobs.handle(key, "prediction")
    assert [x["event"] for x in logs] == ["work.fault"]
    until(lambda: bench.jobs.drain(0), 5, "the slot to be free")


# -- a PACS ----------------------------------------------------------------------------------------

PACS = {"pacs": [{"name": "main-pacs", "ae_title": "PACS", "host": "pacs.example.org"}]}


def test_how_a_delivery_to_a_pacs_stands_is_told_to_the_results_server(
    make: Callable[..., Bench], model: Analysis
) -> None:
    model.positive = False
    bench = make(destination=PACS)
    key = bench.receive()
    bench.pacs.receipt = Receipt(WorkState.SENT, "segmentation refused", 3600)
    bench.jobs.handle(key, "prediction")
    bench.deliver()
    assert bench.state(f"{key}-main-pacs") == ("sent", 1, "segmentation refused")
    bench.deliver()
    told = json.loads(bench.django.parcels[-1].update)
    assert (told["destination"], told["state"], told["phase"]) == (
        "main-pacs",
        "sent",
        "prediction",
    )
    assert (told["study_uid"], told["reason"]) == (STUDY_UID, "segmentation refused")
    bench.deliver()
    assert len(bench.django.parcels) == 2


def test_a_pacs_that_rejects_this_node_is_told_and_waits_for_a_person(
    make: Callable[..., Bench], model: Analysis
) -> None:
    model.positive = False
    bench = make(destination=PACS)
    key = bench.receive()
    bench.pacs.errors = [Unwelcome("PACS rejected LIMEN")]
    bench.jobs.handle(key, "prediction")
    for _ in range(3):
        bench.deliver()
        bench.clock.forward(8 * 86400)
    assert bench.state(f"{key}-main-pacs") == ("queued", 1, "PACS rejected LIMEN")
    assert json.loads(bench.django.parcels[-1].update)["state"] == "rejected"
    assert bench.journal.work.ask_again("main-pacs")
    bench.deliver()
    assert bench.state(f"{key}-main-pacs")[0] == "done"


def test_a_parcel_for_a_pacs_brings_the_result_and_builds_its_objects_once(
    make: Callable[..., Bench], model: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def build(*args: object, **_: object) -> Objects:
        calls.append(args)
        body = Built(Kind.SR, "1.2", "1.2.3", "1.2.4", b"the report")
        return Objects((body,), (Refused(Kind.KO, "it lacks Modality"),))

    monkeypatch.setattr(sendable, "build", build)
    model.positive = False
    bench = make(destination=PACS)
    key = bench.receive()
    bench.jobs.handle(key, "prediction")
    bench.deliver()
    (parcel,) = bench.pacs.parcels
    assert (parcel.delivery, parcel.result) == (
        f"{key}-main-pacs",
        Result.from_json(parcel.document),
    )
    for _ in range(2):
        report, unsound = parcel.objects(frozenset({"sr", "ko"}))
    assert len(calls) == 1
    assert report.path is not None
    assert report.path.read_bytes() == b"the report"
    assert (report.kind, report.sop_uid) == ("sr", "1.2.3")
    assert (unsound.kind, unsound.path, unsound.fault) == ("ko", None, "it lacks Modality")


def test_a_study_whose_files_are_lost_is_replayed_from_the_archive(
    make: Callable[..., Bench], model: Analysis, tmp_path: Path
) -> None:
    model.positive = False
    bench = make()
    key = bench.receive()
    (first, second) = bench.journal.receiving.instances(KEY, 1)
    body = bytes(140) + (4).to_bytes(4, "little") + b"meta" + b"content"
    digest = hashlib.sha256(b"content").hexdigest()
    archive = FolderArchive(tmp_path / "kept")
    archive.put(f"{KEY}/instances/{first.sop_key}-{first.digest[:16]}.dcm", Content(body))
    spool = SpooledInstances(bench.config.spool_dir, ArchiveDestination(archive, originals=True))
    bench.jobs._instances = spool
    path = bench.config.spool_dir / first.path
    bench.jobs.handle(key, "prediction")
    assert not path.exists()  # these are other bytes than the journal knows
    assert first.digest != digest
    archive.put(f"{KEY}/instances/{first.sop_key}-{digest[:16]}.dcm", Content(body))
    spool.of(KEY, [replace(first, digest=digest)])
    assert path.read_bytes() == body
    assert not (bench.config.spool_dir / second.path).exists()


def test_a_destination_that_says_when_to_come_back_is_not_asked_before(
    bench: Bench, clock: Clock
) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    bench.django.errors = [Unreachable("answered 429", 120.0)]
    bench.deliver()
    clock.forward(119)
    bench.deliver()
    assert bench.django.documents == []
    clock.forward(2)
    bench.deliver()
    assert len(bench.django.documents) == 1


def test_what_need_not_be_sent_says_nothing_of_a_destination_that_is_away(
    bench: Bench, clock: Clock
) -> None:
    for uid in ("1.2.3", "1.2.4"):
        bench.jobs.handle(bench.receive(uid), "prediction")
    bench.django.errors = [Unreachable("away")]
    bench.deliver()
    clock.forward(60)
    bench.django.receipt = Receipt(note="not sent", reached=False)
    bench.deliver()
    away = bench.journal.status.queues()["django"].away_s
    assert away is not None
    # And the next one may ask at once: nobody has.
    keys = [f"{key_of(uid)}-1-prediction-django" for uid in ("1.2.3", "1.2.4")]
    claimed = [bench.journal.work.claim(Delivery, key, "b", 30.0) for key in keys]
    assert len([one for one in claimed if one is not None]) == 1


def test_without_the_spool_a_worker_delivers_all_that_needs_no_originals(bench: Bench) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    bench.config.spool_dir.rename(bench.config.data_dir / "unmounted")
    bench.deliver()
    assert deliveries(bench)["django"] == ("done", 1, "")
    state, attempts, reason = deliveries(bench)["archive"]
    assert (state, attempts) == ("queued", 0)
    assert "there is no spool on this host" in reason


# -- from the archive ------------------------------------------------------------------------------


ELSEWHERE = {"worker": {"source": "archive"}}


def test_originals_are_brought_to_the_archive_before_a_study_is_predicted(
    make: Callable[..., Bench],
) -> None:
    bench = make(**ELSEWHERE)
    bench.journal.receiving.record([new_instance(1, at=bench.clock.now)])
    bench.journal.receiving.complete(KEY, 1, originals_first=True)
    bench.deliver()
    (parcel,) = bench.archive.parcels
    assert (parcel.document, len(parcel.originals), parcel.files) == (b"", 1, {})
    assert bench.django.parcels == []
    bench.jobs.handle(PREDICTION, "prediction")
    bench.deliver()
    assert bench.archive.parcels[-1].originals == ()
    assert bench.row().outcome == "positive"


def test_work_whose_instances_cannot_be_had_waits_and_counts_no_attempt(
    make: Callable[..., Bench], model: Analysis
) -> None:
    bench = make(queue={"max_attempts": 1, "probe_s": 10})
    key = bench.receive()
    model.errors = [Delayed("bucket b answered 503")] * 3
    for _ in range(3):
        bench.jobs.handle(key, "prediction")
        assert bench.state(key) == ("queued", 0, "bucket b answered 503")
        bench.clock.forward(11)
    bench.jobs.handle(key, "prediction")
    assert bench.row().outcome == "positive"


def test_a_delivery_whose_result_cannot_be_had_waits_and_its_destination_is_not_away(
    bench: Bench,
) -> None:
    bench.jobs.handle(bench.receive(), "prediction")
    bench.django.errors = [Delayed("bucket b answered 503")]
    key = f"{PREDICTION}-django"
    bench.jobs.handle(key, "django")
    assert bench.state(key) == ("queued", 0, "bucket b answered 503")
    assert bench.journal.status.queues()["django"].away_s is None


def test_work_that_has_waited_a_week_is_given_up_with_the_reason(
    bench: Bench, model: Analysis
) -> None:
    key = bench.receive()
    bench.clock.forward(8 * 86400)
    model.errors = [Delayed("bucket b answered 503")]
    bench.jobs.handle(key, "prediction")
    row = bench.row()
    assert (row.state, row.outcome) == ("failed", "not_analysed")
    assert "bucket b answered 503" in row.reason
