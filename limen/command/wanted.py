"""Which studies a command is about: what the filters of `limen status` and `limen retry` mean."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

from limen.errors import ConfigError
from limen.journal import Wanted
from limen.result import Outcome
from limen.states import StudyState

__all__ = ["DEFAULT", "dead_of", "wanted_of"]

DEFAULT = Wanted(newest=True)
"""What is shown when nothing is asked for."""

_UNITS = {"min": "minutes", "h": "hours", "d": "days"}
_AGE = re.compile(r"([0-9]{1,6})(min|h|d)")


def wanted_of(args: argparse.Namespace, now: datetime) -> Wanted:
    """Return what the options ask for.

    Raises
    ------
    ConfigError
        ``--since`` is no time.
    """
    return Wanted(
        outcome=Outcome(args.outcome) if args.outcome else None,
        state=StudyState(args.state) if args.state else None,
        since=_since(args.since, now) if args.since else None,
        destination=args.destination,
        dead=args.dead,
        newest=not args.study and args.revisions == "newest",
    )


def dead_of(args: argparse.Namespace, now: datetime) -> Wanted:
    """Return what the options of `limen retry --all` ask for.

    Raises
    ------
    ConfigError
        ``--since`` is no time.
    """
    since = _since(args.since, now) if args.since else None
    return Wanted(since=since, destination=args.destination, dead=True, newest=True)


def _since(text: str, now: datetime) -> datetime:
    age = _AGE.fullmatch(text)
    if age:
        return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(
            f"--since {text}: neither an age such as 30min, 12h or 7d, nor a day such as 2026-11-29"
        ) from exc
    return at if at.tzinfo else at.replace(tzinfo=UTC)
