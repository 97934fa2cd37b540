"""The edge of every command: its exit code, and its errors as one text.

``limen ...``, ``python -m scp`` and ``python -m worker`` end here.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from limen.command.screen import say
from limen.errors import LimenError

__all__ = [
    "CANNOT_BIND",
    "FAILED",
    "MEANINGS",
    "OK",
    "PARTIAL",
    "REFUSED",
    "STOPPED",
    "USAGE",
    "at_the_edge",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
CANNOT_BIND: Final = 3
REFUSED: Final = 4
PARTIAL: Final = 5
STOPPED: Final = 130
"""Ctrl-C: what shells say of a program that SIGINT ended."""

MEANINGS: Final = (
    "Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 cannot bind, 4 peer refused, 5 partial."
)


def at_the_edge(command: Callable[[], int], *, debug: bool = False, service: bool = False) -> int:
    """Run a command and return its exit code; an error is told on standard error, in one text.

    That of a service is an event of its log, where a program reads that: ``log.format``.

    An error that Limen raises says its own exit code (``LimenError.exit_code``). The traceback is
    there for who asks with ``--debug``.
    """
    _print_whatever_comes()
    try:
        return command()
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:  # `limen status | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except LimenError as exc:
        return _fail(str(exc), exc.exit_code, debug=debug, service=service)
    except Exception as exc:
        # The text of a foreign error may quote a data element.
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{type(exc).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        hint = "" if debug else "; run it again with --debug and report the traceback"
        return _fail(f"unexpected fault ({where}){hint}", FAILED, debug=debug, service=service)


def _fail(text: str, code: int, *, debug: bool, service: bool) -> int:
    if debug:
        traceback.print_exc()
    if not (service and _told_as_event(text, code)):
        say(f"limen: {text}", error=True)
    return code


def _told_as_event(text: str, code: int) -> bool:
    """Log why a service ends, where programs read its log; return whether they do."""
    # Only a service has these packages: `limen install` runs with the Python of the host.
    import structlog  # noqa: PLC0415

    from logs import lines  # noqa: PLC0415

    if lines.form_in_use() == "text":
        return False
    structlog.get_logger("limen.edge").error("process.failed", reason=text, code=code)
    return True


def _print_whatever_comes() -> None:
    """Let no character that the terminal's encoding lacks end a command."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
