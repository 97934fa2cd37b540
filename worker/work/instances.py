"""Where the instances of a study are: rows of the journal become files on this host.

On the host of the receiver that is the spool; what was purged there is brought back from the
archive. Any other host fetches them from the archive into a bounded cache. Each file has its digest
compared with that of the journal before it is read: pixels that a disk lost decode without a fault,
and a bleed among them would be gone. An instance that is lost is said to be, with the reason: it is
never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import structlog

from limen.errors import Delayed, Transient
from limen.journal import Instance as Row
from worker.destinations import Original
from worker.destinations.archive import ArchiveDestination, is_received
from worker.study.parts import Instance
from worker.work.cache import Cache

__all__ = ["DAMAGED", "LOST", "ArchivedInstances", "InstanceStore", "SpooledInstances"]

log = structlog.get_logger("worker.work.instances")

LOST = (
    "it is not in the archive, or not as it was received; `limen replay` archives it again where "
    "the spool still has it"
)

DAMAGED = (
    "its file in the spool is no longer what was received, and the archive does not have it: look "
    "at the disk, and send the study again"
)

_AT_ONCE = 4


class InstanceStore(Protocol):
    """Received instances as files that can be read here."""

    def using(self, study_key: str) -> AbstractContextManager[object]:
        """Keep the files of a study where they are until the end.

        Raises
        ------
        Delayed
            The disk is full or failed.
        """

    def of(self, study_key: str, rows: Sequence[Row]) -> list[Instance]:
        """Return an instance for each row, one that is nowhere with the reason.

        Raises
        ------
        Transient
            They cannot be had now.
        """

    def originals(self, rows: Sequence[Row]) -> tuple[Original, ...]:
        """Return what the receiver wrote, for the archive.

        Raises
        ------
        Delayed
            This is not the host of the receiver.
        """


class SpooledInstances:
    """Instances in the spool of this host.

    Parameters
    ----------
    archive
        Where those are that were purged; None: there is none.
    """

    def __init__(self, spool: Path, archive: ArchiveDestination | None) -> None:
        self._spool = spool
        self._archive = archive

    def using(self, study_key: str) -> AbstractContextManager[object]:
        """Do nothing: the spool is purged of what is over only. See ``InstanceStore``."""
        return nullcontext()

    def of(self, study_key: str, rows: Sequence[Row]) -> list[Instance]:
        """Return where they are in the spool. See ``InstanceStore``."""
        self._see_to_the_spool()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda row: self._one(study_key, row), rows))

    def originals(self, rows: Sequence[Row]) -> tuple[Original, ...]:
        """Return where they are in the spool. See ``InstanceStore``."""
        self._see_to_the_spool()
        return tuple(Original(self._spool / row.path, row.sop_key, row.digest) for row in rows)

    def _see_to_the_spool(self) -> None:
        """Raise where this host has none: nothing can be said of what is in it."""
        if not self._spool.is_dir():
            raise Delayed(
                f"there is no spool on this host ({self._spool}); let its worker take other lanes "
                '(worker.lanes), set worker.source = "archive", or mount the receiver\'s folder'
            )

    def _one(self, study_key: str, row: Row) -> Instance:
        path = self._spool / row.path
        fault = ""
        if not is_received(path, row.digest):
            is_there = path.exists()
            original = Original(path, row.sop_key, row.digest)
            if self._archive is not None and self._archive.restore(study_key, original):
                log.info("work.restored", study=study_key, path=path.name)
            elif is_there:  # of one that is gone whoever reads it says so
                log.error("work.original_damaged", study=study_key, path=path.name)
                fault = DAMAGED
        return Instance(path, row.sop_uid, row.series_uid, fault)


class ArchivedInstances:
    """Instances from the archive, kept in the cache of this host while there is room.

    What is in the cache or, beside the receiver, in the spool has its digest compared each time,
    and is fetched again where that is not the one of the journal: a damaged slice is never read.
    """

    def __init__(self, cache: Cache, archive: ArchiveDestination, spool: Path) -> None:
        self._cache = cache
        self._archive = archive
        self._spool = spool

    def using(self, study_key: str) -> AbstractContextManager[object]:
        """Keep the study in the cache. See ``InstanceStore``."""
        return self._cache.using(study_key)

    def of(self, study_key: str, rows: Sequence[Row]) -> list[Instance]:
        """Return where they are in spool or cache, fetched as need be. See ``InstanceStore``."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(lambda row: self._one(study_key, row), rows))
        if found and all(one.fault for one in found):
            raise Delayed(
                f"none of {len(found)} instances is in the archive as this host reads it; look "
                "whether it is the one that the receiver's host writes to, and is mounted"
            )
        return found

    def originals(self, rows: Sequence[Row]) -> tuple[Original, ...]:
        """Return where they are in the spool. See ``InstanceStore``."""
        return SpooledInstances(self._spool, None).originals(rows)

    def _one(self, study_key: str, row: Row) -> Instance:
        received = self._spool / row.path
        if is_received(received, row.digest):
            return Instance(received, row.sop_uid, row.series_uid)
        name = f"{row.sop_key}-{row.digest[:16]}.dcm"
        here = Original(self._cache.root / study_key / "instances" / name, row.sop_key, row.digest)
        if not is_received(here.path, row.digest):
            try:
                here.path.unlink(missing_ok=True)
                found = self._archive.restore(study_key, here, durable=False)
            except (Transient, OSError) as exc:
                why = str(exc) if isinstance(exc, Transient) else exc.strerror
                raise Delayed(f"instances cannot be fetched from the archive: {why}") from exc
            if not found:
                log.error("work.original_lost", study=study_key, path=name)
                return Instance(here.path, row.sop_uid, row.series_uid, LOST)
        return Instance(here.path, row.sop_uid, row.series_uid)
