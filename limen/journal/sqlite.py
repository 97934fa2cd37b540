"""The journal on SQLite: a file of one host, write-ahead, durable with each commit."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

__all__ = ["READING", "engine"]

READING = "limen_reading"
"""Execution option of a transaction that only reads."""

_BUSY_TIMEOUT_S = 15.0
_WAL_RETRY_S = 0.02


def engine(url: str) -> sa.Engine:
    """Return an engine; file and folder are made where they are missing, for their owner alone."""
    path = Path(sa.make_url(url).database or "")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        path.touch(mode=0o600)  # SQLite gives -wal and -shm the mode of the file
    made = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @sa.event.listens_for(made, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(made, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # A writer takes the lock first and waits for it, rather than fail half-way through.
        reads = connection.get_execution_options().get(READING)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return made


def _write_ahead(connection: Any) -> None:
    """Put the file into WAL mode, once in its life.

    The switch fails at once while another process has just made the file: SQLite's busy timeout
    does not cover it.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_S)
        else:
            return
