"""The assembler: kept instances -> journal rows -> complete studies.

One thread. Rows are written in batches; a row that a crash swallowed is written again from the
spool at the next start. A study is complete ``quiet_s`` after its last instance, or
``release_quiet_s`` after the last association that carried it has ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from limen.errors import Busy, LimenError, Transient
from limen.instance import NewInstance
from limen.journal import Journal
from scp.handlers import new_instance
from scp.spool import Kept, Spool, examine

__all__ = ["Assembler"]

log = structlog.get_logger("scp.assembler")

_TICK_S = 0.2
_BATCH = 1000
_WAITING_LIMIT = 2000
_ADD_TIMEOUT_S = 10.0
_RETRY_S = 1.0


_Event = tuple[NewInstance | None, int]


@dataclass(slots=True)
class _Open:
    """A study revision that is being received."""

    revision: int
    last_s: float
    carriers: set[int] = field(default_factory=set)
    released_s: float | None = None


class Assembler:
    """Writes what was kept to the journal and says when a study is complete.

    Parameters
    ----------
    quiet_s, release_quiet_s
        See the module's text, in seconds.
    on_complete
        Called after a study became complete (rings the dispatcher).
    monotonic
        Clock in seconds that never jumps.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        quiet_s: float,
        release_quiet_s: float,
        on_complete: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._quiet_s = quiet_s
        self._release_quiet_s = release_quiet_s
        self._on_complete = on_complete
        self._monotonic = monotonic
        # (instance, association), or (None, association) when that association has ended: one
        # queue, so that an end is never seen before the instances it follows. Adding to it wakes
        # nobody: that would cost the sender who waits for its answer two changes of thread.
        self._waiting: deque[_Event] = deque()
        self._open: dict[str, _Open] = {}
        self._stopping = threading.Event()
        self._looking_again = threading.Event()
        self._written = threading.Condition()
        self._added_count = self._written_count = 0
        self._thread = threading.Thread(target=self._run, name="assembler", daemon=True)

    # -- called from the threads of associations -----------------------------------------------

    def add(self, instance: NewInstance, association: int) -> None:
        """Take a kept instance; it is in the journal a moment later.

        Raises
        ------
        Busy
            The journal has not been keeping up for ten seconds.
        """
        with self._written:
            if not self._written.wait_for(self._has_room, _ADD_TIMEOUT_S):
                raise Busy("the journal is not keeping up; send again later")
            self._waiting.append((instance, association))
            self._added_count += 1

    def ended(self, association: int) -> None:
        """Note that an association was released or aborted."""
        with self._written:
            if self._written.wait_for(self._has_room, _ADD_TIMEOUT_S):  # else quiet_s alone decides
                self._waiting.append((None, association))

    def _has_room(self) -> bool:
        return len(self._waiting) < _WAITING_LIMIT

    def look_again(self) -> None:
        """Look for instances without a row: whoever kept them may have died before telling."""
        self._looking_again.set()

    def flush(self, timeout_s: float = _ADD_TIMEOUT_S) -> None:
        """Wait until what was added so far has its row.

        Raises
        ------
        Busy
            The journal is not keeping up.
        """
        with self._written:
            goal = self._added_count
            if not self._written.wait_for(lambda: self._written_count >= goal, timeout_s):
                raise Busy("the journal is not keeping up; ask again later")

    # -- life of the thread ------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; it first brings spool and journal together."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Write what waits and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        self._until_done(self.recover)
        while not self._stopping.is_set() or self._waiting:
            batch = self._take()
            if batch:
                self._until_done(lambda batch=batch: self.record(batch))  # type: ignore[misc]
                with self._written:
                    self._written_count += sum(row is not None for row, _ in batch)
                    self._written.notify_all()
            if self._looking_again.is_set():
                self._looking_again.clear()
                self._until_done(self.find_lost)
            self._until_done(self.complete_due)

    def _until_done(self, step: Callable[[], object]) -> None:
        """Run a step until the journal takes it; the spool holds everything meanwhile."""
        said = False
        while True:
            try:
                step()
            except Exception as exc:  # the thread must outlive any fault of the journal
                if not said:
                    log.error(
                        "journal.waiting", error=exc, exc_info=not isinstance(exc, LimenError)
                    )
                said = True
                if not isinstance(exc, Transient) or self._stopping.wait(_RETRY_S):
                    return
                continue
            if said:
                log.info("journal.recovered")
            return

    def _take(self) -> list[_Event]:
        """Gather for a while: commits by the dozen would compete with the spool for the disk."""
        self._stopping.wait(_TICK_S)
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]

    # -- the three steps; each is safe to repeat -------------------------------------------------

    def recover(self) -> None:
        """Write rows for instances that have none, and go on with studies left open."""
        removed = self._spool.remove_parts()
        found = self.find_lost()
        now = self._monotonic()
        self._open = {k: _Open(revision, now) for k, revision in self._journal.receiving()}
        if removed or found:
            log.info("spool.recovered", count=found, reason=f"{removed} part files removed")

    def find_lost(self) -> int:
        """Write rows for instances that have none; return how many that were."""
        known = self._journal.paths()
        lost = [p for p in self._spool.paths() if p not in known]
        found = [row for row in map(self._row_of, lost) if row is not None]
        now = self._monotonic()
        for start in range(0, len(found), _BATCH):
            batch = found[start : start + _BATCH]
            for row, recorded in zip(batch, self._journal.record(batch), strict=True):
                self._open.setdefault(row.study_key, _Open(recorded.revision, now))
        return len(found)

    def _row_of(self, relative: str) -> NewInstance | None:
        path: Path = self._spool.root / relative
        try:
            found = examine(path)
        except LimenError as exc:
            log.error("spool.set_aside", path=relative, error=exc)
            self._spool.set_aside(relative)
            return None
        except OSError as exc:  # purged, taken back by its writer, or the disk failed
            log.warning("spool.not_read", path=relative, error=exc)
            return None
        kept = Kept(relative, found.digest, found.size_bytes, new=True)
        at = datetime.fromtimestamp(found.received_s, UTC)
        return new_instance(found.identity, kept, found.transfer_syntax, found.peer, at)

    def record(self, batch: list[_Event]) -> None:
        """Write a batch of rows and note which studies they keep open."""
        rows = iter(self._journal.record([i for i, _ in batch if i is not None]))
        now = self._monotonic()
        for instance, association in batch:
            if instance is None:
                self._note_ended(association, now)
                continue
            row = next(rows)
            if row.conflict:
                log.warning(
                    "instance.conflict", study=instance.study_key, reason="same UID, other bytes"
                )
            if not row.new and instance.study_key not in self._open:
                continue
            study = self._open.setdefault(instance.study_key, _Open(row.revision, now))
            study.revision = max(study.revision, row.revision)
            study.last_s = now
            study.released_s = None
            study.carriers.add(association)

    def complete_due(self) -> None:
        """Complete every study that has been quiet for long enough."""
        now = self._monotonic()
        due = [key for key, study in self._open.items() if self._is_due(study, now)]
        for key in due:
            study = self._open[key]
            if self._journal.complete(key, study.revision):
                log.info("study.complete", study=key, revision=study.revision)
                self._on_complete()
            del self._open[key]

    def _note_ended(self, association: int, now: float) -> None:
        for study in self._open.values():
            if association not in study.carriers:
                continue
            study.carriers.discard(association)
            if not study.carriers:
                study.released_s = now

    def _is_due(self, study: _Open, now: float) -> bool:
        if now - study.last_s >= self._quiet_s:
            return True
        return study.released_s is not None and now - study.released_s >= self._release_quiet_s
