"""The database of the journal: its engine, its transactions, its clock, its version.

SQLite (WAL, synchronous=FULL) on one host, PostgreSQL for several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError

from limen.errors import LostJournal, NewerJournal
from limen.journal import sqlite
from limen.journal.faults import REPAIR, translated
from limen.journal.steps import Steps
from limen.journal.tables import VERSION

__all__ = ["Database", "utc_now"]

log = structlog.get_logger("limen.journal")

_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"
_MIGRATING = 76733  # any number that only Limen locks
_CLOCK_OFF_S = 2.0


def utc_now() -> datetime:
    """Return the clock of this host, in UTC."""
    return datetime.now(UTC)


class Database:
    """The engine behind a URL; safe to share between threads.

    Parameters
    ----------
    url
        SQLAlchemy URL: ``sqlite:///...`` or ``postgresql+psycopg://...``.
    clock
        Returns now, in UTC, in place of the clock that decides; for tests.
    host_clock
        Returns now by this host, in UTC.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime] | None = None,
        host_clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.url = url
        self._clock = clock
        self._host_clock = host_clock
        self._steps = Steps()
        self.engine = _engine(url)
        self.clock_off_s = 0.0
        """How far the clock of this host is ahead of the one that decides, in seconds."""
        self._told_off = False

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @property
    def name(self) -> str:
        """The URL without its password, for people."""
        return self.engine.url.render_as_string(hide_password=True)

    def now(self, db: sa.Connection) -> datetime:
        """Return now, by the clock that decides what is due: that of PostgreSQL, else the host's.

        Hosts that share a journal would otherwise take each other's work for late.
        """
        if self._clock is not None:
            return self._clock()
        host = self._host_clock()
        if db.dialect.name != "postgresql":
            return self._steps.now(db, host)
        now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        self._note_clock((host - now).total_seconds())
        return now.astimezone(UTC)

    def correction(self, db: sa.Connection) -> timedelta:
        """Return what to add to a time of this host: nothing, unless its clock is plainly off."""
        self.now(db)
        return timedelta(seconds=-self.clock_off_s if self._told_off else 0)

    def clock(self) -> datetime:
        """Return now, by the clock that decides.

        Raises
        ------
        Unreachable
            The database does not answer.
        """
        with self.reading() as db:
            return self.now(db)

    def migrate(self) -> None:
        """Bring the tables to this version (Alembic); a no-op when they are.

        Raises
        ------
        Unreachable
            The database does not answer.
        NewerJournal
            A newer Limen has brought them to a version that this one does not know.
        JournalError
            A migration failed.
        """
        if self.is_current():
            return
        from limen.journal.migrations import upgrade  # noqa: PLC0415 - Alembic takes time and 12 MB

        with self.writing() as db:
            if db.dialect.name == "postgresql":
                from limen.journal import postgresql  # noqa: PLC0415 - as in _engine

                postgresql.without_deadlines(db)
                # Several processes may start at once.
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
            upgrade(db)

    def check(self) -> None:
        """Look whether the file of the journal is whole; PostgreSQL looks after its own.

        Raises
        ------
        LostJournal
            It is damaged.
        """
        if self.engine.dialect.name != "sqlite":
            return
        wrong = sqlite.damage(Path(self.engine.url.database or ""))
        if wrong:
            raise LostJournal(f"the journal {self.name} is damaged ({wrong}); {REPAIR}")

    def is_current(self) -> bool:
        """Return whether the tables are those of this version.

        Raises
        ------
        Unreachable
            The database does not answer.
        NewerJournal
            They are of a version that this one does not know.
        """
        with self.reading() as db:
            if not sa.inspect(db).has_table(VERSION.name):
                return False
            found = db.scalar(sa.select(VERSION.c.version_num))
        known = {p.name.partition("_")[0] for p in _MIGRATIONS.glob("[0-9]*.py")}
        if found is not None and found not in known:
            raise NewerJournal(
                f"the journal {self.name} was written "
                f"by a newer Limen (its tables are at {found}, this version knows {max(known)}); "
                "install that version again, or put back the copy of the journal that was made "
                "before the upgrade"
            )
        return found == max(known)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection; what is written through it is committed together, or not at all.

        Raises
        ------
        Transient
            The database is away, locked or full, or another process wrote the same row first.
        JournalError
            The database refuses the statement, now and always.
        """
        with self._transaction({}) as db:
            yield db

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection to read from; it waits for no writer, and no writer waits for it.

        Raises
        ------
        Unreachable
            The database does not answer.
        JournalError
            The database refuses the statement, now and always.
        """
        with self._transaction({sqlite.READING: True, "postgresql_readonly": True}) as db:
            yield db

    @contextmanager
    def _transaction(self, options: dict[str, bool]) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect().execution_options(**options) as db, db.begin():
                yield db
        except SQLAlchemyError as exc:
            raise translated(exc, self.name) from exc

    def _note_clock(self, off_s: float) -> None:
        """Say when the clock of this host goes wrong, and when it is right again."""
        self.clock_off_s = off_s
        off = abs(off_s) > (_CLOCK_OFF_S / 2 if self._told_off else _CLOCK_OFF_S)
        if off != self._told_off:
            event = "clock.off" if off else "clock.right"
            (log.warning if off else log.info)(event, seconds=round(off_s, 1))
        self._told_off = off


def _engine(url: str) -> sa.Engine:
    if url.startswith("sqlite"):
        return sqlite.engine(url)
    from limen.journal import postgresql  # noqa: PLC0415 - psycopg takes 9 MB

    return postgresql.engine(url)
