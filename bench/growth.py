"""What grows with the years: ``python -m bench.growth [--instances N ...] [--postgresql]``.

Fills spool and journal with delivered studies of 20 instances (one file of the spool under many
names, rows in bulk), and measures at each size what a node does all day: record a batch of new
instances, look for due work, answer `limen status`, tell what has no result yet, and start:
seconds until the receiver has looked at what changed last, until it has looked at everything, and
the memory that this takes.
Medians of five, in milliseconds where nothing else is said. One table, in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import sqlalchemy as sa

from limen.config import Config
from limen.instance import NewInstance
from limen.journal import Journal
from limen.journal.tables import DELIVERY, INSTANCE, JOB, STUDY
from limen.purge import Purge
from limen.uids import key_of
from scp.assembler import Assembler
from scp.spool import Spool

PER_STUDY = 20
SERVER = "postgresql://postgres@127.0.0.1:5432"
START = datetime(2025, 1, 1, tzinfo=UTC)
_BULK = 500
_LINKS = 60_000  # names that a file of ext4 can have, almost


def instance(study: int, number: int, at: datetime) -> NewInstance:
    study_uid = f"1.2.826.0.1.{study}"
    sop_uid = f"{study_uid}.1.{number}"
    study_key, sop_key = key_of(study_uid), key_of(sop_uid)
    return NewInstance(
        study_key=study_key,
        sop_key=sop_key,
        digest=(sop_key * 2)[:64],
        study_uid=study_uid,
        series_uid=f"{study_uid}.1",
        sop_uid=sop_uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax="1.2.840.10008.1.2.1",
        path=f"{study_key}/{sop_key}.dcm",
        size_bytes=524_288,
        peer="CT1",
        accession="",
        received_at=at,
    )


def fill(journal: Journal, spool: Spool, studies: range) -> None:
    """Write rows of delivered studies, and their names in the spool."""
    for start in range(studies.start, studies.stop, _BULK):
        some = range(start, min(start + _BULK, studies.stop))
        rows = [
            instance(s, n, START + timedelta(minutes=s)) for s in some for n in range(PER_STUDY)
        ]
        with journal.database.writing() as db:
            db.execute(
                INSTANCE.insert(),
                [{"revision": 1} | {f: getattr(r, f) for f in NewInstance.__slots__} for r in rows],
            )
            db.execute(STUDY.insert(), [_study(s) for s in some])
            db.execute(JOB.insert(), [_work(s, "prediction") for s in some])
            db.execute(
                DELIVERY.insert(),
                [
                    _work(s, f"prediction-{d}") | {"destination": d, "urgent": False}
                    for s in some
                    for d in ("django", "archive")
                ],
            )
        for n, row in enumerate(rows):
            _name(spool.root / row.path, start * PER_STUDY + n)


def _study(study: int) -> dict[str, object]:
    uid, at = f"1.2.826.0.1.{study}", START + timedelta(minutes=study)
    return {
        "study_key": key_of(uid),
        "revision": 1,
        "study_uid": uid,
        "state": "done",
        "outcome": "negative",
        "reason": "none of 20 slices at or above 0.5",
        "received_at": at,
        "last_instance_at": at,
        "complete_at": at,
        "predicted_at": at,
    }


def _work(study: int, what: str) -> dict[str, object]:
    key, at = key_of(f"1.2.826.0.1.{study}"), START + timedelta(minutes=study)
    return {
        "key": f"{key}-1-{what}",
        "study_key": key,
        "revision": 1,
        "phase": "prediction",
        "state": "done",
        "attempts": 1,
        "created_at": at,
        "due_at": at,
        "publish_at": at,
    }


def _name(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    source = path.parent.parent / f"source-{number // _LINKS}"
    if not source.exists():
        source.write_bytes(bytes(1024))
    os.link(source, path)


def median_ms(what: Callable[[], object]) -> float:
    found = []
    for _ in range(5):
        began = time.perf_counter()
        what()
        found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found)


def measure(config: Config, journal: Journal, spool: Spool, studies: int) -> dict[str, float]:
    fresh = iter(range(10_000_000, 20_000_000))

    def record() -> None:
        study = next(fresh)
        journal.receiving.record([instance(study, n, datetime.now(UTC)) for n in range(100)])
        journal.receiving.complete(key_of(f"1.2.826.0.1.{study}"), 1)

    found = {"record 100": median_ms(record), "due work": median_ms(journal.publishing.due)}
    found["status"] = median_ms(lambda: (journal.status.studies(), journal.status.queues()))
    found["awaited"] = median_ms(lambda: journal.status.awaited(200))
    found["one study"] = median_ms(lambda: journal.status.studies(f"1.2.826.0.1.{studies // 2}"))
    found["purge, looked for"] = median_ms(lambda: next(journal.retention.oldest(START), None))
    assembler = Assembler(journal, spool, 5, 1, lambda: None)
    found["start"] = median_ms(assembler.recover)
    began = time.perf_counter()
    while assembler._unlooked:
        assembler.look_on(0.2)
    found["all looked at, s"] = time.perf_counter() - began
    tracemalloc.start()
    assembler.recover()
    while assembler._unlooked:
        assembler.look_on(0.2)
    found["memory of it, MB"] = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    dry = Purge(config, journal, dry_run=True)
    found["purge, nothing old, s"] = median_ms(dry.relieve) / 1000
    return found


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'journal.db'}"
        return
    name = f"limen_growth_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(f"{SERVER}/postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{SERVER.replace('://', '+psycopg://')}/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--kind", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, help="where the spool is made (default: /tmp)")
    args = parser.parse_args()
    for kind in args.kind:
        with (
            tempfile.TemporaryDirectory(dir=args.folder) as name,
            database(kind, Path(name)) as url,
        ):
            folder = Path(name)
            config = Config(node={"data_dir": folder})
            journal, spool = Journal(url), Spool(folder / "spool", 0)
            journal.migrate()
            columns: dict[int, dict[str, float]] = {}
            done = 0
            for count in args.instances:
                fill(journal, spool, range(done, count // PER_STUDY))
                done = count // PER_STUDY
                with journal.database.writing() as db:
                    for table in (INSTANCE, STUDY, JOB, DELIVERY):
                        db.execute(sa.text(f"ANALYZE {table.name}"))
                columns[count] = measure(config, journal, spool, done)
            journal.close()
            print(f"\n| {kind} | " + " | ".join(f"{c:,}" for c in columns) + " |")
            print("| --- |" + " ---: |" * len(columns))
            for row in next(iter(columns.values())):
                print(f"| {row} | " + " | ".join(f"{c[row]:.3g}" for c in columns.values()) + " |")


if __name__ == "__main__":
    main()
