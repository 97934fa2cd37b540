"""I7, I9: a worker that grows without end is replaced, and what it was doing is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study, until
from tests.support.services import REPOSITORY

LEAK_BYTES, LIMIT_BYTES = 512 << 20, 2 << 30
STUDIES = 5
"""A worker has some 500 MiB when it is ready: what five of them leak is over any doubt."""
LEAKS = """
import sys
from pathlib import Path
if sys.orig_argv[1:3] == ["-m", "worker"]:
    from worker.serving.backends import openvino, tensorflow
    leaked = []
    def leaking(original):
        def predict(self, batch):
            if Path({switch!r}).exists():
                leaked.append(b"x" * {leak})
            return original(self, batch)
        return predict
    for backend in (openvino.OpenVINO, tensorflow.TensorFlow):
        backend.predict = leaking(backend.predict)
"""


@pytest.mark.timeout(600)
def test_a_worker_that_outgrows_its_limit_is_replaced_and_no_study_notices(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    site, switch, ledger = tmp_path / "site", tmp_path / "it leaks", Ledger()
    site.mkdir()
    leaks = LEAKS.format(leak=LEAK_BYTES, switch=str(switch))
    (site / "sitecustomize.py").write_text(leaks, "utf-8")
    node = Node(
        own_folder,
        PYTHONPATH=f"{site}:{REPOSITORY}",
        LIMEN_WORKER__MAX_MEMORY_BYTES=str(LIMIT_BYTES),
    )
    slices = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    try:
        node.start()
        supervisor = node.supervisor
        assert supervisor is not None
        first = supervisor._children["worker"].process
        switch.touch()
        sent = [copy_study(slices, tmp_path / str(n)) for n in range(STUDIES)]
        for _, files in sent:
            assert node.send(files).sent == len(files)
            ledger.note(files)
        assert until(lambda: first.poll() is not None, 60, "the worker to end", node.tell)
        assert (first.returncode, "worker.too_large" in node.logs()) == (0, True)
        switch.unlink()
        until(
            lambda: (
                supervisor._revive(supervisor._children["worker"])
                or supervisor._children["worker"].process is not first
            ),
            30,
            "the worker to be started again",
        )
        for uid, _ in sent:
            row = node.finished(uid, timeout_s=120)
            assert (row.outcome, {job.attempts for job in row.jobs}) == ("negative", {1})
        assert audit(node, ledger) == []
    finally:
        node.close()
