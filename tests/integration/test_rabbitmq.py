"""The same line over RabbitMQ quorum queues, with PostgreSQL as journal and web database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import amqp
import psycopg
import pytest

from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until
from tests.support.services import answers, require_service

BROKER = "amqp://guest:guest@127.0.0.1:5672//"
_QUEUES = ("predict", "explain", "deliver", "dead")


@pytest.fixture
def databases() -> Iterator[tuple[str, str]]:
    """Two databases of this test's own: journal and web."""
    require_service(answers(5432), "PostgreSQL does not answer on 127.0.0.1:5432")
    names = [f"limen_test_{uuid.uuid4().hex[:10]}" for _ in range(2)]
    admin = "postgresql://postgres@127.0.0.1/postgres"
    with psycopg.connect(admin, autocommit=True) as db:
        for name in names:
            db.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    yield (
        f"postgresql://postgres@127.0.0.1/{names[0]}",
        f"postgresql://postgres@127.0.0.1/{names[1]}",
    )
    with psycopg.connect(admin, autocommit=True) as db:
        for name in names:
            db.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]


@pytest.fixture
def prefix() -> Iterator[str]:
    """Queues of this test's own, deleted afterwards."""
    require_service(answers(5672), "RabbitMQ does not answer on 127.0.0.1:5672")
    prefix = f"limen-test-{uuid.uuid4().hex[:8]}"
    yield prefix
    with amqp.Connection("127.0.0.1:5672") as connection:
        channel = connection.channel()
        for queue in _QUEUES:
            channel.queue_delete(f"{prefix}.{queue}")
        channel.exchange_delete(prefix)
        channel.exchange_delete(f"{prefix}.dead")


@pytest.fixture
def production(own_folder: Path, databases: tuple[str, str], prefix: str) -> Iterator[Node]:
    """A node of the production shape, not started yet."""
    own_folder.mkdir(parents=True)
    node = Node(
        own_folder,
        LIMEN_QUEUE__BROKER=BROKER,
        LIMEN_QUEUE__PREFIX=prefix,
        LIMEN_QUEUE__REPUBLISH_S="2",
        LIMEN_QUEUE__LEASE_S="3",
        LIMEN_JOURNAL__URL=databases[0],
        LIMEN_WEB__DATABASE_URL=databases[1],
    )
    yield node
    node.close()


def _slices(study: DemoStudy) -> list[Path]:
    return sorted(Path(study.folder).glob("*.dcm"))


def _depth(queue: str) -> int:
    with amqp.Connection("127.0.0.1:5672") as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
        except amqp.NotFound:  # nothing was published yet
            return 0


