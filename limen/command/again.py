"""``limen retry``, ``limen discard`` and ``limen replay``: work that is done again, or never."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections import Counter
from collections.abc import Sequence

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
    if journal.work.ask_again(args.key):
        say(f"{args.key} is asked again: what waits for it is due now")
        return OK
    if journal.work.retry(args.key, _whoever()):
        say(f"{args.key} is queued again")
        return OK
    study_key = args.key.split("-")[0]
    jobs = [
        job for row in journal.status.studies(study_key) for job in row.jobs if job.key == args.key
    ]
    if not any(job.state in {"dead", "discarded"} for job in jobs):
        raise LimenError(
            f"{args.key} is not a dead job or delivery, nor a destination that rejects this node; "
            "see `limen status --json`"
        )
    # What the job gave up with has been delivered: a new run is a new revision.
    return _run_again(args, journal, study_key)


def _retry_all(args: argparse.Namespace, journal: Journal) -> int:
    """Queue every dead delivery again that the filters leave, and run the studies of dead jobs."""
    dead = journal.status.dead(dead_of(args, journal.clock()))
    if not dead:
        say("nothing is dead")
        return OK
    if not args.yes and not _agrees(f"try {_counted(dead)} again?"):
        say("nothing was tried again")
        return FAILED
    by = _whoever()
    again = [work for work in dead if journal.work.retry(work.key, by)]
    studies = {work.key.split("-")[0] for work in dead} - {w.key.split("-")[0] for w in again}
    first, replay_of = read_settings(args).originals_first, journal.receiving.replay
    runs = [key for key in sorted(studies) if replay_of(key, by, originals_first=first) is not None]
    say(f"{len(again)} deliveries are queued again, {len(runs)} studies run again")
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


def _whoever() -> str:
    """Return the account of whoever sits there, also behind `sudo`."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def discard(args: argparse.Namespace) -> int:
    """Let dead work stay undone: it is no fault any more, and is never shown as done."""
    settings, who = read_settings(args), _whoever()
    journal = open_journal(args)
    reason = " ".join(args.reason.split())
    if not reason:
        raise ConfigError("--reason is empty; say why nobody needs this")
    to_pacs = any(args.key.endswith(f"-{one.name}") for one in settings.object_destinations)
    tell = "django" if to_pacs and settings.destination.django.enabled else ""
    words = f"discarded by {who}: {reason}"
    if not journal.work.discard(args.key, words, by=who, tell=tell):
        raise LimenError(f"{args.key} is no dead work; see `limen status --dead`")
    say(f"{args.key} is discarded; `limen retry {args.key}` takes that back")
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
    return _run_again(args, journal, key)


def _run_again(args: argparse.Namespace, journal: Journal, study_key: str) -> int:
    first = read_settings(args).originals_first
    revision = journal.receiving.replay(study_key, _whoever(), originals_first=first)
    if revision is None:
        raise LimenError(f"study {study_key} is still being received; wait until it is complete")
    say(f"study {study_key[:12]} runs again as revision {revision}")
    return OK
