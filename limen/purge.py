"""Purging: what was delivered and is old goes, so that a node never fills up from what it leaves.

A study goes as a whole: its instances in the spool, and its result files. The journal is told
before and after; a purge that a crash cut off is ended by the next round. Files are unlinked one by
one and folders only where they are empty: an instance that comes meanwhile is never lost.

Of the archive only a folder is looked after; a bucket has a lifecycle of its own. What was set
aside goes by its age alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from limen.config import Config
from limen.journal import Journal, Purgeable

__all__ = ["ASIDE", "ROUND_S", "Purge", "Purged"]

log = structlog.get_logger("limen.purge")

ASIDE = (".torn", ".refused")
"""Suffixes of files in the spool that are no instances any more: see ``scp.spool``."""

ROUND_S = 30.0
"""Between looks at how much is free."""

_SWEEP_S = 3600.0
_TESTS = timedelta(days=1)
"""How long a study that this node sent to itself is kept, whatever the settings say."""
_SOONEST = timedelta(hours=1)
"""What ended so lately is not purged for want of space: its next instances may be on their way."""


@dataclass(slots=True)
class Purged:
    """What went, or would go.

    Attributes
    ----------
    studies, archived, aside
        Studies out of spool and results, studies out of the archive, files that were set aside.
    events
        Rows of the journal that `limen trace` tells.
    put_away
        Studies whose rows were put away as files.
    size_bytes
        All of it.
    """

    studies: int = 0
    archived: int = 0
    aside: int = 0
    events: int = 0
    put_away: int = 0
    size_bytes: int = 0

    @property
    def nothing(self) -> bool:
        """Whether nothing went."""
        return not (self.studies or self.archived or self.aside or self.events or self.put_away)


class Purge:
    """What retention asks for, done on the disk of this host.

    Parameters
    ----------
    dry_run
        Only count what would go.
    free_bytes
        Returns how much is free on the disk of the spool.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        *,
        dry_run: bool = False,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._config = config
        self._journal = journal
        self._dry_run = dry_run
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(config.spool_dir).free)
        self._counted: set[str] = set()  # of a dry run, where nothing vanishes
        self._swept_s = float("-inf")

    def round(self) -> None:
        """Relieve the disk, and sweep once an hour.

        Raises
        ------
        LimenError
            The journal is away.
        """
        self.relieve()
        if time.monotonic() - self._swept_s >= _SWEEP_S:
            self.sweep()
            self._swept_s = time.monotonic()

    def sweep(self) -> Purged:
        """Purge by age and by size, and what was set aside.

        Raises
        ------
        LimenError
            The journal is away.
        """
        purged = Purged()
        self._end_what_was_begun()
        keep, now = self._config.retention, self._journal.clock()
        over = self._journal.retention.kept_bytes() - keep.max_bytes if keep.max_bytes else 0
        if keep.days:
            for one in self._journal.retention.oldest(now - timedelta(days=keep.days)):
                self._purge(one, "age", purged)
        for one in self._journal.retention.oldest(now - _TESTS, tests=True):
            self._purge(one, "test", purged)
        if over > 0:
            self._shrink(now, over, purged)
        if keep.archive_days:
            self._purge_archive(now - timedelta(days=keep.archive_days), purged)
        if keep.aside_days:
            self._purge_aside(now - timedelta(days=keep.aside_days), purged)
        if keep.event_days:
            before = now - timedelta(days=keep.event_days)
            purged.events = self._journal.retention.forget_events(before, dry_run=self._dry_run)
        if keep.row_days:
            purged.put_away = self._journal.shelf.put_away(
                now - timedelta(days=keep.row_days), self._config.shelf_dir, dry_run=self._dry_run
            )
        self._tell(purged, "age")
        return purged

    def relieve(self) -> Purged:
        """Purge the oldest studies while less is free than is to be kept free.

        First what spool and results hold, then the archive, unless that is kept for ever.

        Raises
        ------
        LimenError
            The journal is away.
        """
        purged = Purged()
        if not self._is_tight:
            return purged
        before = self._journal.clock() - _SOONEST
        for one in self._journal.retention.oldest(before):
            if not self._is_tight:
                break
            self._purge(one, "space", purged)
        if self._config.retention.archive_days and self._is_tight:
            self._purge_archive(before, purged, while_=lambda: self._is_tight)
        self._tell(purged, "space")
        return purged

    def study(self, study_key: str) -> Purged:
        """Purge one study now, whatever its age; nothing goes while something is left to do.

        Raises
        ------
        LimenError
            The journal is away.
        """
        purged = Purged()
        for one in self._journal.retention.oldest(self._journal.clock(), study_key=study_key):
            self._purge(one, "asked", purged)
        self._tell(purged, "asked")
        return purged

    @property
    def _is_tight(self) -> bool:
        return self._free_bytes() < self._config.free_bytes

    def _tell(self, purged: Purged, cause: str) -> None:
        if not self._dry_run and not purged.nothing:
            count = purged.studies + purged.archived + purged.aside
            reason = (
                f"{cause}, {purged.size_bytes:,} bytes, {purged.events:,} events, rows of "
                f"{purged.put_away:,} studies put away"
            )
            log.info("purge.done", count=count, reason=reason)

    # -- spool and results -----------------------------------------------------------------------

    def _end_what_was_begun(self) -> None:
        if self._dry_run:
            return
        for study, paths in self._journal.retention.unfinished():
            self._remove(study, paths)

    def _shrink(self, now: datetime, size_bytes: int, purged: Purged) -> None:
        for one in self._journal.retention.oldest(now - _SOONEST):
            if purged.size_bytes >= size_bytes:
                return
            self._purge(one, "size", purged)

    def _purge(self, study: Purgeable, cause: str, purged: Purged) -> None:
        if study.study_key in self._counted:
            return
        if self._dry_run:
            self._counted.add(study.study_key)
            purged.size_bytes += sum(_size(path) for path in self._files(study))
        else:
            paths = self._journal.retention.begin(study, cause)
            if paths is None:  # something came meanwhile
                return
            purged.size_bytes += self._remove(study, paths)
        purged.studies += 1

    def _files(self, study: Purgeable) -> Iterator[Path]:
        for row in self._journal.receiving.instances(study.study_key, study.revision):
            yield self._config.spool_dir / row.path
        for revision in range(1, study.revision + 1):
            yield from _walk(self._config.results_dir / study.study_key / str(revision))

    def _remove(self, study: Purgeable, paths: list[str]) -> int:
        """Remove the files of a study and say so; return how large they were."""
        size_bytes = 0
        spool, results = self._config.spool_dir, self._config.results_dir / study.study_key
        for relative in paths:
            size_bytes += _unlink(spool / relative)
        _remove_if_empty(spool / study.study_key)
        for revision in range(1, study.revision + 1):
            size_bytes += sum(_size(path) for path in _walk(results / str(revision)))
            shutil.rmtree(results / str(revision), ignore_errors=True)
        _remove_if_empty(results)
        self._journal.retention.finish(study.study_key, size_bytes)
        return size_bytes

    # -- the archive, and what was set aside -------------------------------------------------------

    def _purge_archive(
        self, before: datetime, purged: Purged, while_: Callable[[], bool] = lambda: True
    ) -> None:
        archive = self._config.destination.archive
        if archive.bucket or not archive.enabled:
            return
        for at_s, folder in sorted(_studies(self._config.archive_dir)):
            if at_s >= before.timestamp() or not while_():
                return
            if not self._journal.retention.is_over(folder.name):
                continue
            purged.size_bytes += sum(_size(path) for path in _walk(folder))
            purged.archived += 1
            if not self._dry_run:
                shutil.rmtree(folder, ignore_errors=True)

    def _purge_aside(self, before: datetime, purged: Purged) -> None:
        for suffix in ASIDE:
            for path in self._config.spool_dir.glob(f"*/*{suffix}"):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before.timestamp():
                        purged.aside += 1
                        purged.size_bytes += _size(path) if self._dry_run else _unlink(path)


def _studies(archive: Path) -> Iterator[tuple[float, Path]]:
    """Yield every study of an archive folder with the time when something last came to it."""
    with contextlib.suppress(OSError):
        for folder in archive.iterdir():
            times = [
                path.stat().st_mtime
                for path in (folder, folder / "instances", folder / "results")
                if path.is_dir()
            ]
            if times:
                yield max(times), folder


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _unlink(path: Path) -> int:
    """Remove a file; return how large it was, 0 where it is gone already."""
    size = _size(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return size


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty: an instance came, or something set aside
        folder.rmdir()
