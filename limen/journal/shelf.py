"""The shelf: rows of studies that were purged years ago, put away as files.

A study is one line of JSON in a file of gzip: its revisions, instances, work, objects and events,
by table, as the journal had them. The file is on the disk before the rows go, in one transaction;
one that a crash left behind without that is written anew under another name. What stays in the
journal are the revisions, by which the study is found, and the name of the file.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from limen.durable import sync_folder, write_new
from limen.errors import OutOfSpace
from limen.journal.database import Database
from limen.journal.retention import is_nothing_left
from limen.journal.tables import (
    DELIVERY,
    EVENT,
    INSTANCE,
    JOB,
    PURGE,
    SENT_OBJECT,
    SHADOW,
    STUDY,
    TRANSACTION,
)

__all__ = ["Shelf"]

_AT_ONCE = 200
_OF_STUDY = (INSTANCE, JOB, SHADOW, DELIVERY, EVENT)
_OF_DELIVERY = (SENT_OBJECT, TRANSACTION)


class Shelf:
    """Putting rows away, and finding them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_away(self, before: datetime, folder: Path, *, dry_run: bool = False) -> int:
        """Write the rows of studies into files that were purged before then, and remove them.

        Parameters
        ----------
        folder
            Where the files go; made where it is missing.
        dry_run
            Only count the studies.

        Returns
        -------
        int
            How many studies that was.

        Raises
        ------
        Transient
            The journal is locked or away; what was put away before is.
        OutOfSpace
            The disk is full or failed.
        """
        if dry_run:
            counted = sa.select(sa.func.count()).select_from(_purged_long_ago(before).subquery())
            with self._database.reading() as db:
                return int(db.scalar(counted) or 0)
        put = 0
        while True:
            with self._database.writing() as db:
                chosen = _purged_long_ago(before).order_by(STUDY.c.study_key).limit(_AT_ONCE)
                # Who records another instance locks the newest revision too.
                keys = list(db.scalars(chosen.with_for_update(of=STUDY)))
                if not keys:
                    return put
                name = _write(folder, _lines(db, keys), self._database.now(db))
                _remove(db, keys)
                these = sa.and_(STUDY.c.study_key.in_(keys), STUDY.c.shelf == "")
                db.execute(STUDY.update().where(these).values(shelf=name))
            put += len(keys)

    def files_of(self, study_key: str) -> list[str]:
        """Return the names of the files that hold rows of a study, the oldest first.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        query = sa.select(STUDY.c.shelf).where(STUDY.c.study_key == study_key, STUDY.c.shelf != "")
        with self._database.reading() as db:
            return list(dict.fromkeys(db.scalars(query.order_by(STUDY.c.revision))))


def _purged_long_ago(before: datetime) -> sa.Select[Any]:
    """Select the key of every study that was purged before then, and has rows here yet."""
    purged = sa.and_(PURGE.c.study_key == STUDY.c.study_key, PURGE.c.revision == STUDY.c.revision)
    return (
        is_nothing_left()
        .with_only_columns(STUDY.c.study_key)
        .join(PURGE, purged)
        .where(PURGE.c.done_at < before, STUDY.c.shelf == "")
    )


def _lines(db: sa.Connection, keys: Sequence[str]) -> Iterator[bytes]:
    found: dict[str, dict[str, list[dict[str, Any]]]] = {key: defaultdict(list) for key in keys}
    for table in (STUDY, *_OF_STUDY):
        for row in db.execute(sa.select(table).where(table.c.study_key.in_(keys))).mappings():
            found[row["study_key"]][table.name].append(dict(row))
    for table in _OF_DELIVERY:
        for row in db.execute(sa.select(table).where(_of(table, keys))).mappings():
            found[row["delivery"].partition("-")[0]][table.name].append(dict(row))
    for key, rows in found.items():
        yield json.dumps({"study_key": key, "rows": rows}, default=datetime.isoformat).encode()


def _of(table: sa.Table, keys: Sequence[str]) -> sa.ColumnElement[bool]:
    deliveries = sa.select(DELIVERY.c.key).where(DELIVERY.c.study_key.in_(keys))
    return table.c.delivery.in_(deliveries)


def _write(folder: Path, lines: Iterator[bytes], at: datetime) -> str:
    """Write a file, on the disk when this returns; return its name."""
    name = f"{at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.jsonl.gz"
    body = gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_new(folder / name, [body])
        sync_folder(folder)
        sync_folder(folder.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
        raise OutOfSpace(f"rows of the journal cannot be put away ({exc.strerror})") from exc
    return name


def _remove(db: sa.Connection, keys: Sequence[str]) -> None:
    for table in _OF_DELIVERY:
        db.execute(table.delete().where(_of(table, keys)))
    for table in _OF_STUDY:
        db.execute(table.delete().where(table.c.study_key.in_(keys)))
