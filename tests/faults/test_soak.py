"""Hours of mixed load, and now and then something is killed, cut off or full: nobody has to come.

``make soak SOAK_S=3600`` goes on for that long; the tests do not wait for it. The node is
``limen up`` with RabbitMQ and PostgreSQL of its own behind a proxy, with the timers as they ship.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from limen.command.send import send
from limen.errors import LimenError
from limen.states import OVER, WorkState
from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import ENDED, Node, copy_study, until
from tests.support.postgresql import PostgreSQL, postgresql
from tests.support.proxy import BOTH, FROM_SERVER, Proxy
from tests.support.rabbitmq import RabbitMQ, rabbitmq
from tests.support.services import answers

SOAK_S = float(os.environ.get("SOAK_S", "0"))
SEED = 26
FAULTS_SHARE = 0.05
"""Of the studies, how many meet a fault."""
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
        if not answers(self.node.config.scp.port):
            time.sleep(0.2)
            return files
        try:
            report = send(files, self.node.peer, "TESTSCU", 15)
        except LimenError:
            return files
        self.ledger.note(p for p in files if p not in report.failed)
        return [p for p in files if p in report.failed]


def processes(up: int) -> dict[str, int]:
    """Return the process ids of the children of ``limen up``, by name."""
    found = {}
    for pid in _children(up):
        with suppress(OSError, ValueError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found[words[words.index(b"-m") + 1].decode()] = pid
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text("ascii").split())
    return found


def held(pid: int) -> dict[str, int]:
    """Return what a process and its descendants hold."""
    tree = [pid]
    for one in tree:
        tree += _children(one)
    total = {"rss_bytes": 0, "files": 0, "threads": 0}
    for one in tree:
        with suppress(OSError):  # it has just ended
            lines = (s.split(":") for s in Path(f"/proc/{one}/status").read_text().splitlines())
            status = {k: v for k, v in lines if k in {"VmRSS", "Threads"}}
            if "VmRSS" not in status:  # it has ended, and nobody has asked how
                continue
            total["rss_bytes"] += int(status["VmRSS"].split()[0]) * 1024
            total["threads"] += int(status["Threads"])
            total["files"] += len(os.listdir(f"/proc/{one}/fd"))
    return total


@dataclass
class Sabotage:
    """What can be done to the node. Each returns when it is mended."""

    node: Node
    up: int
    broker: RabbitMQ
    database: PostgreSQL
    to_broker: Proxy
    to_database: Proxy
    rng: random.Random

    def kinds(self, *, kills: bool) -> list[Callable[[], None]]:
        """Return what may happen now."""
        lasting = [
            self.broker_connections_reset,
            self.broker_silent,
            self.broker_stopped,
            self.database_connections_reset,
            self.database_killed,
            self.archive_away,
            self.results_server_stands_still,
            self.sender_aborts,
        ]
        return [*lasting, *(3 * [self.worker_killed, self.receiver_killed])] if kills else lasting

    def _wait(self) -> None:
        time.sleep(self.rng.uniform(3, 12))

    def worker_killed(self) -> None:
        os.kill(processes(self.up)["worker"], signal.SIGKILL)

    def receiver_killed(self) -> None:
        os.kill(processes(self.up)["scp"], signal.SIGKILL)

    def broker_connections_reset(self) -> None:
        self.to_broker.cut()

    def broker_silent(self) -> None:
        with self.to_broker.held(*self.rng.choice([BOTH, (FROM_SERVER,)])):
            self._wait()

    def broker_stopped(self) -> None:
        self.broker.control("stop_app")
        self._wait()
        self.broker.control("start_app")

    def database_connections_reset(self) -> None:
        self.to_database.cut()

    def database_killed(self) -> None:
        self.database.kill()
        self._wait()
        self.database.start()

    def archive_away(self) -> None:
        archive = self.node.config.archive_dir
        aside = archive.with_name("unmounted")
        archive.rename(aside)
        archive.touch()
        self._wait()
        archive.unlink()
        aside.rename(archive)

    def results_server_stands_still(self) -> None:
        pid = processes(self.up)["web"]
        tree = [pid, *_children(pid)]
        for one in tree:
            os.kill(one, signal.SIGSTOP)
        self._wait()
        for one in tree:
            os.kill(one, signal.SIGCONT)

    def sender_aborts(self) -> None:
        from tests.support.wire import RawPeer, message, store_rq

        for _ in range(5):
            with RawPeer(self.node.config.scp.port) as peer:
                peer.open()
                peer.send(message(3, store_rq("1.2.3.4"), bytes(1 << 20))[:500_000])


@contextmanager
def running(folder: Path) -> Iterator[Sabotage]:
    """Run ``limen up`` with everything around it."""
    with ExitStack() as stack:
        for name in ("node", "rabbitmq"):
            (folder / name).mkdir()
        broker = stack.enter_context(rabbitmq(folder / "rabbitmq"))
        database = stack.enter_context(postgresql("journal", "web"))
        to_broker = stack.enter_context(Proxy(broker.port))
        to_database = stack.enter_context(Proxy(database.port))
        at = f"postgresql://postgres@127.0.0.1:{to_database.port}"
        node = Node(
            folder / "node",
            quick=False,
            LIMEN_QUEUE__BROKER=f"amqp://guest:guest@127.0.0.1:{to_broker.port}//",
            LIMEN_JOURNAL__URL=f"{at}/journal",
            LIMEN_WEB__DATABASE_URL=f"{at}/web",
            LIMEN_EXPLAIN__MAX_EXPLAINED="1",
        )
        stack.callback(node.close)
        logs = node.folder / "logs"
        logs.mkdir()
        with (logs / "up.log").open("wb") as output:
            words = [sys.executable, "-m", "limen", "up"]
            up = subprocess.Popen(words, env=node.env, cwd=folder, stdout=output, stderr=output)
        try:
            until(lambda: "Limen is up" in node.logs(), 120, "limen up", node.logs)
            yield Sabotage(
                node, up.pid, broker, database, to_broker, to_database, random.Random(SEED)
            )
            assert up.poll() is None, "limen up has ended"
        finally:
            up.terminate()
            up.wait(60)


@pytest.mark.skipif(not SOAK_S, reason="make soak runs it")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(int(SOAK_S) + 900)
def test_mixed_load_and_one_fault_in_twenty_studies_lose_double_and_leak_nothing(
    phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    sources = {kind: sorted(Path(phantoms[kind].folder).glob("*.dcm")) for kind in OUTCOMES}
    happened: list[Happened] = []
    samples: dict[tuple[str, int], list[dict[str, int]]] = defaultdict(list)
    with running(tmp_path) as sabotage:
        node = sabotage.node
        load = Load(node, sources, tmp_path / "study", random.Random(SEED))
        began = time.monotonic()
        ahead = threading.Thread()
        while (now := time.monotonic()) < began + SOAK_S:
            if sabotage.rng.random() < FAULTS_SHARE and not ahead.is_alive():
                kinds = sabotage.kinds(kills=now < began + SOAK_S * KILLS_UNTIL)
                ahead = threading.Thread(target=_do, args=(sabotage.rng.choice(kinds), happened))
                ahead.start()
            load.go()
            for name, pid in processes(sabotage.up).items():
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


def _do(fault: Callable[[], None], happened: list[Happened]) -> None:
    began = time.monotonic()
    fault()
    happened.append(Happened(fault.__name__, began, time.monotonic()))


def _until_fewer(load: Load, count: int, earliest: float) -> None:
    """Wait until fewer studies than ``count`` have not ended, and for a moment."""
    late = time.monotonic() + LATE_S
    while True:
        now = time.monotonic()
        for one in load.sent:
            if not one.ended and _at_rest(load.node, one.uid):
                one.ended = now
        unfinished = [one for one in load.sent if not one.ended]
        if len(unfinished) < count and now >= earliest:
            return
        if now > late:
            rows = [load.node.rows(one.uid) for one in unfinished]
            raise AssertionError(f"no end within {LATE_S:.0f} s:\n" + "\n".join(map(str, rows)))
        time.sleep(0.2)


def _at_rest(node: Node, study_uid: str) -> bool:
    """Return whether a study has ended; while the database is away nobody knows."""
    over = OVER | {WorkState.DEAD}
    try:
        rows = node.rows(study_uid)
    except LimenError:
        return False
    return bool(rows) and all(
        row.state in ENDED
        and row.jobs
        and row.deliveries
        and all(w.state in over for w in (*row.jobs, *row.deliveries))
        for row in rows
    )


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
