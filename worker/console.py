"""What the worker's command line tools share: options, the edge, exit codes, progress."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from limen.errors import ConfigError, LimenError

__all__ = [
    "FAILED",
    "OK",
    "PARTIAL",
    "TABLE_COLUMNS",
    "USAGE",
    "Step",
    "at_the_edge",
    "common_options",
    "progress",
    "say",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PARTIAL: Final = 5

TABLE_COLUMNS: Final = 160
"""Width of a table that is not written to a terminal."""

Step = Callable[[str], Callable[[int, int], None]]
"""Begins a step with its title; gives what is called with how much of it is done."""


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command takes."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: config.toml")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def at_the_edge(debug: bool, command: Callable[[], int]) -> int:
    """Run a command; turn its errors into one text and an exit code."""
    try:
        return command()
    except KeyboardInterrupt:
        say("stopped")
        return FAILED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ConfigError as exc:
        say(str(exc), debug=debug)
        return USAGE
    except LimenError as exc:
        say(str(exc), debug=debug)
        return FAILED
    except Exception as exc:
        hint = "" if debug else "; run it again with --debug and report the traceback"
        say(f"unexpected fault ({type(exc).__name__}){hint}", debug=debug)
        return FAILED


def say(text: str, *, debug: bool = False) -> None:
    """Tell people a fault; the traceback only when it is asked for."""
    if debug:
        traceback.print_exc()
    print(text, file=sys.stderr)  # noqa: T201


@contextmanager
def progress(*, quiet: bool) -> Iterator[Step]:
    """Show a bar on a terminal, a line for each step otherwise, nothing when quiet."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    if not console.is_terminal:

        def line(title: str) -> Callable[[int, int], None]:
            console.print(title, markup=False)
            return lambda done, total: None

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def bar(title: str) -> Callable[[int, int], None]:
            for task in bars.task_ids:
                bars.remove_task(task)
            task_id = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task_id, completed=done, total=total)

        yield bar
