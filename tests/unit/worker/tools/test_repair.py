"""worker.tools.repair: a journal that was lost, made again of what lies beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from limen.config import Config, WebhookDestination
from limen.errors import LimenError
from limen.instance import NewInstance
from limen.journal import Job, Journal, Summary
from limen.journal.database import Database
from limen.journal.tables import INSTANCE, STUDY
from limen.result import Outcome, Phase, Result, Timings
from limen.uids import key_of
from scp.header import Identity
from scp.intake import new_instance
from scp.spool import Spool
from tests.support.samples import STUDY_UID, data_set, encode, keep, result, settings
from worker.destinations import Original, Parcel
from worker.destinations.archive import ArchiveDestination
from worker.destinations.registry import archive
from worker.tools import repair as tool
from worker.tools.repair import Repaired, repair
from worker.work.outbox import Outbox

KEY = key_of(STUDY_UID)
SYNTAX = "1.2.840.10008.1.2.1"


class Past:
    """A node and what happened to it."""

    def __init__(self, folder: Path) -> None:
        self.config: Config = settings(folder, web={"port": 1})
        self.config.data_dir.mkdir()
        self.spool = Spool(self.config.spool_dir, 0)
        self.outbox = Outbox(self.config.results_dir)
        self.journal = Journal(self.config.journal_url)
        self.journal.migrate()
        self.file = self.config.data_dir / "journal.db"

    def receive(self, *numbers: int, **elements: Any) -> list[NewInstance]:
        kept = []
        for number in numbers:
            body = encode(data_set(number, AccessionNumber="A-1", **elements))
            identity = Identity.of(body, SYNTAX)
            found = keep(self.spool, identity, body)
            kept.append(new_instance(identity, found, SYNTAX, "CT1", datetime.now(UTC)))
        self.journal.receiving.record(kept)
        return kept

    def conclude(self, revision: int, *, archived: bool = True, **changes: Any) -> Result:
        """Complete a revision, commit a prediction and bring it to the archive."""
        self.journal.receiving.complete(KEY, revision)
        row = self.journal.status.study(KEY, revision)
        assert row.complete_at is not None
        now = _text(self.journal.clock())
        made = result(
            revision=revision,
            timings=Timings(_text(row.last_instance_at), _text(row.complete_at), now),
            **{"outcome": Outcome.NEGATIVE, "images": [], **changes},
        )
        self._commit(made, archived=archived, explain=made.wants_explanation)
        return made

    def _commit(self, made: Result, *, archived: bool, explain: bool) -> None:
        key = f"{KEY}-{made.revision}-{made.phase}"
        job = self.journal.work.claim(Job, key, "a", 30)
        assert job is not None
        files = {name: b"picture" for name in made.file_names()}
        digest = self.outbox.write(KEY, made, files)
        names = self.config.destinations
        assert self.journal.work.commit(job, "a", Summary.of(made, digest), names, explain=explain)
        if archived:
            self.deliver(made)

    def deliver(self, made: Result) -> None:
        rows = self.journal.receiving.instances(KEY, made.revision)
        ArchiveDestination(archive(self.config), originals=True).deliver(
            Parcel(
                KEY, made.revision, made.phase, made.to_json(),
                self.outbox.files(KEY, made),
                tuple(
                    Original(self.config.spool_dir / r.path, r.sop_key, r.digest) for r in rows
                ),
            )
        )  # fmt: skip

    def rows(self) -> tuple[list[Any], list[Any]]:
        """Instances and revisions, but for the moments that a file system rounds."""
        with self.journal.database.reading() as db:
            instances = db.execute(sa.select(INSTANCE).order_by(INSTANCE.c.path)).all()
            studies = db.execute(sa.select(STUDY).order_by(STUDY.c.revision)).all()
        rounded = {"received_at", "predicted_at"}
        return (
            [{k: v for k, v in r._mapping.items() if k not in rounded} for r in instances],
            [{k: v for k, v in r._mapping.items() if k not in rounded} for r in studies],
        )

    def lose(self) -> None:
        """Remove the journal."""
        self.journal.close()
        for file in self.config.data_dir.glob("journal.db*"):
            file.unlink()

    def repair(self, **options: Any) -> Repaired:
        self.journal.close()
        return repair(self.config, lambda done, total: None, **options)

    def deliveries(self) -> dict[str, str]:
        return {d.key: d.state for r in self.journal.status.studies() for d in r.deliveries}


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    yield past
    past.journal.close()


@pytest.fixture
def twice(past: Past) -> Past:
    """A study of two revisions, each with its result; of one instance there are two contents."""
    past.receive(1, 2)
    past.conclude(1)
    past.receive(3)
    past.receive(1, InstanceNumber=99)
    past.conclude(2)
    return past


def test_every_row_is_as_it_was_and_results_are_delivered_once_more(twice: Past) -> None:
    before, page = twice.rows(), f"{KEY}-{{}}-prediction-django"
    twice.lose()
    done = twice.repair()
    assert (done.studies, done.rebuilt.instances, done.rebuilt.results) == (1, 4, 2)
    assert twice.rows() == before
    assert twice.deliveries() == {
        page.format(1): "queued",
        page.format(2): "queued",
        f"{KEY}-1-prediction-archive": "done",
        f"{KEY}-2-prediction-archive": "done",
    }
    assert twice.journal.receiving.open_revisions() == []
    assert twice.journal.publishing.waiting("prediction") == []
    (told, *_) = twice.journal.events.of(KEY)
    assert (told.kind, told.detail["outcome"]) == ("repair", "negative")
    for revision in (1, 2):
        _, document = twice.outbox.read(KEY, revision, Phase.PREDICTION)
        digest = hashlib.sha256(document).hexdigest()
        assert twice.journal.events.committed(KEY, revision, Phase.PREDICTION) == digest


@pytest.mark.parametrize(("hours", "state"), [(1, "queued"), (25, "discarded")])
def test_a_webhook_is_not_called_for_what_is_old(
    twice: Past, hours: int, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = WebhookDestination(name="pager", url="https://pager.hospital", secret_file=Path("x"))
    places = twice.config.destination.model_copy(update={"webhook": (hook,)})
    twice.config = twice.config.model_copy(update={"destination": places})
    twice.lose()
    later = datetime.now(UTC) + timedelta(hours=hours)
    monkeypatch.setattr(Database, "now", lambda *_: later)
    twice.repair()
    assert {s for k, s in twice.deliveries().items() if k.endswith("-pager")} == {state}
    assert {s for k, s in twice.deliveries().items() if k.endswith("-django")} == {"queued"}


def test_rebuilding_again_changes_nothing(twice: Past) -> None:
    twice.lose()
    twice.repair()
    before = twice.rows()
    again = twice.repair()
    assert (again.studies, again.rebuilt, again.kept_as) == (1, type(again.rebuilt)(), "")
    assert twice.rows() == before


def test_what_only_the_archive_holds_is_rebuilt_from_there(twice: Past) -> None:
    before = twice.rows()
    results = {p: p.read_bytes() for p in twice.config.results_dir.rglob("*.*")}
    twice.lose()
    shutil.rmtree(twice.config.spool_dir)
    shutil.rmtree(twice.config.results_dir)
    done = twice.repair()
    assert (done.rebuilt.instances, done.rebuilt.results) == (4, 2)
    after = twice.rows()
    assert after[1] == before[1]
    shown = ("study_key", "sop_key", "digest", "revision", "sop_uid", "peer", "size_bytes")
    mine, theirs = (
        sorted(tuple(row[k] for k in shown) for row in rows) for rows in (after[0], before[0])
    )
    assert mine == theirs
    assert len({row["path"] for row in after[0]}) == 4
    assert {p: p.read_bytes() for p in twice.config.results_dir.rglob("*.*")} == results


def test_an_instance_that_came_after_the_newest_result_opens_the_next_revision(
    past: Past,
) -> None:
    past.receive(1)
    past.conclude(1)
    past.receive(2)
    past.lose()
    assert past.repair().rebuilt.analyses == 1
    assert [(r.revision, r.state) for r in past.journal.status.studies()] == [
        (2, "receiving"),
        (1, "done"),
    ]


def test_a_study_without_a_result_is_received_anew(past: Past) -> None:
    past.receive(1, 2)
    past.lose()
    assert past.repair().rebuilt.instances == 2
    (row,) = past.journal.status.studies()
    assert (row.state, row.revision, row.instances) == ("receiving", 1, 2)


def test_what_was_brought_back_from_the_archive_is_of_its_old_revision(past: Past) -> None:
    (one,) = past.receive(1)
    past.conclude(1)
    path = past.config.spool_dir / one.path
    path.unlink()
    original = Original(path, one.sop_key, one.digest)
    assert ArchiveDestination(archive(past.config), originals=True).restore(KEY, original)
    past.lose()
    assert past.repair().rebuilt.analyses == 0
    assert [r.revision for r in past.journal.status.studies()] == [1]


def test_an_explanation_that_was_not_made_yet_is_due(past: Past) -> None:
    past.receive(1)
    past.conclude(1, **_positive())
    past.lose()
    assert past.repair().rebuilt.analyses == 1
    (row,) = past.journal.status.studies()
    assert (row.state, row.outcome) == ("predicted", "positive")
    assert {job.phase: job.state for job in row.jobs} == {
        "prediction": "done",
        "explanation": "queued",
    }


def test_an_old_copy_of_the_journal_is_brought_up_to_what_happened_since(past: Past) -> None:
    past.receive(1)
    past.journal.close()
    copy = past.file.read_bytes()
    past.conclude(1)
    past.receive(2)
    past.conclude(2)
    before = past.rows()
    past.lose()
    past.file.write_bytes(copy)
    done = past.repair()
    assert (done.rebuilt.instances, done.rebuilt.results) == (1, 2)
    assert past.rows() == before


def test_a_damaged_journal_is_kept_aside(twice: Past) -> None:
    before = twice.rows()
    twice.journal.close()
    whole = twice.file.read_bytes()
    twice.file.write_bytes(whole[: len(whole) // 2])
    planned = twice.repair(dry_run=True)
    assert twice.file.read_bytes() == whole[: len(whole) // 2]
    done = twice.repair()
    assert Path(done.kept_as).read_bytes() == whole[: len(whole) // 2]
    assert (planned.damage, planned.rebuilt) == (done.damage, done.rebuilt)
    assert done.damage
    assert twice.rows() == before


def test_it_is_refused_while_somebody_has_the_journal_open(twice: Past) -> None:
    hold = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT * FROM study')"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print(1, flush=True); sys.stdin.read()", twice.file],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(LimenError, match=f"process {other.pid} has the journal"):
            twice.repair()
        other.communicate()


def test_what_is_no_whole_instance_is_left_and_told(
    twice: Past, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = sorted(twice.config.spool_dir.glob("*/*.dcm"))
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(twice.config.archive_dir)
    twice.lose()
    monkeypatch.setattr(tool.telemetry, "configure", lambda *_: None)  # of the whole process
    monkeypatch.setenv("LIMEN_NODE__DATA_DIR", str(twice.config.data_dir))
    assert tool.main(["--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert (told["unreadable"], told["instances"], told["dry_run"]) == (1, 3, False)
    assert path.exists()
    assert tool.main([]) == 5
    assert "no whole instances" in capsys.readouterr().out


def test_a_locked_journal_is_not_taken_for_damaged(twice: Past) -> None:
    twice.journal.close()
    with sqlite3.connect(twice.file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        twice.journal.check()
        other.execute("ROLLBACK")
    other.close()


def _positive() -> dict[str, Any]:
    made = result()
    return {"outcome": Outcome.POSITIVE, "images": made.images}
