"""What an error of the database means: the same statement may work later, or never will."""

from __future__ import annotations

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from limen.errors import JournalAway, JournalError, LimenError, OutOfSpace, Transient, Unreachable

__all__ = ["REPAIR", "translated"]

REPAIR = (
    "nothing that was received is lost with it: end Limen here, then `limen doctor --repair` "
    "rebuilds it from spool, results and archive, and keeps this file aside"
)
"""What to do about a journal that is damaged or gone."""

_DUPLICATE = {"23505", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"}
_TOO_SLOW = {"57014", "55P03"}  # it is there; the same statement may be too slow each time
_FULL = {"53100", "SQLITE_FULL"}
_SAID = {
    "SQLITE_BUSY": "is locked; look for a program that keeps it open",
    "SQLITE_LOCKED": "is locked; look for a program that keeps it open",
    "SQLITE_NOTADB": f"is damaged, or no journal; {REPAIR}",
    "SQLITE_CORRUPT": f"is damaged; {REPAIR}",
    "SQLITE_READONLY": "may not be written; check who owns the file and its folder",
    "SQLITE_CANTOPEN": "cannot be opened; check who owns the file and its folder",
    "57014": "did not answer in time; check the load of PostgreSQL",
    "55P03": "did not answer in time: a row stayed locked; look for a session that hangs",
    "53300": "has no connection left; raise max_connections of PostgreSQL, or run fewer processes",
    "28000": "does not let us in; check the user in journal.url and pg_hba.conf",
    "28P01": "does not let us in; check user and password in journal.url",
    "3D000": "has no such database; create it, or check journal.url",
    "25006": "takes no writes now: a standby; it works again when it is promoted",
}


def translated(error: SQLAlchemyError, name: str) -> LimenError:
    """Return the error to raise in place of one of SQLAlchemy's.

    Parameters
    ----------
    name
        The URL of the journal, without its password.
    """
    if isinstance(error, NoFreeConnection):
        return JournalAway(
            f"the journal {name} is busy: every connection of this process is in use; "
            "it goes on when one is free"
        )
    if not isinstance(error, DBAPIError):
        return JournalError(_fault(name, type(error).__name__))
    code, kind = _code(error), type(error.orig).__name__
    if code in _DUPLICATE:
        return Transient("the journal row was written by another process; try again")
    if code in _FULL:
        return OutOfSpace(f"the disk of the journal {name} is full; make room there")
    if _is_refusal(error, code):
        return JournalError(_fault(name, kind))
    said = _SAID.get(code) or _SAID.get("_".join(code.split("_")[:2]))
    if said is None and code.startswith("SQLITE"):
        said = "cannot be read or written; check its disk"
    if said is None:
        said = f"cannot serve now ({code})" if code else "does not answer; check that it runs there"
    away = Unreachable if code in _TOO_SLOW else JournalAway
    return away(f"the journal {name} {said} ({kind})")


def _is_refusal(error: DBAPIError, code: str) -> bool:
    """The database understood, and will never do it. SQLite calls a missing table operational."""
    if isinstance(error, ProgrammingError | DataError | IntegrityError | NotSupportedError):
        return code not in _SAID
    return isinstance(error, OperationalError) and code == "SQLITE_ERROR"


def _code(error: DBAPIError) -> str:
    """Return the SQLSTATE of PostgreSQL, or SQLite's name; empty when there was no answer."""
    found = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    return str(found or "")


def _fault(name: str, kind: str) -> str:
    return (
        f"the journal {name} refuses a statement ({kind}): its tables are of another version, "
        "or this is a fault of Limen; check that every process here runs the same version"
    )
