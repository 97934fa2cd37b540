"""Hours of mixed load, and now and then something is killed, cut off or full: nobody has to come.

``make soak SOAK_S=3600`` goes on for that long; the tests do not wait for it. The node is
``limen up`` with RabbitMQ and PostgreSQL of its own behind a proxy, with the timers as they ship.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study
from tests.support.sabotage import Fault, Sabotage, descendants, running

SOAK_S = float(os.environ.get("SOAK_S", "0"))
SEED = 26
FAULTS_SHARE = 0.05
"""Of the studies, how many meet a fault."""
LASTS_S = (3.0, 12.0)
PACE_S, UNFINISHED = 3.0, 6
"""A study is sent this often, and none while so many have not ended."""
KILLS_UNTIL = 1 / 3
"""Of the time: afterwards no process of the node is killed, so that what grows is seen."""
LATE_S = 300.0
OUTCOMES = {"subdural": "positive", "no-bleed": "negative", "mr-not-routed": "not_analysed"}
GROWN = {"rss_bytes": 48 << 20, "files": 16, "threads": 8}
"""What a process may hold more at the end than when it was warm."""


@dataclass
class Sent:
    """A study on its way."""

    uid: str
    kind: str
    at: float
    ended: float = 0.0


@dataclass
class Happened:
    """A fault, from its beginning to when it was mended."""

    kind: str
    began: float
    ended: float


@dataclass
class Load:
    """Sends studies of several kinds, in several ways, each until the node has all of it."""

    node: Node
    sources: dict[str, list[Path]]
    folder: Path
    rng: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    sent: list[Sent] = field(default_factory=list)

    def go(self) -> None:
        """Send one study."""
        kind = self.rng.choices(list(OUTCOMES), (30, 55, 15))[0]
        source = self.sources[kind][:1] if kind == "mr-not-routed" else self.sources[kind]
        uid, files = copy_study(source, self.folder)
        way = self.rng.choices((self._whole, self._twice, self._in_halves), (80, 10, 10))[0]
        way(files)
        self.sent.append(Sent(uid, kind, time.monotonic()))
        shutil.rmtree(self.folder)

    def _whole(self, files: list[Path]) -> None:
        left = files
        while left:
            left = self._send(left)

    def _twice(self, files: list[Path]) -> None:
        second = threading.Thread(target=self._whole, args=(files,))
        second.start()
        self._whole(files)
        second.join()

    def _in_halves(self, files: list[Path]) -> None:
        self._whole(files[: len(files) // 2])
        time.sleep(self.node.config.scp.quiet_s * self.rng.uniform(0, 1.5))
        self._whole(files[len(files) // 2 :])

    def _send(self, files: list[Path]) -> list[Path]:
        left = self.node.offer(files)
        self.ledger.note(p for p in files if p not in left)
        return left


def held(pid: int) -> dict[str, int]:
    """Return what a process and its descendants hold."""
    total = {"rss_bytes": 0, "files": 0, "threads": 0}
    for one in descendants(pid):
        with suppress(OSError):  # it has just ended
            lines = (s.split(":") for s in Path(f"/proc/{one}/status").read_text().splitlines())
            status = {k: v for k, v in lines if k in {"VmRSS", "Threads"}}
            if "VmRSS" not in status:  # it has ended, and nobody has asked how
                continue
            total["rss_bytes"] += int(status["VmRSS"].split()[0]) * 1024
            total["threads"] += int(status["Threads"])
            total["files"] += len(os.listdir(f"/proc/{one}/fd"))
    return total


def kinds(sabotage: Sabotage, *, kills: bool) -> list[Fault]:
    """Return what may happen now."""
    lasting: list[Fault] = [
        sabotage.broker_connections_reset,
        sabotage.broker_silent,
        sabotage.broker_answers_nothing,
        sabotage.broker_stopped,
        sabotage.database_connections_reset,
        sabotage.database_killed,
        sabotage.archive_away,
        sabotage.results_server_away,
        sabotage.results_server_stands_still,
        sabotage.sender_aborts,
    ]
    killed: list[Fault] = [sabotage.worker_killed, sabotage.receiver_killed]
    return [*lasting, *(3 * killed)] if kills else lasting


@pytest.mark.skipif(not SOAK_S, reason="make soak runs it")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(int(SOAK_S) + 900)
def test_mixed_load_and_one_fault_in_twenty_studies_lose_double_and_leak_nothing(
    phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    sources = {kind: sorted(Path(phantoms[kind].folder).glob("*.dcm")) for kind in OUTCOMES}
    happened: list[Happened] = []
    samples: dict[tuple[str, int], list[dict[str, int]]] = defaultdict(list)
    rng = random.Random(SEED)
    with running(tmp_path, LIMEN_EXPLAIN__MAX_EXPLAINED="1") as sabotage:
        node = sabotage.node
        load = Load(node, sources, tmp_path / "study", random.Random(SEED))
        began = time.monotonic()
        ahead = threading.Thread()
        while (now := time.monotonic()) < began + SOAK_S:
            if rng.random() < FAULTS_SHARE and not ahead.is_alive():
                fault = rng.choice(kinds(sabotage, kills=now < began + SOAK_S * KILLS_UNTIL))
                args = (fault, rng.uniform(*LASTS_S), happened)
                ahead = threading.Thread(target=_do, args=args)
                ahead.start()
            load.go()
            for name, pid in sabotage.processes().items():
                samples[name, pid].append(held(pid))
            _until_fewer(load, UNFINISHED, now + PACE_S)
            _tell(began, load, happened, samples)
        ahead.join()
        resting = time.monotonic()
        _until_fewer(load, 1, 0)
        rest_s = time.monotonic() - resting
        broken = audit(node, load.ledger)
        wrong = [
            f"{one.uid}: {row.outcome}, {one.kind}"
            for one in load.sent
            if (row := node.rows(one.uid)[0]).outcome != OUTCOMES[one.kind]
        ]
        told = _report(load, happened, samples, rest_s, [*broken, *wrong])
    assert [*broken, *wrong] == []
    assert told["grown"] == []


def _do(fault: Fault, lasts_s: float, happened: list[Happened]) -> None:
    began = time.monotonic()
    with fault():
        time.sleep(lasts_s)
    happened.append(Happened(fault.__name__, began, time.monotonic()))


def _until_fewer(load: Load, count: int, earliest: float) -> None:
    """Wait until fewer studies than ``count`` have not ended, and for a moment."""
    late = time.monotonic() + LATE_S
    while True:
        now = time.monotonic()
        for one in load.sent:
            if not one.ended and load.node.at_rest(one.uid):
                one.ended = now
        unfinished = [one for one in load.sent if not one.ended]
        if len(unfinished) < count and now >= earliest:
            return
        if now > late:
            rows = [load.node.rows(one.uid) for one in unfinished]
            raise AssertionError(f"no end within {LATE_S:.0f} s:\n" + "\n".join(map(str, rows)))
        time.sleep(0.2)


def _tell(began: float, load: Load, happened: list[Happened], samples: object) -> None:
    if len(load.sent) % 10 == 0:
        minutes = (time.monotonic() - began) / 60
        print(f"{minutes:.1f} min: {len(load.sent)} studies, {len(happened)} faults", flush=True)  # noqa: T201


def _report(
    load: Load,
    happened: list[Happened],
    samples: dict[tuple[str, int], list[dict[str, int]]],
    rest_s: float,
    broken: list[str],
) -> dict[str, object]:
    """Write what was measured where somebody wants to read it, and return it."""
    last = {name: rows for (name, _), rows in samples.items()}  # of the newest process each
    memory = {name: _growth(rows) for name, rows in last.items()}
    grown = [
        f"{name}: {what} {before} -> {after}"
        for name, kinds in memory.items()
        for what, (before, after) in kinds.items()
        if after - before > GROWN[what]
    ]
    waits: dict[str, list[float]] = defaultdict(list)
    for one in load.sent:
        met = [h.kind for h in happened if h.began < one.ended and h.ended > one.at - 15]
        waits[met[0] if met else "none"].append(one.ended - one.at)
    told: dict[str, object] = {
        "seconds": SOAK_S,
        "studies": len(load.sent),
        "instances": load.ledger.instances,
        "faults": {
            kind: {
                "times": sum(h.kind == kind for h in happened),
                "studies": len(some),
                "median_s": round(statistics.median(some), 1),
                "longest_s": round(max(some), 1),
            }
            for kind, some in sorted(waits.items())
        },
        "at_rest_s": round(rest_s, 1),
        "broken": broken,
        "held_warm_and_at_the_end": memory,
        "grown": grown,
    }
    path = os.environ.get("LIMEN_FAULTS_REPORT")
    if path:
        Path(path).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return told


def _growth(rows: list[dict[str, int]]) -> dict[str, tuple[int, int]]:
    """Return what a process held when it was warm, and at the end: medians of a quarter each."""
    quarter = max(1, len(rows) // 4)
    warm, end = rows[quarter : 2 * quarter] or rows, rows[-quarter:]
    return {
        what: (
            int(statistics.median(row[what] for row in warm)),
            int(statistics.median(row[what] for row in end)),
        )
        for what in GROWN
    }
