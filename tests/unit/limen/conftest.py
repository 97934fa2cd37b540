"""Journals on both databases, each test with an empty one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from limen.journal import Journal
from limen.journal.tables import METADATA
from tests.support.samples import Clock
from tests.support.services import require_service

POSTGRES = {"host": "127.0.0.1", "port": 5432, "user": "postgres", "connect_timeout": 3}


@pytest.fixture(autouse=True)
def no_limen_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this shell reaches a test."""
    for name in [n for n in os.environ if n.startswith("LIMEN_")]:
        if name != "LIMEN_REQUIRE_SERVICES":
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite journal without any row, to be copied."""
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    journal = Journal(f"sqlite:///{path}")
    journal.migrate()
    journal.close()
    return path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL database of this run's own, migrated."""
    try:
        server = psycopg.connect(**POSTGRES, dbname="postgres", autocommit=True)
    except psycopg.OperationalError:
        server = None
    require_service(server, "no PostgreSQL on 127.0.0.1:5432 that trusts the user postgres")
    assert server is not None
    name = f"limen_test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    server.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    url = f"postgresql+psycopg://postgres@127.0.0.1:5432/{name}"
    journal = Journal(url)
    try:
        journal.migrate()
        yield url
    finally:
        journal.close()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        server.close()


@pytest.fixture
def sqlite_journal(tmp_path: Path, migrated_file: Path, clock: Clock) -> Iterator[Journal]:
    """An empty journal on SQLite."""
    path = tmp_path / "journal.db"
    shutil.copyfile(migrated_file, path)
    journal = Journal(f"sqlite:///{path}", clock)
    yield journal
    journal.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def journal(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Journal]:
    """An empty journal, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_journal")
        return
    journal = Journal(request.getfixturevalue("postgres_url"), clock)
    yield journal
    with journal.database.engine.begin() as db:
        for table in METADATA.tables.values():
            db.execute(table.delete())
    journal.close()
