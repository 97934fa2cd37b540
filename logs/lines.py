"""Lines: one an event, in each format, whatever was logged and whatever failed.

Every value becomes printable text on one line, an exception its type and place. What nobody caught
is a line too. Which fields and which texts may be shown is for the caller to say.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor, WrappedLogger

from logs import journal
from logs.journal import JournalHandler, JournalRenderer

__all__ = ["FORMATS", "SHARED", "configure", "form_in_use"]

FORMATS: Final = ("text", "json", "journald")
SHARED: Final[tuple[Processor, ...]] = (
    add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
"""What every event is given: its level and its time."""

_LOG = logging.getLogger(__name__)
_LONGEST = 2000
_FRAMES = 4


def configure(
    level: str,
    form: str,
    name: str,
    *,
    foreign: Sequence[Processor],
    every: Sequence[Processor],
) -> None:
    """Let every log line of this process go one way, and let nothing fail without a line.

    Parameters
    ----------
    level
        ``debug``, ``info``, ``warning`` or ``error``.
    form
        One of ``FORMATS``. Standard error takes the first two, and the third where it is a
        terminal: there somebody reads.
    name
        Of this program, for the journal of systemd.
    foreign
        Looks at what did not come through structlog, before it has level and time; takes
        ``positional_args``, the arguments of the record, out of the event.
    every
        Looks at each event before it is written.
    """
    if form == "journald" and sys.stderr.isatty():
        form = "text"
    handler = _Entries(journal.ADDRESS) if form == "journald" else _Lines(sys.stderr)
    handler.form = form
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[
                add_logger_name,
                ExtraAdder({"stage"}),
                *foreign,
                *SHARED,
            ],
            pass_foreign_args=True,
            processors=[
                _strip_exception,
                ProcessorFormatter.remove_processors_meta,
                *every,
                _printable,
                _renderer(form, name),
            ],
        )
    )
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [handler]
    for one in before:
        if isinstance(one, _Entries):
            one.close()
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    _catch_what_nobody_caught()


def form_in_use() -> str:
    """Return the format that this process logs in; ``text`` before it was said."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Lines | _Entries):
            return handler.form
    return "text"


def _renderer(form: str, name: str) -> Any:
    if form == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    if form == "journald":
        return JournalRenderer(name)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)


def _formatted(handler: logging.Handler, record: logging.LogRecord) -> str:
    """Return the line of a record; of one that cannot be formatted, that there was one."""
    try:
        return logging.Handler.format(handler, record)
    except Exception:  # its text is not for anybody: logging would print it, and a traceback
        said = logging.LogRecord(
            record.name, logging.ERROR, "", 0, "log.fault", None, sys.exc_info()
        )
        return logging.Handler.format(handler, said)


class _Lines(logging.StreamHandler[Any]):
    form = "text"

    def format(self, record: logging.LogRecord) -> str:
        return _formatted(self, record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Standard error is gone: there is nobody to tell."""


class _Entries(JournalHandler):
    form = "journald"

    def format(self, record: logging.LogRecord) -> str:
        return _formatted(self, record)


def _strip_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace a traceback by where it came from: type, file and line, no message."""
    info = event.pop("exc_info", None)
    record = event.get("_record")
    if record is not None:
        info, record.exc_info, record.exc_text = info or record.exc_info, None, None
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if not isinstance(error, BaseException):
        return event
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    event.setdefault("error", type(error).__name__)
    event["where"] = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[::-1])
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: _shown(value) for key, value in event.items() if value is not None}


def _shown(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    text = str(value).strip()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _catch_what_nobody_caught() -> None:
    """Log what ends a thread or this process: Python would print it with its text, line by line."""
    sys.excepthook = _end_of_process
    # Hooks of somebody else (a test runner) stay.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _end_of_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable


def _end_of_process(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _LOG.critical("process.fault", exc_info=(kind, error, trace))


def _end_of_thread(said: threading.ExceptHookArgs) -> None:
    if said.exc_value is None or said.exc_type is SystemExit:
        return
    _LOG.error(
        "thread.fault",
        exc_info=(said.exc_type, said.exc_value, said.exc_traceback),
        extra={"stage": said.thread.name if said.thread else "-"},
    )


def _unraisable(said: Any) -> None:
    error = said.exc_value
    if error is not None:
        _LOG.error("object.fault", exc_info=(type(error), error, said.exc_traceback))
