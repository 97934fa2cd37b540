"""Log lines without PHI: no values of exceptions, no addresses of pages."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType

__all__ = ["QuietFormatter"]


class QuietFormatter(logging.Formatter):
    """One line a record; a traceback shows places and types, not the text of the error.

    The text of a database error quotes the row it refused, and the address of a
    request may hold what a reader searched for: both are PHI.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the id that an error page told the reader to quote."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        request = getattr(record, "request", None)
        if request is None:
            text = record.getMessage()
        else:
            match = getattr(request, "resolver_match", None)
            text = (
                f"request failed id={getattr(request, 'error_id', '-')} method={request.method} "
                f"route={match.route if match else '-'} status={getattr(record, 'status_code', 0)}"
            )
        line = f"{when} {record.levelname.lower():7} {record.name}: {text}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Return the frames and the type of the exception, and leave its text out."""
        kind, _, trace = ei
        frames = "".join(traceback.format_tb(trace)) if trace else ""
        return f"{frames}{kind.__module__}.{kind.__name__}" if kind else frames
