"""A check, what it finds, and the node that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from limen.config import Config
from limen.errors import LimenError
from limen.journal import Journal

__all__ = ["Check", "Finding", "Node", "Verdict", "failed", "ok", "skipped", "warning"]


class Verdict(StrEnum):
    """What a check says of one thing."""

    OK = "ok"
    SKIPPED = "skipped"
    """It was not looked at; the text says why."""
    WARNING = "warning"
    """It works, and somebody should look at it."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check.

    Attributes
    ----------
    text
        What is so, and for what is wrong why.
    next
        What to do about it; "" where that is nothing, or the text says it.
    """

    verdict: Verdict
    text: str
    next: str = ""


def ok(text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Verdict.OK, text)


def skipped(text: str, todo: str = "") -> Finding:
    """Return that something was not looked at."""
    return Finding(Verdict.SKIPPED, text, todo)


def warning(text: str, todo: str) -> Finding:
    """Return that somebody should look at something."""
    return Finding(Verdict.WARNING, text, todo)


def failed(text: str, todo: str) -> Finding:
    """Return that something does not work."""
    return Finding(Verdict.FAILED, text, todo)


@dataclass(frozen=True, slots=True)
class Node:
    """The node that is looked at, by its settings.

    Attributes
    ----------
    file
        The settings file; None: there is none.
    environment
        That of the processes of Limen, for children.
    """

    settings: Config
    file: Path | None
    environment: Mapping[str, str]

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Open the journal as it is: nothing is made, nothing is migrated.

        Raises
        ------
        LimenError
            There is none yet.
        """
        url, prefix = self.settings.journal_url, "sqlite:///"
        if url.startswith(prefix) and not Path(url.removeprefix(prefix)).is_file():
            raise LimenError(
                f"there is no journal at {url.removeprefix(prefix)}; start Limen there "
                "(`limen up`), or name its settings with --config"
            )
        journal = Journal(url)
        try:
            yield journal
        finally:
            journal.close()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a node needs.

    Attributes
    ----------
    name
        The word by which people choose it.
    looks_at
        What it looks at, for the table in docs/doctor.md.
    run
        Looks. A ``LimenError`` that it raises is a failure with that text.
    needs
        Checks without which it says nothing: it is skipped where one of them has failed.
    timeout_s
        After that it is a failure, whatever comes later.
    """

    name: str
    looks_at: str
    run: Callable[[Node], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    timeout_s: float = 10.0
