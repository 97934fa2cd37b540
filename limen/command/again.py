"""``limen retry``, ``limen discard`` and ``limen replay``: work that is done again, or never."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from limen import again
from limen.account import whoever
from limen.command.begin import open_journal, read_settings
from limen.command.edge import FAILED, OK
from limen.command.screen import say
from limen.command.wanted import dead_of
from limen.errors import ConfigError, LimenError
from limen.journal import Journal, WorkRow

__all__ = ["discard", "replay", "retry"]


def retry(args: argparse.Namespace) -> int:
    """Queue a dead delivery again, run the study of a dead job again, or ask a PACS again."""
    if bool(args.key) == args.all:
        raise ConfigError("either the key of what is dead, or --all; see `limen status --dead`")
    journal = open_journal(args)
    if args.all:
        return _retry_all(args, journal)
    say(again.retry(read_settings(args), journal, args.key, whoever()))
    return OK


def _retry_all(args: argparse.Namespace, journal: Journal) -> int:
    """Queue every dead delivery again that the filters leave, and run the studies of dead jobs."""
    dead = journal.status.dead(dead_of(args, journal.clock()))
    if not dead:
        say("nothing is dead")
        return OK
    if not args.yes and not _agrees(f"try {_counted(dead)} again?"):
        say("nothing was tried again")
        return FAILED
    by = whoever()
    queued = [work for work in dead if journal.work.retry(work.key, by)]
    studies = {work.key.split("-")[0] for work in dead} - {w.key.split("-")[0] for w in queued}
    first, replay_of = read_settings(args).originals_first, journal.receiving.replay
    runs = [key for key in sorted(studies) if replay_of(key, by, originals_first=first) is not None]
    say(f"{len(queued)} deliveries are queued again, {len(runs)} studies run again")
    return OK


def _counted(dead: Sequence[WorkRow]) -> str:
    """Return what is dead in words: ``3 of archive, 1 of prediction``."""
    counted = Counter(work.destination or work.phase for work in dead)
    return ", ".join(f"{count} of {name}" for name, count in sorted(counted.items()))


def _agrees(question: str) -> bool:
    """Ask whoever sits there.

    Raises
    ------
    ConfigError
        Nobody does.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody is there to answer: say --yes")
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def discard(args: argparse.Namespace) -> int:
    """Let dead work stay undone: it is no fault any more, and is never shown as done."""
    settings, who = read_settings(args), whoever()
    journal = open_journal(args)
    say(again.discard(settings, journal, args.key, reason=args.reason, by=who))
    return OK


def replay(args: argparse.Namespace) -> int:
    """Analyse a study again, as a new revision."""
    archive = read_settings(args).destination.archive
    journal = open_journal(args)
    keys = {r.study_key for r in journal.status.studies(args.study)}
    if len(keys) != 1:
        raise LimenError(f"{args.study} matches {len(keys)} studies; see `limen status`")
    (key,) = keys
    purged_at = journal.retention.purged_at(key)
    if purged_at is not None and (files := journal.shelf.files_of(key)):
        raise LimenError(
            f"the rows of study {key[:12]} were put away ({files[-1]} in journal-shelf/): which "
            "instances it had is not known here any more; have the study sent again"
        )
    if purged_at is not None and not (archive.enabled and archive.originals):
        raise LimenError(
            f"the instances of study {key[:12]} were purged on {purged_at:%Y-%m-%d}, and no "
            "archive holds them; have the study sent again"
        )
    say(again.replay(read_settings(args), journal, key, whoever()))
    return OK