def test_a_study_goes_through_quorum_queues_and_postgresql(
    production: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    production.start()
    uid, files = copy_study(_slices(phantoms["subdural"]), tmp_path / "study")
    production.send(files)
    row = production.finished(uid)
    assert row.outcome == "positive"
    assert production.on_web(uid)["outcome"] == "positive"
    # Declared as quorum: declaring the same name as classic is refused (PRECONDITION_FAILED).
    for name in _QUEUES:
        with (
            amqp.Connection("127.0.0.1:5672") as connection,
            pytest.raises(amqp.PreconditionFailed),
        ):
            connection.channel().queue_declare(
                f"{production.config.queue.prefix}.{name}", durable=True, auto_delete=False
            )


def test_a_purged_broker_costs_latency_and_no_study(
    production: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    production.start("web", "scp")
    queue = f"{production.config.queue.prefix}.predict"
    uids = []
    for n in range(3):
        uid, files = copy_study(_slices(phantoms["no-bleed"]), tmp_path / str(n))
        production.send(files)
        uids.append(uid)

    def all_published() -> bool:
        return (
            all(r.jobs and r.state == "complete" for uid in uids for r in production.rows(uid))
            and _depth(queue) >= 3
        )

    until(all_published, 30, "three messages in the queue", production.tell)
    with amqp.Connection("127.0.0.1:5672") as connection:
        assert connection.channel().queue_purge(queue) >= 3
    production.stop()
    production.start()
    for uid in uids:
        assert production.finished(uid).outcome == "negative"


def test_a_broker_that_is_away_leaves_receiving_untouched(
    production: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    production.env["LIMEN_QUEUE__BROKER"] = "amqp://guest:guest@127.0.0.1:1//"
    production.start("scp")
    uid, files = copy_study(_slices(phantoms["no-bleed"]), tmp_path / "study")
    assert production.send(files).sent == len(files)
    until(lambda: [r for r in production.rows(uid) if r.state == "complete"], 20, "completion")
    production.stop()
    production.env["LIMEN_QUEUE__BROKER"] = BROKER
    production.start()
    assert production.finished(uid).outcome == "negative"


def test_a_worker_killed_between_the_phases_finishes_the_study_once_after_a_restart(
    production: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    production.overrides["LIMEN_EXPLAIN__SAMPLES"] = "20000"  # explanation outlives the kill
    production.env["LIMEN_EXPLAIN__SAMPLES"] = "20000"
    production.start()
    uid, files = copy_study(_slices(phantoms["subdural"]), tmp_path / "study")
    production.send(files)

    def explaining() -> bool:
        return any(
            job.phase == "explanation" and job.state == "running"
            for row in production.rows(uid)
            for job in row.jobs
        )

    until(explaining, 60, "the explanation to start", production.tell)
    production.kill("worker")
    production.stop()
    assert production.rows(uid)[0].state == "predicted"
    production.env["LIMEN_EXPLAIN__SAMPLES"] = "100"
    production.start()
    row = production.finished(uid)
    assert (row.state, row.outcome, row.revision) == ("done", "positive", 1)
    assert [j.state for j in row.jobs] == ["done", "done"]
    assert len(production.rows(uid)) == 1
    reports = production.on_web(uid)
    assert reports["revision"] == 1
    listed = production.page("/api/v1/studies").json()
    assert len(listed.get("results", listed)) == 1


def test_no_message_and_no_log_line_names_the_patient(
    production: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    marks = {
        "PatientName": "ZZMARKEDNAME^PERSON",
        "PatientID": "ZZMARKEDID7788",
        "AccessionNumber": "ZZMARKEDACC",
        "StudyDescription": "ZZMARKEDDESCRIPTION",
        "InstitutionName": "ZZMARKEDPLACE",
        "PatientBirthDate": "19330317",
    }
    production.env["LIMEN_LOG__LEVEL"] = "debug"
    production.start("web", "scp")
    uid, files = copy_study(_slices(phantoms["subdural"]), tmp_path / "a", **marks)
    broken_uid, broken = copy_study(_slices(phantoms["no-bleed"]), tmp_path / "b", **marks)
    for path in broken:
        path.write_bytes(path.read_bytes()[:-100_000])
    production.send([*files, *broken])
    queue = f"{production.config.queue.prefix}.predict"
    until(lambda: _depth(queue) >= 2, 30, "two messages", production.tell)
    messages = _messages(queue, 2)
    production.stop()
    production.start()
    assert production.finished(uid).outcome == "positive"
    production.finished(broken_uid)
    shown = production.on_web(uid)
    assert shown["patient_id"] == marks["PatientID"]  # the mark did travel
    names = "\n".join(str(p.relative_to(production.folder)) for p in production.folder.rglob("*"))
    haystack = production.logs() + messages + names
    secrets = ["ZZMARKED", "19330317", uid, broken_uid]
    assert [s for s in secrets if s in haystack] == []


def _messages(queue: str, count: int) -> str:
    """Read messages as they are, headers and body, and leave them in the queue."""
    with amqp.Connection("127.0.0.1:5672") as connection:
        channel = connection.channel()
        found = [channel.basic_get(queue) for _ in range(count)]
        text = "".join(f"{m.body!r} {m.properties!r} {m.headers!r}" for m in found if m)
        for message in found:
            if message:
                channel.basic_reject(message.delivery_tag, requeue=True)
        return text
