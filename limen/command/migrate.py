"""``limen migrate``: journal and web database at this version, token and first account made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from limen import config
from limen.command.begin import act_as_owner, read_settings
from limen.command.edge import OK
from limen.command.screen import say
from limen.command.supervisor import check_web, environment, how_to_log_in, set_up_web
from limen.journal import Journal

__all__ = ["migrate"]


def migrate(args: argparse.Namespace) -> int:
    """Bring everything to this version, or only look whether it can be."""
    settings = read_settings(args)
    act_as_owner(settings)
    env = environment(settings, config.find(args.config))
    journal = Journal(settings.journal_url)
    try:
        if args.check:
            if settings.journal.url or Path(settings.data_dir / "journal.db").is_file():
                journal.is_current()
            check_web(env)
            return OK
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        journal.migrate()
    finally:
        journal.close()
    told = how_to_log_in(set_up_web(settings, env, link=sys.stdout.isatty()), args.config)
    if told:
        say(told)
    return OK
