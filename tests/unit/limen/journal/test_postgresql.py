"""limen.journal.postgresql: a server that is away, stopped, slow or full ends no thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from limen.config import Queue
from limen.errors import Transient, Unreachable
from limen.journal import Journal, postgresql
from tests.support.journals import receive


class Wire:
    """A proxy on loopback in front of PostgreSQL that can fall silent, as a stopped server does."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.silent = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                there = socket.create_connection(("127.0.0.1", 5432))
                self._sockets += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.silent.is_set():
                    target.sendall(data)

    def close(self) -> None:
        self._listening.close()
        for one in self._sockets:
            one.close()


@pytest.fixture
def wire(postgres_url: str) -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def behind(wire: Wire, postgres_url: str) -> Iterator[Journal]:
    """A journal that reaches its server over the wire."""
    journal = Journal(postgres_url.replace(":5432", f":{wire.port}"))
    yield journal
    journal.close()


def test_no_wait_is_longer_than_a_lease() -> None:
    """A worker whose journal hangs finds out in time to be alone with its work."""
    waits = (postgresql._STATEMENT_S, postgresql._LOCK_S, postgresql._ANSWER_S, postgresql._POOL_S)
    assert max(waits) < Queue().lease_s
    assert postgresql._Connection.answer_s == postgresql._ANSWER_S


def test_a_server_that_falls_silent_is_given_up_and_found_again(
    behind: Journal, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql._Connection, "answer_s", 0.5)
    assert behind.status.queues() == {}
    wire.silent.set()
    began = time.monotonic()
    with pytest.raises(Unreachable, match="does not answer"):
        behind.status.queues()
    assert time.monotonic() - began < 15
    wire.silent.clear()
    assert behind.status.queues() == {}


def test_a_server_that_takes_connections_and_never_speaks_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        journal = Journal(f"postgresql+psycopg://limen:hunter2@127.0.0.1:{port}/limen")
        began = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer") as caught:
            journal.status.queues()
        journal.close()
    assert time.monotonic() - began < 10
    assert "hunter2" not in str(caught.value)


def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_STATEMENT_S", 1)
    journal = Journal(postgres_url)
    with (
        pytest.raises(Unreachable, match="did not answer in time"),
        journal.database.reading() as db,
    ):
        db.execute(sa.text("SELECT pg_sleep(30)"))
    journal.close()


def test_a_row_that_stays_locked_is_given_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_LOCK_S", 1)
    journal, other = Journal(postgres_url), Journal(postgres_url)
    with other.database.writing() as held:
        held.execute(sa.text("LOCK TABLE study IN EXCLUSIVE MODE"))
        with (
            pytest.raises(Transient, match="stayed locked"),
            journal.database.writing() as db,
        ):
            db.execute(sa.text("LOCK TABLE study IN EXCLUSIVE MODE"))
    journal.close()
    other.close()


def test_a_process_whose_connections_are_all_in_use_is_told_so(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_POOL_S", 0.05), ("_POOL_SIZE", 1), ("_POOL_OVERFLOW", 0)):
        monkeypatch.setattr(postgresql, name, value)
    journal = Journal(postgres_url)
    with (
        journal.database.reading(),
        pytest.raises(Unreachable, match="every connection of this process is in use"),
    ):
        journal.status.queues()
    journal.close()


def test_a_migration_may_take_its_time(postgres_url: str) -> None:
    journal = Journal(postgres_url)
    with journal.database.writing() as db:
        postgresql.without_deadlines(db)
        assert db.scalar(sa.text("SHOW statement_timeout")) == "0"
    with journal.database.writing() as db:
        assert db.scalar(sa.text("SHOW statement_timeout")) == "15s"
        connection = db.connection.driver_connection
        assert isinstance(connection, postgresql._Connection)
        assert connection.answer_s == postgresql._ANSWER_S
    journal.close()


def test_a_database_of_a_server_that_was_made_without_a_language_does(postgres_url: str) -> None:
    """Where LANG is not set, PostgreSQL makes its databases as SQL_ASCII: bytes, whoever asks."""
    name = f"limen_test_{uuid.uuid4().hex[:12]}"
    server_url = postgres_url.replace("+psycopg", "")
    with psycopg.connect(server_url, autocommit=True) as server:
        encoding = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        server.execute(f"CREATE DATABASE {name} {encoding}")
        journal = Journal(f"{postgres_url.rpartition('/')[0]}/{name}")
        try:
            journal.migrate()
            assert receive(journal)
            assert [row.state for row in journal.status.studies()] == ["complete"]
        finally:
            journal.close()
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
