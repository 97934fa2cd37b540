"""``limen purge``: what retention asks for, now."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from limen.command.begin import open_journal, read_settings
from limen.command.edge import OK
from limen.command.screen import say
from limen.errors import LimenError
from limen.purge import Purge, Purged

__all__ = ["purge"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_STEP = 1000


def purge(args: argparse.Namespace) -> int:
    """Purge what is old enough, or one study whatever its age; or count what would go."""
    settings = read_settings(args)
    journal = open_journal(args)
    if not settings.spool_dir.is_dir():
        raise LimenError(
            f"there is no spool on this host ({settings.spool_dir}), and to purge a study without "
            "its files would leave them for ever; call `limen purge` on the host of the receiver"
        )
    worker = Purge(settings, journal, dry_run=args.dry_run)
    if args.study:
        keys = {row.study_key for row in journal.status.studies(args.study)}
        if len(keys) != 1:
            raise LimenError(f"{args.study} matches {len(keys)} studies; see `limen status`")
        (key,) = keys
        gone = worker.study(key)
        if not gone.studies:
            raise LimenError(_why_not(journal.retention.purged_at(key) is not None, args.study))
    else:
        gone = worker.sweep()
        if not args.dry_run:
            freed = worker.relieve()
            gone = Purged(**{k: v + getattr(freed, k) for k, v in asdict(gone).items()})
    if args.json:
        say(json.dumps({"dry_run": args.dry_run, **asdict(gone)}))
    else:
        say(_in_words(gone, dry_run=args.dry_run))
    return OK


def _why_not(purged: bool, study: str) -> str:
    if purged:
        return f"the files of {study} were purged already"
    return (
        f"{study} is not purged: it is not done, or a delivery of it has not arrived; "
        f"`limen status {study}` says which. A dead one is sent with `limen retry KEY`"
    )


def _in_words(gone: Purged, *, dry_run: bool) -> str:
    if gone.nothing:
        return "nothing is old enough to be purged"
    verb = "would be purged" if dry_run else "purged"
    parts = [
        f"{count} {name}"
        for count, name in (
            (gone.studies, "studies from spool and results"),
            (gone.archived, "studies from the archive folder"),
            (gone.aside, "files that were set aside"),
            (gone.events, "events of the journal"),
            (gone.put_away, "studies' rows put away from the journal"),
        )
        if count
    ]
    return f"{verb}: {', '.join(parts)}; {_size(gone.size_bytes)}"


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < _STEP or unit == _UNITS[-1]:
            return f"{count:.3g} {unit}"
        count /= _STEP
    raise AssertionError("the last unit takes all")
