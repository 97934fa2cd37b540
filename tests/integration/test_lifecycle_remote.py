"""A version that another server runs comes to two real workers, is refused and taken back, while
studies come; what it cannot answer waits, and is looked at by the version before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from limen.command.edge import FAILED, OK
from limen.command.supervisor import Supervisor
from limen.journal import StudyRow
from limen.states import OVER
from models.ich.phantom import DemoStudy
from tests.support.model_server import ModelServer, model_server
from tests.support.node import Node, brighter_study, until
from tests.support.pages import ROOT
from tests.support.tiny_models import SIDE, answer_of, write_remote_version, write_version

GAIN, BIAS = 100.0, -25.7
BRIGHT = 30
"""HU added to a head, which both versions call positive then."""


def released(batch: np.ndarray) -> np.ndarray:
    return answer_of(batch, GAIN, BIAS)


class Site:
    """A receiver and two workers; 1.0 they run themselves, 2.0 is run by the server."""

    def __init__(
        self, folder: Path, head: list[Path], server: ModelServer, stack: ExitStack
    ) -> None:
        self._head, self._folder, self._sent = head, folder, 0
        heads = folder / "models" / "heads"
        write_version(heads, "1.0", gain=GAIN, bias=BIAS)
        write_remote_version(heads, "2.0", server.url, runs=server.version, gain=GAIN, bias=BIAS)
        self.node = Node(
            folder / "node",
            LIMEN_ROUTE=json.dumps([{"name": "head", "modality": "CT", "bundle": str(heads)}]),
            LIMEN_ENGINE__REMOTE__URL=server.url,
            LIMEN_DESTINATION__DJANGO__ENABLED="false",
            LIMEN_EXPLAIN__SAMPLES="20",
            LIMEN_EXPLAIN__MAX_EXPLAINED="1",
        )
        stack.callback(self.node.close)
        self.node.start("scp", "worker")
        self.second = Supervisor(self.node.env, folder / "second")
        stack.callback(self.second.stop)
        self.second.start(("worker",))

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command on this host."""
        done = subprocess.run(
            [sys.executable, "-m", "limen", *words],
            env=self.node.env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def workers(self) -> list[int]:
        assert self.node.supervisor is not None
        return [one.pid("worker") for one in (self.node.supervisor, self.second)]

    def send(self) -> str:
        """Send a head; return its StudyInstanceUID."""
        self._sent += 1
        folder = self._folder / "sent" / str(self._sent)
        uid, files = brighter_study(self._head, folder, BRIGHT)
        assert self.node.send(files).sent == len(files)
        return uid

    def ended(self, uid: str) -> StudyRow:
        """Wait until a study and its deliveries have ended; return it."""

        def over() -> StudyRow | None:
            (row,) = self.node.rows(uid) or [None]
            if row is None or row.state != "done":
                return None
            return row if all(one.state in OVER for one in (*row.jobs, *row.deliveries)) else None

        return until(over, 120, f"study {uid}", self.node.tell)

    def versions(self, row: StudyRow) -> set[str]:
        """Return which versions said something of a study."""
        told = self.node.journal.events.of(row.study_key)
        return {v for event in told if (v := event.detail.get("bundle_version"))}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server(shape=(-1, SIDE, SIDE, 3), model=released) as served:
        yield served
        assert served.faults == []


@pytest.fixture
def site(tmp_path: Path, phantoms: dict[str, DemoStudy], server: ModelServer) -> Iterator[Site]:
    head = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    with ExitStack() as stack:
        yield Site(tmp_path, head, server, stack)


@pytest.mark.timeout(600)
def test_a_version_on_another_server_takes_over_is_refused_and_taken_back_while_studies_come(
    site: Site, server: ModelServer
) -> None:
    assert site.run("model", "deploy", "heads", "1.0")[0] == OK
    workers = site.workers()
    first = site.ended(site.send())
    assert (first.outcome, site.versions(first)) == ("positive", {"1.0"})
    assert server.asked == []

    server.model = lambda batch: released(batch) * 0.9
    code, said = site.run("model", "deploy", "heads", "2.0")
    assert code == FAILED
    assert "heads 2.0 does not serve, heads 1.0 goes on" in said
    assert "golden tensors differ by up to" in said
    assert site.versions(site.ended(site.send())) == {"1.0"}

    server.model = released
    code, said = site.run("model", "deploy", "heads", "2.0")
    assert (code, "2 workers loaded and tried it" in said) == (OK, True), said
    there = site.ended(site.send())
    assert (there.outcome, site.versions(there)) == ("positive", {"2.0"})
    assert there.probability == pytest.approx(first.probability, abs=1e-4)  # the same head
    assert {job.attempts for job in there.jobs} == {1}

    server.ready, server.script = False, [503] * 10_000
    waits = site.send()

    def is_waiting() -> bool:
        return any(
            "the server of models at" in job.last_error for row in site.node.rows(waits)
            for job in row.jobs
        )  # fmt: skip

    until(is_waiting, 60, "a study to wait for the server", site.node.tell)
    (row,) = site.node.rows(waits)
    assert (row.outcome, site.versions(row)) == (None, set())
    code, said = site.run("model", "rollback", "heads", "--reason", "its server is away")
    assert (code, "heads 1.0 looks at all studies" in said) == (OK, True), said
    late = site.ended(waits)
    assert (late.outcome, site.versions(late)) == ("positive", {"1.0"})
    assert site.workers() == workers  # nothing was restarted
