"""I3: the clock of the host is set by two days either way: nothing is early, late or lost.

With the timers as they ship, and the journal on SQLite, which has no clock but that of its host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from limen.command.supervisor import Supervisor
from limen.scu import Requestor
from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.clock import Clock
from tests.support.node import Node, copy_study, until

TWO_DAYS_S = 2 * 86400


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def node(own_folder: Path, clock: Clock) -> Iterator[Node]:
    own_folder.mkdir(parents=True)
    node = Node(own_folder, quick=False, LIMEN_EXPLAIN__MAX_EXPLAINED="1")
    node.start("web")
    assert node.supervisor is not None
    web, node.supervisor = node.supervisor, None
    node.env |= clock.environment
    try:
        yield node
    finally:
        web.stop()
        node.close()


def test_a_clock_that_is_set_by_two_days_completes_nothing_early_and_puts_nothing_off(
    node: Node, clock: Clock, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    ledger = Ledger()
    slices = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    (first, files), (second, more) = (copy_study(slices, tmp_path / n) for n in ("a", "b"))
    worker = Supervisor(node.env, node.folder / "logs")
    try:
        node.start("scp")
        assert node.send(files).sent == len(files)
        ledger.note(files)
        until(lambda: any(r.jobs for r in node.rows(first)), 60, "a job to wait", node.tell)
        clock.set(-TWO_DAYS_S)
        worker.start(("worker",))
        until(
            lambda: [j for r in node.rows(first) for j in r.jobs if j.phase == "explanation"],
            60,
            "the prediction",
            node.tell,
        )
        clock.set(TWO_DAYS_S)
        head = dcmread(more[0], stop_before_pixels=True)
        context = (head.SOPClassUID, head.file_meta.TransferSyntaxUID)
        with Requestor(node.peer, "TESTSCU", [context], 30) as association:
            assert all(association.store(path).stored for path in more[:-1])
            clock.set(-TWO_DAYS_S)
            assert association.store(more[-1]).stored  # what came is one study still
            clock.set(TWO_DAYS_S)
        ledger.note(more)
        for uid in (first, second):
            until(lambda uid=uid: node.rows(uid), 30, "the study", node.tell)
            row = node.finished(uid)
            assert (row.state, row.outcome, row.revision) == ("done", "positive", 1)
            assert {work.attempts for work in (*row.jobs, *row.deliveries)} == {1}
        assert "clock.set" in node.logs()
        assert audit(node, ledger) == []
    finally:
        worker.stop()
