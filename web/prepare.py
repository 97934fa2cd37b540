"""Prepare the database: tables, the node's token, the first account."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction

from web.results import links, tokens

__all__ = ["first_account", "link", "migrate", "token"]

# Any number, as long as it is always this one.
ADVISORY_LOCK = 0x11_3E_17


def migrate() -> None:
    """Bring the tables up to date; of several processes that start, one does it."""
    with _alone():
        call_command("migrate", interactive=False, verbosity=0)
        call_command("clearsessions")


@contextmanager
def _alone() -> Iterator[None]:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
        return
    lock = Path(settings.ENVIRONMENT.data_dir) / "web-migrate.lock"
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def token(node: str, path: Path) -> None:
    """See that the file holds the node's token and the database knows it."""
    tokens.provide_token(node, path)


def first_account(name: str) -> str | None:
    """Return a login link for the first account while nobody has set its password.

    None once the server has an account that somebody uses.
    """
    with transaction.atomic():
        if not User.objects.exists():
            User.objects.create_superuser(name, password=None)
    user = User.objects.filter(username=name, is_superuser=True, is_active=True).first()
    if user is None or user.has_usable_password():
        return None
    return links.create(user)


def link(name: str, *, create: bool) -> str:
    """Return a login link of an account.

    Raises
    ------
    ValueError
        There is no such account, and none is to be made.
    """
    if create:
        User.objects.get_or_create(username=name, defaults={"password": "!"})
    user = User.objects.filter(username=name).first()
    if user is None:
        raise ValueError(
            f"there is no account {name}; make it with: python -m web link {name} --create"
        )
    if not user.is_active:
        raise ValueError(f"the account {name} is closed")
    return links.create(user)
