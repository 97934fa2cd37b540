"""Studies an hour, and what each part costs a study: ``python -m bench.load [--quick] [--json]``.

One host: receiver, results server, and one worker, then two, with RabbitMQ and PostgreSQL of its
own and the settings as they ship. First studies go one after the other: what each part of the node
takes for one, less what it takes when nothing comes. Then many come at once, as fast as they can be
sent, with one worker and with two: studies an hour, beside what docs/scaling.md says of seconds of
a job that runs alone.

Studies are phantoms of 12 slices; of ten three bleed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psycopg
import sqlalchemy as sa

from bench.goal import at_least, tell
from limen.command.supervisor import Supervisor
from limen.journal import Event, Journal
from limen.journal.tables import DELIVERY, JOB
from limen.result import Phase
from limen.uids import key_of
from models.ich.phantom import demo_studies
from tests.support.node import Node, copy_study, until
from tests.support.ports import free_ports
from tests.support.postgresql import PostgreSQL, postgresql
from tests.support.proxy import Proxy
from tests.support.rabbitmq import rabbitmq

BLEEDS = (True, False, False, True, False, False, False, True, False, False)
"""Which of ten studies bleed."""
ENDED_S = 1800.0
GOAL = 0.9
"""One worker: studies an hour, of what the formula says."""
WATCHER = "watcher"
"""Who asks the journal for this program: what it asks is no cost of the node."""

_SETTINGS = "shared_preload_libraries = 'pg_stat_statements'\ntrack_wal_io_timing = on\n"
_COUNTED = """
SELECT datname,
       coalesce(sum(calls) FILTER (WHERE query !~ '^(BEGIN|COMMIT|ROLLBACK)'), 0),
       coalesce(sum(calls) FILTER (WHERE query ~ '^COMMIT'), 0),
       coalesce(sum(total_exec_time), 0),
       coalesce(sum(wal_bytes), 0)
  FROM pg_stat_statements
  JOIN pg_database ON pg_database.oid = dbid
  JOIN pg_roles ON pg_roles.oid = userid
 WHERE rolname <> %s AND datname = ANY(%s)
 GROUP BY datname
