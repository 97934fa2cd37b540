"""I2, I3, I4, I10: workers on hosts that share broker, database and bucket, and no folder.

Each host has a network of its own. On the first are receiver, results server, a worker that
delivers, RabbitMQ, PostgreSQL and the emulator of a bucket; on two others a worker each that
predicts and explains, with nothing but its settings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import copy_study, until
from tests.support.ports import free_ports
from tests.support.site import FIRST, Services, Site, services
from worker.destinations.registry import archive

# Google's library leaves sockets to the garbage collector, and asks for another one of its own.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings(
        "ignore:unclosed:ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:Please install grpcio-status:ImportWarning",
    ),
]

BUCKET = "hospital"
LEASE_S = 10.0
SECOND, THIRD = "second", "third"
ENDLESS = {"LIMEN_EXPLAIN__MODE": "reference", "LIMEN_EXPLAIN__SAMPLES": "100000"}
"""An explanation that is still being made when the cable of its host is pulled."""
SHORT = {"LIMEN_EXPLAIN__MAX_EXPLAINED": "1", "LIMEN_EXPLAIN__SAMPLES": "20"}
"""One that is made beside it, on the same cores."""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Services]:
    with services(tmp_path, SECOND, THIRD) as made:
        yield made


@pytest.fixture
def site(shared: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with ExitStack() as stack:
        address, (port,) = shared.network.address(FIRST), free_ports(1)
        bucket = create_server(address, port, in_memory=True, default_bucket=BUCKET)
        bucket.start()
        stack.callback(bucket.stop)
        url = f"http://{address}:{port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        made = Site(
            shared,
            tmp_path,
            "limen",
            {SECOND: ENDLESS, THIRD: SHORT},
            STORAGE_EMULATOR_HOST=url,
            LIMEN_QUEUE__LEASE_S=str(LEASE_S),
            LIMEN_DESTINATION__ARCHIVE__BUCKET=BUCKET,
        )
        stack.callback(made.close)
        made.node.start()
        yield made


def download(site: Site) -> None:
    """Bring all that is in the bucket where the auditor looks for the archive."""
    config = site.node.config
    bucket = archive(config)
    for study_key in bucket.studies():
        for one in bucket.below(study_key):
            path = config.archive_dir / one.name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert bucket.get(one.name, path)


def test_a_cable_that_is_pulled_costs_a_lease_and_nothing_is_lost_or_doubled(
    shared: Services, site: Site, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node, ledger = site.node, Ledger()
    sources = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, files = copy_study(sources, tmp_path / "study")
    seen = node.journal.status.workers

    def explanation() -> tuple[str, int]:
        jobs = [j for r in node.rows(uid) for j in r.jobs if j.phase == "explanation"]
        return (jobs[0].state, jobs[0].attempts) if jobs else ("", 0)

    site.start(SECOND)
    node.send(files)
    ledger.note(files)
    until(lambda: explanation() == ("running", 1), 120, "the explanation", node.tell)
    site.start(THIRD)
    assert [worker.late for worker in seen()] == [False] * 3
    shared.network.pull(SECOND)
    pulled = time.monotonic()
    within = LEASE_S + 5
    until(lambda: explanation()[1] == 2, within + 5, "the second attempt", node.tell)
    assert time.monotonic() - pulled < within
    row = node.finished(uid, timeout_s=240)
    assert (row.state, row.outcome, row.revision) == ("done", "positive", 1)
    assert any(worker.late for worker in seen())
    shared.network.plug(SECOND)
    until(lambda: not any(w.late for w in seen()), 90, "the worker that was cut off", node.tell)
    assert [path for data in site.data.values() for path in data.glob("spool")] == []
    download(site)
    assert audit(node, ledger) == []
