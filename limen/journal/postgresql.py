"""The journal on PostgreSQL: every wait has an end, whatever the server or the network does.

The server ends a statement that takes too long, and a lock that is not to be had. The system ends
a connection whose other side is gone. And a server that is there and says nothing, stopped or
behind a proxy that is stuck, is given up by us.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa

__all__ = ["engine", "without_deadlines"]

_T = TypeVar("_T")
_STATEMENT_S, _LOCK_S, _IDLE_S = 15, 10, 60
_ANSWER_S = 20.0
_POOL_S = 10.0
_POOL_SIZE, _POOL_OVERFLOW = 10, 20
_CONNECT = {
    "client_encoding": "utf8",  # else a database that is SQL_ASCII answers with bytes
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,  # ms
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class _Connection(psycopg.Connection[Any]):
    """A connection that gives up when no answer comes within ``answer_s``."""

    answer_s = _ANSWER_S

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **more: Any) -> _T:
        return super().wait(self._within(gen), *args, **more)

    def _within(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        deadline = time.monotonic() + self.answer_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted  # nothing is ready: psycopg asks ten times a second
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {self.answer_s:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: _T = end.value
            return answer


def engine(url: str) -> sa.Engine:
    """Return an engine whose every wait has an end."""
    made = sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_OVERFLOW,
        pool_timeout=_POOL_S,
        connect_args=_CONNECT,
    )

    @sa.event.listens_for(made, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, more: Any) -> _Connection:
        return _Connection.connect(*args, **more)

    @sa.event.listens_for(made, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # Said here, not when connecting: a pooler between us refuses options that it does not know.
        connection.execute(
            f"SET statement_timeout = '{_STATEMENT_S}s'; SET lock_timeout = '{_LOCK_S}s'; "
            f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'"
        )
        connection.commit()

    return made


def without_deadlines(db: sa.Connection) -> None:
    """Let the statements of this transaction take their time: a migration may need it."""
    for name in ("statement_timeout", "lock_timeout"):
        db.execute(sa.text(f"SET LOCAL {name} = 0"))
    connection = db.connection.driver_connection
    assert isinstance(connection, _Connection)  # noqa: S101 - `engine` makes no other
    connection.answer_s = float("inf")
    db.detach()  # it ends with this transaction
