"""Start the results server, or prepare it.

    python -m web                 migrate, then serve until SIGTERM
    python -m web setup ...       migrate; the node's token; the first account
    python -m web link USER       a new one-time login link
    python -m web check           whether the database is of a newer version (--json: or older)
    python -m web token new NAME  a token for a client that reads; also list, revoke
    python -m web audit           who was shown which study

``limen web ...`` is the same with the settings of config.toml in the environment.

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 cannot bind.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import django
from django.core.exceptions import ImproperlyConfigured

from logs.lines import form_in_use
from web import environment

LOG = logging.getLogger("web")
OK, FAILED, USAGE, CANNOT_BIND = 0, 1, 2, 3
MAX_DAYS = 3650


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    wanted = _parser().parse_args(arguments)
    os.umask(0o077)  # what it writes is open to nobody else
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "web.settings")
    try:
        looks = wanted.command == "check" and wanted.json
        if looks or wanted.command in {"link", "token", "audit"}:
            _look_for_the_database()
        django.setup()
    except ImproperlyConfigured as exc:
        return _complain(str(exc), USAGE)
    from web import access, commands, prepare, server  # noqa: PLC0415 - models need the settings

    token = {"new": access.new_token, "list": access.list_tokens, "revoke": access.revoke_token}
    command = {
        None: commands.serve,
        "setup": commands.setup,
        "link": commands.link,
        "check": commands.check,
        "token": token.get(getattr(wanted, "token_command", "")),
        "audit": access.audit,
    }
    try:
        command[wanted.command](wanted)
    except server.CannotBind as exc:
        return _fail(wanted, str(exc), CANNOT_BIND)
    except prepare.NewerDatabase as exc:
        return _fail(wanted, str(exc), USAGE)
    except commands.Failed as exc:
        return _fail(wanted, str(exc), FAILED)
    return OK


def _look_for_the_database() -> None:
    """Refuse to look into a server that never was: it could not work, and would make a folder.

    Raises
    ------
    ImproperlyConfigured
        There is no database where the settings have it.
    """
    url = environment.read().database_url
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.is_file():
        raise ImproperlyConfigured(
            f"no results server has its database at {path}; call this with the settings of the "
            "server: in their folder, or with --config FILE; `limen web` makes it at its start"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m web",
        description="Limen's results server. Research software. Not for diagnostic use.",
        epilog="Settings come from the environment: LIMEN_WEB__HOST, LIMEN_WEB__PORT, "
        "LIMEN_WEB__PUBLIC_URL, LIMEN_WEB__DATABASE_URL, LIMEN_WEB__SECRET_KEY_FILE, "
        "LIMEN_NODE__DATA_DIR, LIMEN_LOG__LEVEL, LIMEN_LOG__FORMAT.",
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
    setup.add_argument(
        "--link",
        action="store_true",
        help="answer with a login link when that account is made (else only on a terminal)",
    )
    check = commands.add_parser("check", help="tell whether the database is of a newer version")
    check.add_argument("--json", action="store_true", help="or of an older one, in JSON")
    link = commands.add_parser("link", help="print a one-time login link")
    link.add_argument("user", metavar="USER")
    link.add_argument("--create", action="store_true", help="make the account when there is none")
    link.add_argument(
        "--role",
        choices=("reader", "integrator", "admin"),
        help="give the account this role: a reader sees patients and votes, an integrator sees "
        "results without patients, and operations; an administrator all of it (a new one: reader)",
    )
    link.add_argument("--json", action="store_true", help="answer in JSON")
    _token_parser(commands.add_parser("token", help="tokens of clients that read"))
    audit = commands.add_parser("audit", help="who was shown which study, the latest first")
    audit.add_argument("--study", default="", metavar="KEY", help="of one study")
    audit.add_argument("--who", default="", metavar="NAME", help="of one account or token")
    audit.add_argument("--days", type=_days, default=30, help="of the last days (default: 30)")
    audit.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _token_parser(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="token_command", required=True)
    new = commands.add_parser("new", help="make a token and print it, once")
    new.add_argument("name", metavar="NAME", help="who will use it")
    new.add_argument(
        "--scope",
        choices=("read", "masked", "metrics"),
        default="read",
        help="read: results with names and images; masked: results without; metrics "
        "(default: read)",
    )
    new.add_argument("--days", type=_days, default=365, help="until it expires (default: 365)")
    revoke = commands.add_parser("revoke", help="make a token good for nothing")
    revoke.add_argument("name", metavar="NAME")
    listed = commands.add_parser("list", help="names, scopes, ends and last uses")
    for command in (new, revoke, listed):
        command.add_argument("--json", action="store_true", help="answer in JSON")


def _days(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {MAX_DAYS} is wanted")
    return int(text)


def _fail(wanted: argparse.Namespace, text: str, code: int) -> int:
    """Say why it failed; of the server that is an event of its log, where a program reads that."""
    if wanted.command is None and form_in_use() != "text":
        LOG.error("process.failed", extra={"reason": text, "code": code})
        return code
    return _complain(text, code)


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"web: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
