"""worker.work.jobs: a bundle in shadow looks beside the route; nobody is shown what it says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from limen.broker import make_app
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import Transient
from limen.instance import NewInstance
from limen.journal import Delivery, Journal, Shadow
from limen.result import Outcome, Result
from limen.uids import key_of
from tests.support import synthetic
from tests.support.samples import Clock, new_instance, settings
from worker.destinations import Parcel
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study import shadow
from worker.work.instances import SpooledInstances
from worker.work.jobs import Jobs
from worker.work.models import Chosen, Models
from worker.work.outbox import Outbox

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # Google's client misses an optional package
    from worker.destinations.archive import ArchiveDestination, digest_of
    from worker.destinations.folder import FolderArchive

KEY = key_of(synthetic.STUDY)
SHADOW, ARCHIVED = f"{KEY}-1-shadow1", f"{KEY}-1-shadow1-archive"
ROUTES = [
    {"name": "try", "modality": "CT", "bundle": "candidate", "shadow": True},
    {"name": "any", "modality": "CT", "bundle": "shown"},
]


@dataclass
class Bundles:
    """One engine under the names of two bundles."""

    engine: Engine
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def for_study(self, name: str, _: str) -> Iterator[Chosen]:
        self.asked.append(name)
        yield Chosen(synthetic.fake_bundle(name=name), self.engine)


@dataclass
class Recorder:
    """A destination that keeps what it is given."""

    parcels: list[Parcel] = field(default_factory=list)

    def deliver(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)


@dataclass
class Node:
    """A worker in parts, with a study that has a lesion and waits for its prediction."""

    config: Config
    clock: Clock
    journal: Journal
    bundles: Bundles
    web: Recorder
    jobs: Jobs

    def run(self, *keys: str) -> None:
        """Handle what is named, or else all that is due."""
        for work in self.journal.publishing.due():
            if not keys or work.key in keys:
                self.jobs.handle(work.key, work.lane)

    def state(self, key: str) -> tuple[str, str]:
        row = self.journal.status.study(KEY, 1)
        (found,) = [w for w in (*row.jobs, *row.shadows, *row.deliveries) if w.key == key]
        return found.state, found.last_error

    @property
    def archived(self) -> list[str]:
        folder = self.config.archive_dir / KEY / "results"
        return sorted(p.name for p in folder.iterdir())


def _kept(path: Path, number: int, clock: Clock) -> NewInstance:
    row = new_instance(number, synthetic.STUDY, at=clock.now)
    return replace(
        row, path=path.name, sop_uid=f"{synthetic.SERIES}.{number}", digest=digest_of(path)
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path, decoder: Decoder, clock: Clock) -> Iterator[Node]:
    config = settings(tmp_path, route=ROUTES)
    config.spool_dir.mkdir(parents=True)
    paths = synthetic.series(config.spool_dir, 3, lesion_in=(2,))
    journal = Journal(config.journal_url, clock)
    journal.migrate()
    journal.receiving.record([_kept(p, n, clock) for n, p in enumerate(paths, start=1)])
    journal.receiving.complete(KEY, 1)
    web = Recorder()
    archive = ArchiveDestination(FolderArchive(config.archive_dir), originals=False)
    with Engine(synthetic.fake_bundle(), backend=synthetic.BrightBlood()) as engine:
        bundles = Bundles(engine)
        jobs = Jobs(
            config,
            "me",
            journal,
            Dispatcher(config, journal, make_app(config)),
            SpooledInstances(config.spool_dir, archive),
            Outbox(config.results_dir),
            decoder,
            cast(Models, bundles),
            {"archive": archive, "django": web},
        )
        yield Node(config, clock, journal, bundles, web, jobs)
    journal.close()


def test_a_shadow_is_archived_and_never_sent_to_the_results_server(node: Node) -> None:
    node.run(f"{KEY}-1-prediction")
    node.run(SHADOW, f"{KEY}-1-prediction-archive", f"{KEY}-1-prediction-django")
    node.run(ARCHIVED)
    kept = node.config.results_dir / KEY / "1" / "shadow-candidate" / "result.json"
    result = Result.from_json(kept.read_bytes())
    assert result.outcome is Outcome.POSITIVE
    assert result.model is not None
    assert result.model.name == "candidate"
    assert result.file_names() == []
    assert node.archived == ["1-prediction", "1-shadow-candidate"]
    (archived,) = (node.config.archive_dir / KEY / "results" / "1-shadow-candidate").iterdir()
    assert archived.read_bytes() == kept.read_bytes()
    assert {p.shadow for p in node.web.parcels} == {""}
    assert all(b"candidate" not in p.document for p in node.web.parcels)
    assert node.state(SHADOW)[0] == node.state(ARCHIVED)[0] == "done"


def test_the_study_has_its_finding_before_a_shadow_looks(node: Node) -> None:
    node.run(f"{KEY}-1-prediction")
    assert node.bundles.asked == ["shown"]
    assert node.journal.status.study(KEY, 1).outcome == "positive"
    assert node.state(SHADOW) == ("queued", "")


def test_a_shadow_that_fails_holds_up_no_delivery_and_is_given_up(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> Any:
        raise Transient("the engine is full")

    monkeypatch.setattr(shadow, "run", busy)
    node.run(f"{KEY}-1-prediction")
    with capture_logs():
        for _ in range(5):
            node.run(SHADOW, f"{KEY}-1-prediction-archive", f"{KEY}-1-prediction-django")
            node.clock.forward(60)
    assert node.state(SHADOW) == ("dead", "the engine is full")
    assert node.state(f"{KEY}-1-prediction-archive")[0] == "done"
    assert node.archived == ["1-prediction"]


def test_a_shadow_that_kills_its_worker_is_given_up(node: Node) -> None:
    node.run(f"{KEY}-1-prediction")
    for n in range(3):
        assert node.journal.work.claim(Shadow, SHADOW, f"gone{n}", 30)
        node.clock.forward(31)
    node.run(SHADOW)
    assert node.bundles.asked == ["shown"]
    assert node.state(SHADOW) == ("dead", "the worker died in each of 3 attempts")
    assert node.journal.status.study(KEY, 1).outcome == "positive"


def test_what_a_shadow_said_is_not_asked_again_when_its_end_was_not_committed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.run(f"{KEY}-1-prediction")
    real = node.journal.work.commit_shadow

    def away(*_: Any) -> bool:
        monkeypatch.setattr(node.journal.work, "commit_shadow", real)
        raise Transient("the journal is away")

    monkeypatch.setattr(node.journal.work, "commit_shadow", away)
    with capture_logs():
        node.run(SHADOW)
    node.clock.forward(60)
    node.run(SHADOW)
    assert node.bundles.asked == ["shown", "candidate", "candidate"]
    assert node.state(SHADOW)[0] == "done"


def test_a_route_that_is_no_longer_in_shadow_ends_what_it_left(node: Node, tmp_path: Path) -> None:
    node.run(f"{KEY}-1-prediction")
    node.jobs._config = settings(tmp_path, route=ROUTES[1:])
    with capture_logs():
        node.run(SHADOW)
    assert node.state(SHADOW) == ("dead", "no route in shadow is called try any more")


def test_a_delivery_whose_document_is_not_here_waits_for_who_has_it(node: Node) -> None:
    node.run(f"{KEY}-1-prediction")
    node.run(SHADOW)
    (node.config.results_dir / KEY / "1" / "shadow-candidate" / "result.json").unlink()
    with capture_logs():
        node.run(ARCHIVED)
    state, error = node.state(ARCHIVED)
    assert state == "queued"
    assert "are not here" in error
    assert node.journal.work.claim(Delivery, ARCHIVED, "other", 30) is None
