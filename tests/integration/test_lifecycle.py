"""Versions come and go in two real workers while studies come: docs/lifecycle.md, as it stands.

Each command of the page is run in its order, and what it prints is held to the page.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from limen.account import at_host
from limen.command.supervisor import Supervisor
from limen.journal import Event, StudyRow
from limen.states import OVER
from models.ich.phantom import DemoStudy
from tests.support.node import Node, brighter_study, until
from tests.support.pages import ROOT, Block, blocks
from tests.support.tiny_models import write_version

PAGE = ROOT / "docs" / "lifecycle.md"
_THIS = "tests/integration/test_lifecycle.py"
BLOCKS = [block for block in blocks(PAGE) if block.run_by == _THIS]
assert PAGE.name == "lifecycle.md"

HOST = socket.gethostname()
GAIN = 100.0
BRIGHT, MIDDLE, DARK = 30, 0, -30
"""HU added to a head: both versions call the first positive, 1.0 the second, and none the third."""


class Site:
    """A receiver and two workers, whose route names a folder of three versions."""

    def __init__(self, folder: Path, head: list[Path], stack: ExitStack) -> None:
        self.models = folder / "models"
        self._head, self._folder, self._sent = head, folder, 0
        heads = self.models / "heads"
        for version, middle in (("1.0", 0.257), ("2.0", 0.315), ("3.0", 0.315)):
            off = -0.3 if version == "3.0" else 0.0
            write_version(heads, version, gain=GAIN, bias=-GAIN * middle, golden_off=off)
        routes = [
            {"name": "head-ct", "modality": "CT", "bundle": str(heads)},
            {"name": "trial", "modality": "CT", "bundle": str(heads / "2.0"), "shadow": True},
        ]
        self.node = Node(
            folder / "node",
            LIMEN_ROUTE=json.dumps(routes),
            LIMEN_DESTINATION__DJANGO__ENABLED="false",
            LIMEN_EXPLAIN__SAMPLES="20",
            LIMEN_EXPLAIN__MAX_EXPLAINED="1",
        )
        stack.callback(self.node.close)
        self.node.start("scp", "worker")
        second = Supervisor(self.node.env, folder / "second")
        stack.callback(second.stop)
        second.start(("worker",))

    def run(self, block: Block) -> None:
        """Run the command of a block, and hold what it prints to the block."""
        (command,) = block.commands
        done = subprocess.run(
            ["bash", "-c", command.replace("limen", f"{sys.executable} -m limen", 1)],
            env=self.node.env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == block.exit_code, f"{command}\n{said}\n{self.node.tell()}"
        lines = [_without_numbers(line) for line in said.splitlines()]
        for line in block.printed:
            here = line.replace("/srv/models", str(self.models))
            for said_there, here_is in (("anna@reception", at_host()), ("reception", HOST)):
                here = here.replace(said_there, here_is)
            told = _without_numbers(here)
            start = told.partition("...")[0]
            assert any(one == told or (start != told and one.startswith(start)) for one in lines), (
                f"{line}\n{said}"
            )

    def send(self, brighter: int) -> str:
        """Send another head, with so many HU added; return its StudyInstanceUID."""
        self._sent += 1
        folder = self._folder / "sent" / str(self._sent)
        uid, files = brighter_study(self._head, folder, brighter)
        assert self.node.send(files).sent == len(files)
        return uid

    def ended(self, uid: str) -> StudyRow:
        """Wait until a study, its shadow and all deliveries have ended; return it."""

        def over() -> StudyRow | None:
            (row,) = self.node.rows(uid) or [None]
            if row is None or row.state != "done":
                return None
            work = (*row.jobs, *row.shadows, *row.deliveries)
            return row if all(one.state in OVER for one in work) else None

        return until(over, 180, f"study {uid}", self.node.tell)

    def said(self, row: StudyRow) -> dict[str, Event]:
        """Return what a version said of a study, by phase."""
        return {
            event.subject.rpartition("-")[2]: event
            for event in self.node.journal.events.of(row.study_key)
            if event.detail.get("bundle_version")
        }


def _without_numbers(line: str) -> str:
    return " ".join(re.sub(r"\b[0-9a-f]{8,}\b|[+-]?\d[\d.]*", "#", line).split())


@pytest.fixture
def site(tmp_path: Path, phantoms: dict[str, DemoStudy]) -> Iterator[Site]:
    head = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    with ExitStack() as stack:
        yield Site(tmp_path, head, stack)


@pytest.mark.timeout(600)
def test_versions_come_and_go_while_studies_come_and_each_study_is_of_one(site: Site) -> None:
    commands = iter(BLOCKS)
    deploy, shown = next(commands), next(commands)
    site.run(deploy)
    site.run(shown)
    for uid in [site.send(brighter) for brighter in (BRIGHT, MIDDLE, DARK)]:
        assert site.said(site.ended(uid))["prediction"].detail["bundle_version"] == "1.0"
    site.run(next(commands))  # how they agree

    sent: list[str] = []
    enough = threading.Event()

    def stream() -> None:
        while not enough.wait(0.3):
            sent.append(site.send(BRIGHT))

    streaming = threading.Thread(target=stream)
    streaming.start()
    try:
        site.run(next(commands))  # to a part of the studies
        site.run(next(commands))  # to all

        def of_two() -> bool:
            rows = [row for uid in list(sent) for row in site.node.rows(uid)]
            said = [site.said(row).get("prediction") for row in rows]
            return any(one and one.detail["bundle_version"] == "2.0" for one in said)

        until(of_two, 90, "a study that 2.0 looked at", site.node.tell)
        site.run(next(commands))  # back
        site.run(next(commands))  # a version that is refused
    finally:
        enough.set()
        streaming.join()
    assert next(commands, None) is None
    sent.append(site.send(BRIGHT))
    two = [d for d in site.node.journal.deployments.all("heads") if d.version == "2.0"]
    back_at = max(d.ended_at for d in two if d.ended_at)
    found = set()
    for uid in sent:
        row = site.ended(uid)
        said = site.said(row)
        versions = {said[phase].detail["bundle_version"] for phase in ("prediction", "explanation")}
        assert len(versions) == 1, said
        assert {job.attempts for job in row.jobs} == {1}
        assert row.outcome == "positive"
        if versions == {"2.0"}:
            assert said["prediction"].until <= back_at
        found |= versions
    assert found == {"1.0", "2.0"}
    assert site.said(site.ended(sent[-1]))["prediction"].detail["bundle_version"] == "1.0"