"""
_WAL = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), wal_sync, wal_sync_time FROM pg_stat_wal
"""
_DATABASES = {"journal": "journal", "web": "results server's database"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: studies one after the other, then at once; seconds without any."""

    alone: int
    at_once: int
    idle_s: float


FULL, QUICK = Scale(10, 40, 30.0), Scale(4, 4, 3.0)


@dataclass(frozen=True, slots=True)
class Load:
    """Studies that came at once.

    Attributes
    ----------
    predicted, measured
        Studies an hour.
    """

    workers: int
    studies: int
    seconds: float
    predicted: float
    measured: float


def main() -> int:
    """Measure, and print what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer studies")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    scale = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory(prefix="limen-") as name, ExitStack() as stack:
        bench = _Bench(Path(name), stack)
        bench.warm_up()
        costs = bench.alone(scale.alone, scale.idle_s)
        _tell_costs(costs)
        p_s, e_s = costs["a prediction, p"]["s"], costs["an explanation, e"]["s"]
        loads, count = [], scale.at_once
        for workers in (1, 2):
            if workers > 1:
                bench.start_worker()
            seconds = bench.at_once(count)
            predicted = workers * 3600 / (p_s + sum(map(_bleeds, range(count))) / count * e_s)
            loads.append(Load(workers, count, seconds, predicted, count * 3600 / seconds))
    _tell_loads(loads)
    one, two = loads
    print(f"\ntwo workers on this host do {two.measured / one.measured:.2f} x of one")
    ratio = one.measured / one.predicted
    goals = [at_least("studies an hour with one worker, of the formula", GOAL, ratio)]
    tell(goals, args.quick)
    if args.json:
        found = {"loads": [asdict(x) for x in loads], "goals": [asdict(goal) for goal in goals]}
        print(json.dumps({"costs": costs} | found))
    return 0


Costs = dict[str, dict[str, float]]
"""Part -> what is counted, with its unit -> of a study."""


class _Bench:
    """A node, and what its parts are asked."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        (folder / "rabbitmq").mkdir()
        broker = stack.enter_context(rabbitmq(folder / "rabbitmq"))
        self._proxy = stack.enter_context(Proxy(broker.port))
        database = stack.enter_context(postgresql(*_DATABASES, settings=_SETTINGS))
        self._db = stack.enter_context(_watch(database))
        scp, worker, self._more = free_ports(3)
        self._ports = [scp, worker]
        self._node = Node(
            folder / "node",
            quick=False,
            LIMEN_QUEUE__BROKER=f"amqp://guest:guest@127.0.0.1:{self._proxy.port}//",
            LIMEN_JOURNAL__URL=database.url("journal"),
            LIMEN_WEB__DATABASE_URL=database.url("web"),
            LIMEN_METRICS__SCP_PORT=str(scp),
            LIMEN_METRICS__WORKER_PORT=str(worker),
        )
        stack.callback(self._node.close)
        self._node.start()
        self._node.journal.close()
        self._node.journal = Journal(
            self._node.config.journal_url.replace("postgres@", f"{WATCHER}@")
        )
        studies = {s.name: s for s in demo_studies(folder / "phantoms")}
        self._sources = {
            bleeds: sorted(Path(studies[name].folder).glob("*.dcm"))
            for bleeds, name in ((True, "subdural"), (False, "no-bleed"))
        }
        self._sent = 0

    def warm_up(self) -> None:
        """Let every part have done its work once."""
        for uid, files in self._make(2):
            self._node.send(files)
            self._until_at_rest([uid])

    def start_worker(self) -> None:
        """Start another one beside the first."""
        env = self._node.env | {"LIMEN_METRICS__WORKER_PORT": str(self._more)}
        another = Supervisor(env, self._folder / "another")
        self._stack.callback(another.stop)
        another.start(("worker",))
        self._ports.append(self._more)
        for uid, files in self._make(2):
            self._node.send(files)
            self._until_at_rest([uid])

    def at_once(self, count: int) -> float:
        """Return the seconds that studies take which come as fast as they can be sent."""
        made = self._make(count)
        uids = [uid for uid, _ in made]
        began = time.monotonic()
        for _, files in made:
            assert self._node.send(files).sent == len(files)
        self._until_at_rest(uids)
        receiving = self._node.journal.receiving
        rows = [row for uid in uids for row in receiving.instances(key_of(uid), 1)]
        first = min(row.received_at for row in rows)
        last = max(event.until for uid in uids for event in self._events(uid) if event.until)
        print(f"{count} studies: sent and done in {time.monotonic() - began:.0f} s", flush=True)
        return (last - first).total_seconds()

    def alone(self, count: int, idle_s: float) -> Costs:
        """Return what a study costs that is alone, of some that come one after the other."""
        time.sleep(idle_s)  # what the studies before have left to do is done
        before = self._counters()
        time.sleep(idle_s)
        idle = {what: (now - before[what]) / idle_s for what, now in self._counters().items()}
        began, before = time.monotonic(), self._counters()
        made = self._make(count)
        for uid, files in made:
            assert self._node.send(files).sent == len(files)
            self._until_at_rest([uid])
        lasted_s = time.monotonic() - began
        after = self._counters()
        of_one = {
            what: (after[what] - before[what] - idle[what] * lasted_s) / len(made) for what in after
        }
        return self._costs(of_one, idle, [uid for uid, _ in made])

    def _costs(
        self, one: Mapping[str, float], idle: Mapping[str, float], uids: Sequence[str]
    ) -> Costs:
        found: Costs = {
            "receiving": {
                "ms": self._spent_ms(uids, lambda event: event.kind == "association"),
                "bytes": sum(path.stat().st_size for path in self._sources[True]),
            },
            "a prediction, p": {"s": one["prediction s"] / one["prediction count"]},
            "an explanation, e": {"s": one["explanation s"] / one["explanation count"]},
        }
        for name, words in _DATABASES.items():
            found[words] = {
                what: one[f"{name} {what}"] for what in ("queries", "commits", "ms", "WAL bytes")
            }
            found[f"{words}, idle for a second"] = {
                what: idle[f"{name} {what}"] for what in ("queries", "commits", "ms", "WAL bytes")
            }
        found["both databases"] = {what: one[what] for what in ("WAL bytes", "syncs", "syncs ms")}
        found["RabbitMQ"] = {
            "messages": one["messages"],
            "bytes": one["broker bytes"],
            "ms from due to taken, median": statistics.median(self._waits_ms(uids)),
        }
        found["RabbitMQ, idle for a second"] = {"bytes": idle["broker bytes"]}
        found["archive"] = {
            "objects": one["archive objects"],
            "bytes": one["archive bytes"],
            "ms": self._spent_ms(uids, lambda event: event.subject.endswith("-archive")),
        }
        found["results server"] = {
            "ms": self._spent_ms(uids, lambda event: event.subject.endswith("-django"))
        }
        return found

    # -- what is counted -----------------------------------------------------------------------

    def _counters(self) -> dict[str, float]:
        """Return everything that only grows."""
        found: dict[str, float] = {"broker bytes": self._proxy.passed_bytes}
        for name, *values in self._db.execute(_COUNTED, [WATCHER, list(_DATABASES)]).fetchall():
            words = ("queries", "commits", "ms", "WAL bytes")
            found |= {f"{name} {w}": float(v) for w, v in zip(words, values, strict=True)}
        wal = self._db.execute(_WAL).fetchone()
        assert wal is not None
        found |= dict(zip(("WAL bytes", "syncs", "syncs ms"), map(float, wal), strict=True))
        said = [_metrics(port) for port in self._ports]
        found["messages"] = sum(_sum(text, "limen_published_total") for text in said)
        for phase in Phase:
            label = f'{{phase="{phase.value}"}}'
            for what, name in (("s", "sum"), ("count", "count")):
                series = f"limen_job_seconds_{name}{label}"
                found[f"{phase.value} {what}"] = sum(_sum(text, series) for text in said)
        files = [p for p in self._node.config.archive_dir.rglob("*") if p.is_file()]
        found["archive objects"] = len(files)
        found["archive bytes"] = sum(path.stat().st_size for path in files)
        return found

    def _spent_ms(self, uids: Sequence[str], wanted: Callable[[Event], bool]) -> float:
        """Return how long what is wanted took of one study, on average."""
        spent = [
            (event.until - event.at).total_seconds()
            for uid in uids
            for event in self._events(uid)
            if event.until is not None and wanted(event)
        ]
        return 1000 * sum(spent) / len(uids)

    def _waits_ms(self, uids: Sequence[str]) -> list[float]:
        """Return from when each piece of work was due until it was claimed."""
        made: dict[str, datetime] = {}
        with self._node.journal.database.reading() as db:
            for table in (JOB, DELIVERY):
                its = table.c.study_key.in_([key_of(uid) for uid in uids])
                rows = db.execute(sa.select(table.c.key, table.c.created_at).where(its))
                made |= {row.key: row.created_at for row in rows}
        return [
            1000 * (event.at - made[event.subject]).total_seconds()
            for uid in uids
            for event in self._events(uid)
            if event.subject in made
        ]

    def _events(self, uid: str) -> list[Event]:
        return self._node.journal.events.of(key_of(uid))

    # -- studies -------------------------------------------------------------------------------

    def _make(self, count: int) -> list[tuple[str, list[Path]]]:
        made = []
        for number in range(count):
            self._sent += 1
            source = self._sources[_bleeds(number)]
            made.append(copy_study(source, self._folder / "sent" / str(self._sent)))
        return made

    def _until_at_rest(self, uids: Sequence[str]) -> None:
        left = list(uids)

        def all_at_rest() -> bool:
            while left and self._node.at_rest(left[-1]):
                left.pop()
            return not left

        until(all_at_rest, ENDED_S, "the studies to end", self._node.tell)


def _bleeds(number: int) -> bool:
    """Return whether a study does, by its number."""
    return BLEEDS[number % len(BLEEDS)]


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8")


def _sum(text: str, series: str) -> float:
    """Return the sum of all series whose name and labels begin so."""
    lines = re.findall(rf"^{re.escape(series)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, lines))


def _watch(server: PostgreSQL) -> psycopg.Connection:
    """Return a connection of somebody whose questions are not counted."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as db:
        db.execute("CREATE EXTENSION pg_stat_statements")
        db.execute(f"CREATE ROLE {WATCHER} LOGIN SUPERUSER")
    url = server.url("postgres").replace("postgres@", f"{WATCHER}@")
    return psycopg.connect(url, autocommit=True, client_encoding="utf8")


def _tell_costs(costs: Costs) -> None:
    print("\n| part | of one study |\n| --- | --- |")
    for part, values in costs.items():
        print(f"| {part} | " + ", ".join(f"{_short(v)} {k}" for k, v in values.items()) + " |")
    print(flush=True)


def _short(number: float) -> str:
    """Return a number with three digits, at least."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _tell_loads(loads: Sequence[Load]) -> None:
    print("\n| workers | studies at once | seconds | studies an hour | by the formula |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for load in loads:
        numbers = f"{load.seconds:.0f} | {load.measured:.0f} | {load.predicted:.0f}"
        print(f"| {load.workers} | {load.studies} | {numbers} |")


if __name__ == "__main__":
    raise SystemExit(main())
