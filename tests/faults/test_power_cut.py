"""Every process at once is killed, at any time, again and again, while studies come in.

``make faults ROUNDS=100`` goes on for as many rounds; the tests go two.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study, until

ROUNDS = int(os.environ.get("ROUNDS", "2"))
KINDS = ("subdural", "no-bleed")
OUTCOMES = {"subdural": "positive", "no-bleed": "negative"}
REST_S = 120.0 + 10.0 * ROUNDS
"""What piles up takes as long as the rounds were many."""
UP_S = (0.3, 8.0)
"""How long the power stays on, in seconds."""


class Modality:
    """Sends study after study, each again until the node has all of it."""

    def __init__(self, node: Node, phantoms: dict[str, DemoStudy], folder: Path) -> None:
        self._node = node
        self._sources = {kind: sorted(Path(phantoms[kind].folder).glob("*.dcm")) for kind in KINDS}
        self._folder = folder
        self._last = threading.Event()
        self.ledger = Ledger()
        self.kinds: dict[str, str] = {}
        self.cut = 0
        """Associations that were cut off in the middle."""
        self.halfway = threading.Event()
        """Set while some of a study is there and some is not."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Send no further study; wait until the last is there."""
        self._last.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        number = 0
        while not self._last.is_set():
            kind = KINDS[number % len(KINDS)]
            uid, files = copy_study(self._sources[kind], self._folder / str(number))
            self.kinds[uid] = kind
            left = files
            while left:
                left = self._send(left)
            number += 1
            self._last.wait(2)

    def _send(self, files: list[Path]) -> list[Path]:
        told = 0

        def on_file(_: Path) -> None:
            nonlocal told
            told += 1
            if told == len(files) // 3:
                self.halfway.set()

        left = self._node.offer(files, 5, on_file)
        self.halfway.clear()
        self.ledger.note(p for p in files if p not in left)
        self.cut += 0 < len(left) < len(files)
        return left


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(300 + 90 * ROUNDS)
def test_nothing_that_was_acknowledged_is_lost_or_doubled_by_power_cuts(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    node = Node(
        own_folder,
        LIMEN_QUEUE__MAX_ATTEMPTS="1000",  # each cut costs what ran an attempt
        LIMEN_EXPLAIN__MAX_EXPLAINED="1",  # what piles up takes no longer than it has to
    )
    rng = random.Random(0)
    modality = None
    try:
        node.start()
        modality = Modality(node, phantoms, tmp_path / "sent")
        for round_ in range(ROUNDS):
            if round_ % 2:
                assert modality.halfway.wait(60)
            else:
                time.sleep(rng.uniform(*UP_S))  # the fault itself: a moment that nobody chose
            for name in ("scp", "worker", "web"):
                node.kill(name)
            node.stop()
            node.start()
        ready = time.monotonic()
        modality.stop()
        sent = list(modality.ledger.studies)
        until(lambda: all(map(node.at_rest, sent)), REST_S, "all to end", node.tell)
        rest_s = time.monotonic() - ready
        assert audit(node, modality.ledger) == []
        last = {uid: node.rows(uid)[0] for uid in modality.ledger.studies}
        assert {uid: row.outcome for uid, row in last.items()} == {
            uid: OUTCOMES[kind] for uid, kind in modality.kinds.items()
        }
        _report(modality, rest_s, node)
    finally:
        if modality is not None:
            modality.stop()
        node.close()


def _report(modality: Modality, rest_s: float, node: Node) -> None:
    """Keep what was measured where somebody wants to read it."""
    path = os.environ.get("LIMEN_FAULTS_REPORT")
    if path:
        rows = [row for uid in modality.ledger.studies for row in node.rows(uid)]
        told = {
            "rounds": ROUNDS,
            "studies": len(modality.ledger.studies),
            "instances": modality.ledger.instances,
            "associations_cut": modality.cut,
            "revisions": len(rows),
            "most_attempts": max(j.attempts for row in rows for j in row.jobs),
            "at_rest_s": round(rest_s, 1),
        }
        Path(path).write_text(json.dumps(told) + "\n", "utf-8")
