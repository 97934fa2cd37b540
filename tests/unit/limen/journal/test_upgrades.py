"""limen.journal.migrations: a journal of an earlier version, with rows, goes on with this one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from limen.journal import Delivery, Job, Journal, migrations
from limen.journal.tables import METADATA
from limen.uids import key_of
from tests.support.samples import START, STUDY_UID, SUMMARY, new_instance

KEY = key_of(STUDY_UID)
DONE_UID = f"{STUDY_UID}.9"
DONE = key_of(DONE_UID)


def alembic(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


VERSIONS = [s.revision for s in ScriptDirectory.from_config(alembic()).walk_revisions()][:0:-1]


def rows() -> dict[str, list[dict[str, Any]]]:
    """A study whose prediction is due, and one that is done but for a delivery that is dead."""
    work = {"revision": 1, "phase": "prediction", "attempts": 1, "last_error": ""}
    times = dict.fromkeys(("created_at", "due_at", "publish_at"), START)
    due = {"key": f"{KEY}-1-prediction", "study_key": KEY, "state": "queued"}
    done = {"key": f"{DONE}-1-prediction", "study_key": DONE, "state": "done"}
    dead = {"key": f"{DONE}-1-prediction-django", "study_key": DONE, "state": "dead"}
    ended = {"outcome": "negative", "probability": 0.1, "complete_at": START, "predicted_at": START}
    instances = [new_instance(1), new_instance(2), new_instance(1, DONE_UID)]
    return {
        "study": [
            {"study_key": KEY, "study_uid": STUDY_UID, "state": "complete", "complete_at": START},
            {"study_key": DONE, "study_uid": DONE_UID, "state": "done", **ended},
        ],
        "job": [work | times | due, work | times | done],
        "delivery": [work | times | dead | {"destination": "django", "last_error": "409"}],
        "instance": [{name: getattr(i, name) for name in i.__slots__} for i in instances],
    }


def filled(url: str, version: str) -> None:
    """Make a journal as that version left it."""
    engine = sa.create_engine(url)
    with engine.begin() as db:
        command.upgrade(alembic(db), version)
        found = sa.MetaData()
        found.reflect(db)
        for name, some in rows().items():
            table = found.tables[name]
            for row in some:
                db.execute(table.insert().values(**_row(table, row)))
    engine.dispose()


def _row(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of that version: what it does not know is left out, what it needs is there."""
    plain: dict[type, Any] = {int: 1, str: "", datetime: START, bool: False}
    needed = {
        c.name: plain[c.type.python_type]
        for c in table.columns
        if not c.nullable and c.server_default is None
    }
    known = {c.name for c in table.columns}
    row = needed | {k: v for k, v in row.items() if k in known}
    return {k: v.replace(tzinfo=None) if isinstance(v, datetime) else v for k, v in row.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_journal_of_an_earlier_version_is_brought_up_with_its_rows_and_its_work_goes_on(
    version: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/journal.db"
    filled(url, version)
    journal = Journal(url)
    assert not journal.is_current()
    journal.migrate()
    assert journal.is_current()
    with journal.database.reading() as db:
        tables = set(sa.inspect(db).get_table_names())
    assert set(METADATA.tables) <= tables
    due, done = journal.status.study(KEY, 1), journal.status.study(DONE, 1)
    assert (due.state, due.instances, done.state, done.outcome) == (
        "complete",
        2,
        "done",
        "negative",
    )
    (dead,) = done.deliveries
    assert (dead.state, dead.last_error) == ("dead", "409")
    job = journal.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    assert job is not None
    assert journal.work.commit(job, "a", SUMMARY, ("django",))
    assert journal.work.retry(dead.key)
    for key in (dead.key, f"{KEY}-1-prediction-django"):
        delivery = journal.work.claim(Delivery, key, "a", 30)
        assert delivery is not None
        assert journal.work.delivered(delivery, "a")
    assert {p.study_key for p in journal.retention.oldest(journal.clock())} == {KEY, DONE}
    assert not journal.receiving.record([new_instance(1)])[0].new
    journal.close()
