"""What the worker's command line tools share: options, progress."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from limen.command.screen import say

__all__ = ["Step", "common_options", "print_json", "progress"]

Step = Callable[[str], Callable[[int, int], None]]
"""Begins a step with its title; gives what is called with how much of it is done."""


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command takes."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: config.toml")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def print_json(tree: Any) -> None:
    """Print what a script reads; times as RFC 3339."""
    say(json.dumps(tree, indent=2, default=datetime.isoformat))


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
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def bar(title: str) -> Callable[[int, int], None]:
            for task in bars.task_ids:
                bars.remove_task(task)
            task_id = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task_id, completed=done, total=total)

        yield bar
