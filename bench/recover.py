"""How long a study waits whose worker was killed: ``python -m bench.recover [--production]``.

Each round starts ``limen up`` anew, with the settings as they ship, sends a study with a bleed,
kills the worker (SIGKILL) while a job of the study runs, and waits for the end of the study. Nobody
helps: what runs again is what the supervisor, the locks and the leases bring about.

``--production`` uses RabbitMQ and PostgreSQL of this machine, in queues and databases of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import amqp
import psycopg

from bench.goal import at_most, tell
from limen.journal import StudyRow
from models.ich.phantom import demo_studies
from tests.support.node import Node, copy_study, until

ROUNDS = 10
GOAL_S = 31.5
"""`queue.lease_s`, `queue.dispatch_s` and a second; the lock of a dead worker is sooner."""

_QUEUES = ("predict", "explain", "deliver", "dead")
_ADMIN = "postgresql://postgres@127.0.0.1/postgres"
_BROKER = "amqp://guest:guest@127.0.0.1:5672//"


def main() -> int:
    """Run the rounds, print each and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--production", action="store_true", help="RabbitMQ and PostgreSQL")
    parser.add_argument("--quick", action="store_true", help="one round")
    args = parser.parse_args()
    rounds = 1 if args.quick else ROUNDS
    times: list[Times] = []
    with tempfile.TemporaryDirectory() as folder:
        studies = {s.name: s for s in demo_studies(Path(folder) / "studies")}
        sources = sorted(Path(studies["subdural"].folder).glob("*.dcm"))
        for number in range(1, rounds + 1):
            with _services(args.production) as urls:
                node = Node(Path(folder) / str(number), quick=False, **urls)
                try:
                    took = _round(node, sources)
                finally:
                    node.close()
            times.append(took)
            print(
                f"round {number:2}  killed in its {took.phase}, "
                f"runs again after {took.again_s:.1f} s, done after {took.done_s:.1f} s",
                flush=True,
            )
    for what, seconds in (
        ("runs again", [t.again_s for t in times]),
        ("done", [t.done_s for t in times]),
    ):
        print(f"{what}: median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s")
    longest = max(t.again_s for t in times)
    tell([at_most("s from the kill until it runs again", GOAL_S, longest)], args.quick)
    return 0


@dataclass(frozen=True, slots=True)
class Times:
    """One round: the phase whose job was cut off, and seconds from the kill."""

    phase: str
    again_s: float
    done_s: float


def _round(node: Node, sources: list[Path]) -> Times:
    node.folder.mkdir(parents=True, exist_ok=True)
    said = node.folder / "up.log"
    with said.open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "limen", "up"], env=node.env, stdout=log, stderr=log
        )
        try:
            until(lambda: "Limen is up" in said.read_text("utf-8", "replace"), 120, "limen up")
            uid, files = copy_study(sources, node.folder / "study")
            node.send(files)
            key, phase = _running(node, uid)
            os.kill(_worker_of(up.pid), signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: _attempts(node.rows(uid), key) > 1, 300, "another attempt", node.tell)
            again = time.monotonic()
            until(lambda: _ended(node.rows(uid)), 300, "the study to end", node.tell)
            return Times(phase, again - killed, time.monotonic() - killed)
        finally:
            up.terminate()
            up.wait(60)


def _running(node: Node, uid: str) -> tuple[str, str]:
    """Wait for a job that runs; return its key and phase."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for row in node.rows(uid):
            for job in row.jobs:
                if job.state == "running":
                    return job.key, job.phase
    raise SystemExit(f"no job of the study ran\n{node.tell()}")


def _attempts(rows: list[StudyRow], key: str) -> int:
    return max(job.attempts for row in rows for job in row.jobs if job.key == key)


def _ended(rows: list[StudyRow]) -> bool:
    return any(row.state in {"done", "failed"} for row in rows)


def _worker_of(parent: int) -> int:
    """Return the process id of the worker that a supervisor has started."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"worker" in words:
            return int(pid)
    raise SystemExit("limen up has no worker")


@contextlib.contextmanager
def _services(production: bool) -> Iterator[dict[str, str]]:
    """Yield the settings of a broker and databases of a round's own; nothing is left of them."""
    if not production:
        yield {}
        return
    name = f"limen_bench_{uuid.uuid4().hex[:8]}"
    databases = [name, f"{name}_web"]
    with psycopg.connect(_ADMIN, autocommit=True) as db:
        for database in databases:
            db.execute(f'CREATE DATABASE "{database}"')
    try:
        yield {
            "LIMEN_QUEUE__BROKER": _BROKER,
            "LIMEN_QUEUE__PREFIX": name.replace("_", "-"),
            "LIMEN_JOURNAL__URL": f"postgresql://postgres@127.0.0.1/{databases[0]}",
            "LIMEN_WEB__DATABASE_URL": f"postgresql://postgres@127.0.0.1/{databases[1]}",
        }
    finally:
        with psycopg.connect(_ADMIN, autocommit=True) as db:
            for database in databases:
                db.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
        with amqp.Connection("127.0.0.1:5672") as connection:
            channel = connection.channel()
            for queue in _QUEUES:
                channel.queue_delete(f"{name.replace('_', '-')}.{queue}")
            channel.exchange_delete(name.replace("_", "-"))
            channel.exchange_delete(f"{name.replace('_', '-')}.dead")


if __name__ == "__main__":
    sys.exit(main())
