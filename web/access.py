"""``limen web token`` and ``limen web audit``: who may read, and who did."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta
from typing import Any

from django.utils import timezone

from web import prepare
from web.results import tokens, trail
from web.results.models import ClientToken

__all__ = ["audit", "list_tokens", "new_token", "revoke_token"]

# Before a token ends, its line in the list says so.
WARN_DAYS = 30


def new_token(wanted: argparse.Namespace) -> None:
    """Make a client's token and print it: the only time that it is shown."""
    prepare.migrate()
    text, row = tokens.issue(wanted.name, wanted.scope, wanted.days)
    if wanted.json:
        sys.stdout.write(json.dumps({**_row(row), "token": text}) + "\n")
        return
    sys.stdout.write(f"{text}\n")
    sys.stderr.write(
        f"this token is shown once; it may {row.get_scope_display()}, "
        f"until {row.expires_at:%Y-%m-%d}\n"
    )


def list_tokens(wanted: argparse.Namespace) -> None:
    """Print the tokens of clients: name, scope, state, end, last use; never the token."""
    prepare.migrate()
    rows = [_row(row) for row in ClientToken.objects.order_by("name")]
    if wanted.json:
        sys.stdout.write(json.dumps({"tokens": rows}) + "\n")
        return
    if not rows:
        sys.stdout.write("no client has a token; make one with: limen web token new NAME\n")
    for row in rows:
        used = row["used_at"] or "never"
        sys.stdout.write(
            f"{row['name']}  {row['scope']}  {row['state']}  "
            f"until {row['expires_at'][:10]}  last used {used[:16]}\n"
        )


def _row(row: ClientToken) -> dict[str, Any]:
    return {
        "name": row.name,
        "scope": row.scope,
        "state": _state(row),
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat(),
        "used_at": row.used_at.isoformat() if row.used_at else None,
    }


def _state(row: ClientToken) -> str:
    left = row.expires_at - timezone.now()
    if row.revoked_at is not None:
        return "revoked"
    if left <= timedelta(0):
        return "expired"
    return "expires soon" if left < timedelta(days=WARN_DAYS) else "good"


def revoke_token(wanted: argparse.Namespace) -> None:
    """Make a client's token good for nothing."""
    prepare.migrate()
    tokens.revoke(wanted.name)
    shown = json.dumps({"revoked": wanted.name}) if wanted.json else f"revoked: {wanted.name}"
    sys.stdout.write(f"{shown}\n")


def audit(wanted: argparse.Namespace) -> None:
    """Print who was shown which study, the latest first."""
    prepare.migrate()
    since = timezone.now() - timedelta(days=wanted.days)
    rows = trail.read(study=wanted.study, who=wanted.who, since=since)
    views = [
        {"at": v.at.isoformat(), "who": v.who, "by": v.by, "what": v.what, "study": v.study_key}
        for v in rows.iterator()
    ]
    if wanted.json:
        sys.stdout.write(json.dumps({"views": views}) + "\n")
        return
    for view in views:
        sys.stdout.write(
            f"{view['at'][:19]}Z  {view['by']} {view['who']}  {view['what']}  {view['study']}\n"
        )
    if not views:
        sys.stdout.write(f"nobody was shown this in the last {wanted.days} days\n")
