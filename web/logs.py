"""Log lines without PHI: no values of exceptions, no addresses of pages, no word of a client.

The text of a database error quotes the row it refused, and the address of a request may hold what a
reader searched for: both are PHI. Lines of the other processes look the same (``logs``).
"""

from __future__ import annotations

import logging
import re
from typing import Any

from gunicorn.glogging import Logger
from structlog.stdlib import ExtraAdder
from structlog.typing import EventDict, WrappedLogger

from logs import lines

__all__ = ["FIELDS", "GunicornLogger", "configure"]

FIELDS = frozenset(
    {
        "event", "level", "timestamp", "logger", "error", "where", "stage", "host", "port",
        "address", "id", "method", "route", "status", "seconds", "study", "revision", "phase",
        "reason", "code",
    }
)  # fmt: skip
# An error of the application or a header of a client is quoted by anybody else.
_OURS = ("web", "logs")
_WORD = re.compile(r"[\w.:-]{1,64}")
_WITHHELD = "(withheld)"


def configure(settings: dict[str, str]) -> None:
    """Log as ``level`` and ``format`` say; called by Django (its setting LOGGING_CONFIG)."""
    level = settings["level"]
    foreign = [ExtraAdder(FIELDS - {"event", "level"}), _of_request, _withhold_foreign]
    lines.configure(level, settings["format"], "limen-web", foreign=foreign, every=[_allow_listed])
    for name in ("django", "django.server"):  # Django has its own opinion of where they go
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLogger().level))
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    # A wrong address or a missing page is the visitor's, not an event of the server.
    logging.getLogger("django.request").setLevel(logging.ERROR)
    logging.getLogger("django.security.DisallowedHost").setLevel(logging.CRITICAL)


class GunicornLogger(Logger):  # type: ignore[misc]
    """Gunicorn's, without handlers and formats of its own."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002
        """Leave it to the root; its lines below warning quote the addresses of requests."""
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.access_log.handlers.clear()


def _of_request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Say which request failed by the id that an error page told the reader to quote."""
    record = event["_record"]
    request = getattr(record, "request", None)
    if hasattr(request, "method"):
        match = getattr(request, "resolver_match", None)
        event["event"] = "request.failed"
        event["id"] = getattr(request, "error_id", None)
        event["method"] = request.method
        event["route"] = match.route if match else None
        event["status"] = getattr(record, "status_code", None)
    return event


def _withhold_foreign(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep of gunicorn's messages the words that are no address and no header."""
    arguments = event.pop("positional_args", None)
    root = str(event.get("logger", "")).split(".", maxsplit=1)[0]
    if event["event"] == "request.failed" or root in _OURS:
        return event
    if root != "gunicorn":
        event["event"] = "log.withheld"
    elif isinstance(arguments, tuple) and arguments:
        event["event"] = event["_record"].msg % tuple(_word(value) for value in arguments)
    return event


def _word(value: object) -> object:
    if isinstance(value, int | float) or (isinstance(value, str) and _WORD.fullmatch(value)):
        return value
    return type(value).__name__ if isinstance(value, BaseException) else _WITHHELD


def _allow_listed(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {k: v if k in FIELDS else _WITHHELD for k, v in event.items()}
