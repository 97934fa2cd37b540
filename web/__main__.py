"""Start the results server, or prepare it.

    python -m web                 migrate, then serve until SIGTERM
    python -m web setup ...       migrate; the node's token; the first account
    python -m web link USER       a new one-time login link

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 cannot bind.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import django
from django.core.exceptions import ImproperlyConfigured

OK, FAILED, USAGE, CANNOT_BIND = 0, 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    wanted = _parser().parse_args(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "web.settings")
    try:
        django.setup()
    except ImproperlyConfigured as exc:
        return _complain(str(exc), USAGE)
    from web import commands, server  # noqa: PLC0415 - models need the settings

    command = {None: commands.serve, "setup": commands.setup, "link": commands.link}
    try:
        command[wanted.command](wanted)
    except server.CannotBind as exc:
        return _complain(str(exc), CANNOT_BIND)
    except commands.Failed as exc:
        return _complain(str(exc), FAILED)
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m web",
        description="Limen's results server. Research software. Not for diagnostic use.",
        epilog="Settings come from the environment: LIMEN_WEB__HOST, LIMEN_WEB__PORT, "
        "LIMEN_WEB__PUBLIC_URL, LIMEN_WEB__DATABASE_URL, LIMEN_WEB__SECRET_KEY_FILE, "
        "LIMEN_NODE__DATA_DIR, LIMEN_LOG__LEVEL.",
    )
    commands = parser.add_subparsers(dest="command", title="commands (none: serve)")
    setup = commands.add_parser("setup", help="migrate, provide a node's token, first account")
    setup.add_argument("--node", required=True, metavar="NAME", help="name of the node that posts")
    setup.add_argument(
        "--token-file",
        required=True,
        type=Path,
        metavar="PATH",
        help="file of the node's bearer token; written when it holds none",
    )
    setup.add_argument(
        "--admin",
        default="admin",
        metavar="USER",
        help="name of the first account (default: admin)",
    )
    setup.add_argument("--json", action="store_true", help="answer in JSON")
    link = commands.add_parser("link", help="print a one-time login link")
    link.add_argument("user", metavar="USER")
    link.add_argument("--create", action="store_true", help="make the account when there is none")
    link.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"web: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
