"""``limen up``: everything on this machine, supervised, and what it says of itself first."""

from __future__ import annotations

import argparse
import shutil
import sys

from limen import __version__, config
from limen.command import NOTICE
from limen.command.begin import read_settings
from limen.command.screen import say
from limen.command.supervisor import Supervisor, environment, how_to_log_in, set_up_web
from limen.config import Config
from limen.journal import Journal

__all__ = ["up"]


def up(args: argparse.Namespace) -> int:
    """Start receiver, worker and results server; watch them until told to stop."""
    settings = read_settings(args)
    env = environment(settings, config.find(args.config))
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    journal = Journal(settings.journal_url)
    journal.migrate()
    journal.close()
    account = set_up_web(settings, env, link=sys.stdout.isatty())
    supervisor = Supervisor(env)
    say(_banner(settings))
    supervisor.start(on_ready=lambda name, s: say(f"  {name:<8} ready after {s:.1f} s"))
    told = how_to_log_in(account, args.config)
    if told:
        say(told)
    say("Limen is up. Stop it with Ctrl-C.")
    return supervisor.watch()


def _banner(settings: Config) -> str:
    free = shutil.disk_usage(settings.data_dir).free / 1e9
    senders = ", ".join(f"{p.ae_title} from {p.address}" for p in settings.scp.peer)
    if settings.scp.allow_any_peer:
        senders = "anyone (scp.allow_any_peer)"
    section = settings.destination.archive
    archive = f"gs://{section.bucket}" if section.bucket else str(settings.archive_dir)
    rows = [
        ("receiver", f"{settings.scp.ae_title} on {settings.scp.host}:{settings.scp.port}"),
        ("senders", senders or "this machine only"),
        ("routes", ", ".join(_route(r) for r in settings.route)),
        ("data", f"{settings.data_dir} ({free:.1f} GB free)"),
        ("journal", settings.journal.url.rsplit("@", 1)[-1] or "SQLite in the data folder"),
        ("broker", settings.queue.broker.rsplit("@", 1)[-1]),
        ("archive", archive if section.enabled else "off"),
        ("worklist", settings.web_url),
    ]
    body = "\n".join(f"  {name:<9} {value}" for name, value in rows)
    return f"Limen {__version__}. {NOTICE}\n{body}"


def _route(route: config.Route) -> str:
    """Return a route in one line."""
    where = "".join(f", {keyword} {pattern}" for keyword, pattern in route.where.items())
    shadow = ", shadow" if route.shadow else ""
    return f"{route.name} ({route.modality}{where}{shadow}) -> {route.bundle}"
