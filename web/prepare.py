"""Prepare the database: tables, the node's token, the first account."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from web.results import links, roles, tokens

__all__ = [
    "FirstAccount",
    "NewerDatabase",
    "fault",
    "first_account",
    "link",
    "migrate",
    "refuse_newer_tables",
    "token",
]

OURS = "results"

# Any number, as long as it is always this one.
ADVISORY_LOCK = 0x11_3E_17


class NewerDatabase(Exception):
    """A newer results server has brought the tables to a version that this one does not know."""


@dataclass(frozen=True, slots=True)
class FirstAccount:
    """The account that a new server has: whether it was made just now, and has no password yet."""

    name: str
    is_new: bool
    is_unused: bool


def migrate() -> None:
    """Bring the tables up to date; of several processes that start, one does it.

    Raises
    ------
    NewerDatabase
        They are of a newer version.
    """
    with _alone():
        refuse_newer_tables()
        call_command("migrate", interactive=False, verbosity=0)
        call_command("clearsessions")


def refuse_newer_tables() -> None:
    """Look for migrations that this version does not know: Django itself passes over them.

    Raises
    ------
    NewerDatabase
        There are some.
    """
    loader = MigrationLoader(connection, ignore_no_migrations=True)
    unknown = {name for app, name in loader.applied_migrations if app == OURS} - {
        name for app, name in loader.disk_migrations if app == OURS
    }
    if unknown:
        raise NewerDatabase(
            f"the database of the results server was written by a newer Limen (it has "
            f"{max(unknown)}, which this version does not know); install that version again, or "
            "put back the copy of the database that was made before the upgrade"
        )


def fault() -> str:
    """Return why the tables are not those of this version, "" when they are; change nothing."""
    try:
        refuse_newer_tables()
        executor = MigrationExecutor(connection)
        waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except NewerDatabase as exc:
        return str(exc)
    except DatabaseError as exc:
        return (
            f"the database of the results server does not answer ({type(exc).__name__}); look at "
            "web.database_url, and start that database"
        )
    if not waiting:
        return ""
    return (
        f"the tables of the results server are of an older version ({len(waiting)} migrations "
        "wait); start `limen web` once: it migrates them"
    )


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


def first_account(name: str) -> FirstAccount:
    """Make the first account of a server that has none."""
    with transaction.atomic():
        is_new = not User.objects.exists()
        if is_new:
            User.objects.create_superuser(name, password=None)
    user = User.objects.filter(username=name, is_superuser=True, is_active=True).first()
    return FirstAccount(name, is_new, user is not None and not user.has_usable_password())


def link(name: str, *, create: bool, role: str | None = None) -> str:
    """Return a login link of an account, which has ``role`` from now on where one is named.

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
            f"there is no account {name}; make it with: limen web link {name} --create"
        )
    if not user.is_active:
        raise ValueError(f"the account {name} is closed")
    if role is not None:
        roles.assign(user, roles.Role(role))
    return links.create(user)
