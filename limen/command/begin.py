"""What a command begins with: its settings, its logs, the journal."""

from __future__ import annotations

import argparse
import os
import pwd

from limen import config, telemetry
from limen.config import Config
from limen.errors import LimenError
from limen.journal import Journal

__all__ = ["act_as_owner", "open_journal", "read_settings"]


def read_settings(args: argparse.Namespace) -> Config:
    """Read the settings, and log as they say.

    Raises
    ------
    ConfigError
        They cannot be used.
    """
    settings = config.load(args.config)
    telemetry.configure(settings.log.level, settings.log.format)
    return settings


def open_journal(args: argparse.Namespace) -> Journal:
    """Open the journal that the settings name.

    Raises
    ------
    ConfigError
        The settings cannot be used.
    LimenError
        There is no journal yet.
    Unreachable
        Its database does not answer.
    """
    settings = read_settings(args)
    act_as_owner(settings)
    if not settings.journal.url and not (settings.data_dir / "journal.db").is_file():
        raise LimenError(
            f"no journal in {settings.data_dir}; start Limen there (`limen up`) or name its "
            "settings with --config"
        )
    journal = Journal(settings.journal_url)
    journal.migrate()
    return journal


def act_as_owner(settings: Config) -> None:
    """Let root go on as the account that owns the data folder: the services must keep owning it."""
    if os.geteuid() != 0 or not settings.data_dir.is_dir():
        return
    found = settings.data_dir.stat()
    if found.st_uid == 0:
        return
    try:
        account = pwd.getpwuid(found.st_uid)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
    except KeyError:  # an account of a container, which has no name here
        groups = [found.st_gid]
    os.setgroups(groups)
    os.setgid(groups[0])
    os.setuid(found.st_uid)
    os.umask(0o077)
