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


def test_a_worker_that_grew_too_large_ends_and_the_next_one_finishes_what_it_gave_back(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    node = Node(own_folder)
    sources = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, files = copy_study(sources, tmp_path / "study")
    worker = Supervisor(node.env, own_folder / "first")

    def resident() -> int:
        statm = Path(f"/proc/{worker.pid('worker')}/statm").read_text("ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    try:
        node.start("web", "scp")
        worker.start(("worker",))
        limit = resident() + (20 << 20)  # a study takes more than that
        worker.stop()
        grown = node.env | {"LIMEN_WORKER__MAX_MEMORY_BYTES": str(limit)}
        worker = Supervisor(grown, own_folder / "grown")
        worker.start(("worker",))
        pid = worker.pid("worker")
        node.send(files)
        log = own_folder / "grown" / "worker.log"
        until(lambda: "worker.drained" in log.read_text("utf-8"), 60, "the end", node.tell)
        assert "worker.too_large" in log.read_text("utf-8")
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_status == 0
        second = Supervisor(node.env, own_folder / "logs")
        second.start(("worker",))
        try:
            row = node.finished(uid)
            assert (row.state, row.outcome, row.revision) == ("done", "positive", 1)
            assert max(j.attempts for j in row.jobs) == 1
        finally:
            second.stop()
    finally:
        worker.stop()
        node.close()
