"""I3, I4, I6, I10: a worker that is killed in any stage of its work, or a decoder of it.

The worker kills itself (SIGKILL) on its way into a stage or out of it, once; or strace kills it in
a call that puts the journal on the disk. ``make faults`` goes through all of them, the tests some.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support import mllp
from tests.support.node import Node, copy_study, until
from tests.support.pacs import Pacs, pacs
from tests.support.services import REPOSITORY
from tests.support.strace import injected
from tests.support.webhooks import Receiver, secret_file, webhooks

STAGES = {
    "claiming": "limen.journal.work:WorkQueue.claim",
    "fetching": "worker.work.instances:SpooledInstances.of",
    "decoding": "worker.work.jobs:read_headers",
    "predicting": "worker.work.jobs:predict_study",
    "explaining": "worker.work.jobs:explain_study",
    "writing results": "worker.work.outbox:Outbox.put",
    "committing": "limen.journal.work:WorkQueue.commit",
    "building objects": "worker.work.sendable:Sendable.of",
    "to the results server": "worker.destinations.django:DjangoDestination.deliver",
    "to the archive": "worker.destinations.archive:ArchiveDestination.deliver",
    "to a PACS": "worker.destinations.sending:ObjectDestination.deliver",
    "to a webhook": "worker.destinations.webhook:WebhookDestination.deliver",
    "to a RIS": "worker.destinations.hl7:Hl7Destination.deliver",
    "noting a delivery": "limen.journal.work:WorkQueue.delivered",
}
"""What a worker does -> the function that does it."""
IN, OUT = "on its way in", "on its way out"
DECODER = "a decoder"
SYNC = "fdatasync"
"""How SQLite puts the journal on the disk; the number says in which call."""

START_S = 300.0
"""Until a worker is ready, on a machine that has other things to do."""

DEEP = os.environ.get("DEEP")
FEW = [(DECODER, ""), ("committing", OUT), (SYNC, "3")]
ALL = [
    (DECODER, ""),
    *((stage, edge) for stage in STAGES for edge in (IN, OUT)),
    *((SYNC, str(number)) for number in range(1, 15, 3)),  # a worker makes 13 to 15 for a study
]
MOMENTS = ALL if DEEP else FEW
KIND, OUTCOME = ("subdural", "positive") if DEEP else ("no-bleed", "negative")

DIES = """
import functools, importlib, os, signal, sys
from pathlib import Path

def children(pid):
    return [int(p) for task in Path(f"/proc/{{pid}}/task").iterdir()
            for p in (task / "children").read_text().split()]

def due(name):
    try:
        Path({switches!r}, name).unlink()
    except FileNotFoundError:
        return False
    return True

def dying(stage, original):
    @functools.wraps(original)
    def call(*args, **more):
        if due(f"{{stage}} {into}"):
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*args, **more)
        if due(f"{{stage}} {out}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return call

def losing_decoders(original):
    def call(*args):
        future = original(*args)
        if due("{decoder} "):
            for server in children(os.getpid()):
                for decoder in children(server):
                    os.kill(decoder, signal.SIGKILL)
        return future
    return call

if sys.orig_argv[1:3] == ["-m", "worker"]:
    for stage, place in {stages!r}.items():
        module, _, path = place.partition(":")
        *owner, name = path.split(".")
        holder = functools.reduce(getattr, owner, importlib.import_module(module))
        setattr(holder, name, dying(stage, getattr(holder, name)))
    from worker.dicom.decoder import Decoder
    Decoder._schedule = losing_decoders(Decoder._schedule)
"""


@dataclass
class Scene:
    """A node whose worker can be killed, and where its results go."""

    node: Node
    switches: Path
    pacs: Pacs | None = None
    hook: Receiver | None = None
    ris: mllp.Ris | None = None

    def kill(self, stage: str, edge: str, files: list[Path], log: Path) -> None:
        """Send a study; return when the worker has died of it and another is there."""
        supervisor = self.node.supervisor
        assert supervisor is not None
        worker = supervisor._children["worker"].process
        if stage == SYNC:
            with injected(worker.pid, f"{SYNC}:signal=SIGKILL:when={edge}", log):
                assert self.node.send(files).sent == len(files)
                worker.wait(60)
        else:
            switch = self.switches / f"{stage} {edge}"
            switch.touch()
            assert self.node.send(files).sent == len(files)
            until(lambda: not switch.exists(), 60, f"{stage}, {edge}", self.node.tell)
            if stage == DECODER:
                return
            worker.wait(20)
        supervisor.start(("worker",), START_S)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Start a node, and in full all kinds of destinations."""
    folder = tmp_path_factory.mktemp("scene")
    site, switches = folder / "site", folder / "switches"
    for one in (site, switches, folder / "node"):
        one.mkdir()
    text = DIES.format(switches=str(switches), stages=STAGES, into=IN, out=OUT, decoder=DECODER)
    (site / "sitecustomize.py").write_text(text, "utf-8")
    with ExitStack() as stack:
        more: dict[str, str] = {}
        there = hook = ris = None
        if DEEP:
            there, hook, ris = map(stack.enter_context, (pacs(), webhooks(), mllp.receiver()))
            peer = there.peer
            address = {"ae_title": peer.ae_title, "host": peer.host, "port": peer.port}
            secret = str(secret_file(folder))
            entries = {
                "PACS": {"name": "pacs", **address},
                "WEBHOOK": {"name": "hook", "url": hook.url, "secret_file": secret},
                "HL7": {"name": "ris", "host": "127.0.0.1", "port": ris.port},
            }
            more = {f"LIMEN_DESTINATION__{k}": json.dumps([v]) for k, v in entries.items()}
        node = Node(
            folder / "node",
            PYTHONPATH=f"{site}:{REPOSITORY}",
            LIMEN_EXPLAIN__MAX_EXPLAINED="1",
            LIMEN_SCP__QUIET_S="30",  # a busy machine may hold a sender up
            **more,
        )
        stack.callback(node.close)
        node.start()
        yield Scene(node, switches, there, hook, ris)


def told_wrong(scene: Scene) -> list[str]:
    """Return what other places were told twice, or not at all."""
    if scene.pacs is None or scene.hook is None or scene.ris is None:
        return []
    deliveries = [d for row in scene.node.journal.status.studies() for d in row.deliveries]
    objects = {one.sop_uid for d in deliveries for one in d.objects if d.destination == "pacs"}
    found = [f"PACS: {uid}" for uid in objects ^ set(scene.pacs.stored)]
    messages = {"hook": {key for key, _ in scene.hook.took}, "ris": set(scene.ris.took)}
    for name, taken in messages.items():
        sent = [d for d in deliveries if d.destination == name and "not sent" not in d.last_error]
        if len(taken) != len(sent):
            found.append(f"{name}: took {len(taken)} messages of {len(sent)}")
    return found


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("stage", "edge"), MOMENTS)
def test_a_worker_that_is_killed_in_any_stage_loses_and_doubles_nothing(
    stage: str, edge: str, scene: Scene, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node, ledger = scene.node, Ledger()
    slices = sorted(Path(phantoms[KIND].folder).glob("*.dcm"))
    uid, files = copy_study(slices, tmp_path / "study")
    scene.kill(stage, edge, files, tmp_path / "strace")
    ledger.note(files)
    until(lambda: node.at_rest(uid), 120, "the study to end", node.tell)
    (row,) = node.rows(uid)
    assert (row.state, row.outcome) == ("done", OUTCOME)
    assert max(job.attempts for job in row.jobs) <= 2
    assert audit(node, ledger) == []
    assert told_wrong(scene) == []
