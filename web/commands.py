"""What each command of the results server does; imported once Django is set up."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from django.db import DatabaseError

from web import prepare, server

__all__ = ["Failed", "link", "serve", "setup"]

Failed = (DatabaseError, OSError, ValueError)


def serve(_: argparse.Namespace) -> None:
    """Migrate, then serve until a signal."""
    server.serve()


def setup(wanted: argparse.Namespace) -> None:
    """Bring database, token and first account into being; a second time changes nothing."""
    prepare.migrate()
    prepare.token(wanted.node, wanted.token_file)
    _answer(wanted.json, prepare.first_account(wanted.admin), wanted.token_file)


def link(wanted: argparse.Namespace) -> None:
    """Print a one-time login link."""
    prepare.migrate()
    _answer(wanted.json, prepare.link(wanted.user, create=wanted.create), None)


def _answer(as_json: bool, login_url: str | None, token_file: Path | None) -> None:
    if as_json:
        shown = {"login_url": login_url, "token_file": str(token_file) if token_file else None}
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    if token_file:
        sys.stdout.write(f"token of the node: {token_file}\n")
    if login_url:
        sys.stdout.write(f"log in once, within a day: {login_url}\n")
