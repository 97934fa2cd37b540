"""What people read: lines, tables, numbers, and how far a transfer is."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

__all__ = ["doing", "number", "printable", "progress", "say", "table"]

_WIDTH = 200  # where no terminal says how wide it is


def printable(text: str) -> str:
    """Return ``text`` with the code in place of what moves a cursor, hides, or is no character.

    Headers, file names and peers' words reach the terminal; none of them controls it.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def say(text: str, *, error: bool = False) -> None:
    """Print a line at once, ``error`` on standard error."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)  # noqa: T201


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; without ``heads`` it has no line for them."""
    from rich.console import Console  # noqa: PLC0415 - --help and the processes need none
    from rich.table import Table  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, show_header=bool(heads))
    for n in range(len(heads) or max(map(len, rows), default=0)):
        made.add_column(heads[n] if heads else "")
    for row in rows:
        made.add_row(*map(printable, row))
    width = None if sys.stdout.isatty() else _WIDTH
    # Text of headers and file names is no markup, and no emoji.
    Console(width=width, highlight=False, markup=False, emoji=False).print(made)


def number(value: float | None, form: str) -> str:
    """Return a value as ``form`` shows it, a dash for one that is not known."""
    return "-" if value is None else form.format(value)


@contextlib.contextmanager
def doing(*, silent: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield what to call with what is done now: a line on a terminal, nothing elsewhere."""
    if silent or not sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

    with Console(highlight=False, markup=False, emoji=False).status("") as status:
        yield status.update


@contextlib.contextmanager
def progress(total: int, *, silent: bool) -> Iterator[Callable[[object], None]]:
    """Yield what to call after each of ``total`` instances: a bar, or plain lines."""
    if sys.stdout.isatty() and not silent:
        from rich.progress import MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = Progress.get_default_columns()[1:3]
        with Progress(TextColumn("sending"), *columns, MofNCompleteColumn()) as bars:
            bar = bars.add_task("sending", total=total)
            yield lambda _: bars.advance(bar)
        return
    counting, done, step = threading.Lock(), 0, max(1, total // 10)

    def count(_: object) -> None:
        nonlocal done
        with counting:
            done += 1
            if not silent and done % step == 0:
                say(f"{done} of {total}")

    yield count
