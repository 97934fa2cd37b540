"""The journal on SQLite: a file of one host, write-ahead, durable with each commit."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

__all__ = ["READING", "damage", "engine", "files"]

READING = "limen_reading"
"""Execution option of a transaction that only reads."""

_BUSY_TIMEOUT_S = 15.0
_WAL_RETRY_S = 0.02
_READ_WHOLE_BYTES = 256 << 20  # of what is larger only the end is looked for
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


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


def files(path: Path) -> list[Path]:
    """Return the files that make up a journal, as far as they are there."""
    return [p for p in (path, Path(f"{path}-wal"), Path(f"{path}-shm")) if p.exists()]


def damage(path: Path) -> str:
    """Return what is wrong with the file of a journal, in a few words; empty where it is well.

    A file of up to 256 MiB is read as a whole, in a second of processor time; of a larger one only
    whether its end is there. What cannot be told now, because the file is locked, is nothing wrong.
    """
    if not path.exists() or not path.stat().st_size:
        return ""
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)) as db:
        try:
            (pages,), (page,) = (
                db.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size")
            )
            written = Path(f"{path}-wal")
            if pages * page > path.stat().st_size and not (
                written.exists() and written.stat().st_size
            ):
                return "its end is missing"
            if path.stat().st_size > _READ_WHOLE_BYTES:
                return ""
            said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as exc:
            return exc.sqlite_errorname if exc.sqlite_errorname.startswith(_DAMAGE) else ""
    return "" if said == "ok" else "its pages contradict each other"
