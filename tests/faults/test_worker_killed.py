"""I9, I10: a worker that is killed or told to end, with the timers as they ship."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from limen.command.supervisor import Supervisor
from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until

ENDLESS = "100000"
"""Samples of an explanation that is still running when its worker is killed."""


def test_what_a_killed_worker_held_runs_again_within_its_lease(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    node = Node(own_folder, quick=False)
    queue = node.config.queue
    sources = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, files = copy_study(sources, tmp_path / "study")
    env = node.env | {"LIMEN_EXPLAIN__MODE": "reference", "LIMEN_EXPLAIN__SAMPLES": ENDLESS}
    first, second = (Supervisor(e, own_folder / n) for e, n in ((env, "first"), (node.env, "logs")))

    def explanation() -> tuple[str, int]:
        jobs = [j for r in node.rows(uid) for j in r.jobs if j.phase == "explanation"]
        return (jobs[0].state, jobs[0].attempts) if jobs else ("", 0)

    try:
        node.start("web", "scp")
        first.start(("worker",))
        node.send(files)
        until(lambda: explanation() == ("running", 1), 120, "the explanation to start", node.tell)
        second.start(("worker",))
        assert {w.late for w in node.journal.status.workers()} == {False}
        assert len(node.journal.status.workers()) == 2
        os.kill(first.pid("worker"), signal.SIGKILL)
        killed = time.monotonic()
        within = queue.lease_s + queue.dispatch_s + 1
        until(lambda: explanation()[1] == 2, within + 5, "the second attempt", node.tell)
        assert time.monotonic() - killed < within
        row = node.finished(uid)
        assert (row.state, row.outcome, row.revision) == ("done", "positive", 1)
        assert len(node.journal.status.workers()) == 1
    finally:
        first.stop()
        second.stop()
        node.close()


def test_a_worker_that_is_told_to_end_gives_back_what_it_cannot_finish(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    node = Node(own_folder, quick=False)
    node.env |= {"LIMEN_EXPLAIN__MODE": "reference", "LIMEN_EXPLAIN__SAMPLES": ENDLESS}
    sources = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, files = copy_study(sources, tmp_path / "study")

    def explanation() -> tuple[str, int] | None:
        jobs = [j for r in node.rows(uid) for j in r.jobs if j.phase == "explanation"]
        return (jobs[0].state, jobs[0].attempts) if jobs else None

    try:
        node.start("scp", "worker")
        node.send(files)
        until(lambda: explanation() == ("running", 1), 120, "the explanation to start", node.tell)
        began = time.monotonic()
        node.stop()
        assert time.monotonic() - began < 30 + 5
        assert explanation() == ("queued", 0)
        assert node.journal.status.workers() == []
        assert "worker.drain_cut_short" in node.logs()
    finally:
        node.close()
