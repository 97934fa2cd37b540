"""What each command of the results server does; imported once Django is set up."""

from __future__ import annotations

import argparse
import json
import sys

from django.db import DatabaseError

from web import prepare, server

__all__ = ["Failed", "check", "link", "serve", "setup"]

Failed = (DatabaseError, OSError, ValueError)


def serve(_: argparse.Namespace) -> None:
    """Migrate, then serve until a signal."""
    server.serve()


def setup(wanted: argparse.Namespace) -> None:
    """Bring database, token and first account into being; a second time changes nothing.

    A login link is a secret: it is made once, where it was asked for or a person reads it.
    """
    prepare.migrate()
    prepare.token(wanted.node, wanted.token_file)
    account = prepare.first_account(wanted.admin)
    show = wanted.link or (not wanted.json and sys.stdout.isatty())
    url = prepare.link(account.name, create=False) if account.is_new and show else None
    if wanted.json:
        unused = account.name if account.is_unused else None
        shown = {"login_url": url, "unused": unused, "token_file": str(wanted.token_file)}
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    sys.stdout.write(f"token of the node: {wanted.token_file}\n")
    if url:
        sys.stdout.write(f"log in once, within a day: {url}\n")
    elif account.is_unused:
        sys.stdout.write(
            f"the account {account.name} has no password yet; "
            f"a login link is printed by: limen web link {account.name}\n"
        )


def check(wanted: argparse.Namespace) -> None:
    """See that the database is no newer than this version; change nothing.

    With --json also whether it is older.
    """
    if not wanted.json:
        prepare.refuse_newer_tables()
        return
    fault = prepare.fault()
    sys.stdout.write(json.dumps({"ok": not fault, "error": fault}) + "\n")


def link(wanted: argparse.Namespace) -> None:
    """Print a one-time login link."""
    prepare.migrate()
    url = prepare.link(wanted.user, create=wanted.create, role=wanted.role)
    shown = json.dumps({"login_url": url}) if wanted.json else f"log in once, within a day: {url}"
    sys.stdout.write(f"{shown}\n")
