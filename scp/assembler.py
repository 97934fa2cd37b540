"""The assembler: kept instances -> journal rows -> complete studies.

One thread. Rows are written in batches; a row that a crash swallowed is written again from the
spool at the next start: what changed last is looked at first, and the rest of a spool that may hold
a million instances bit by bit beside what is received, in memory that does not grow with it.

Several receivers may share a journal and a spool. A study that comes to more than one is complete
when it is quiet at each, and one whose receiver is gone is taken on by another.

A study is complete ``quiet_s`` after its last instance, or ``release_quiet_s`` after the last
association that carried it has ended; never while an instance of it has no row yet, or nobody has
looked whether one has none, and time in which the journal kept senders waiting does not count.

A journal that is away is waited for. What it refuses otherwise keeps nobody else waiting: a batch
is cut in halves until the rest of it is written. A row that is refused alone, again and again while
others are taken, is given up: its instance is set aside in the spool, with the reason in the log.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from limen.errors import LimenError, Transient
from limen.instance import NewInstance
from limen.journal import Brought, Journal, OpenRevision
from limen.readiness import Sign
from limen.telemetry import METRICS
from scp.arrivals import Arrival, Arrivals
from scp.carried import Carried
from scp.intake import new_instance
from scp.spool import REFUSED, TORN, Kept, Spool, examine

__all__ = ["Assembler"]

log = structlog.get_logger("scp.assembler")

_TICK_S = 0.2
_BATCH = 1000
_STUDIES_AT_ONCE = 20
_LOOK_S = 0.2  # of each round, while there is more to look at
_RETRY_S, _RETRY_LIMIT_S = 1.0, 60.0
_TRIES = 4  # of one row alone, seconds apart
_CONFLICT = "same UID, other bytes"
_NO_TIME_S = float("-inf")
_ORPHANS_S = 30.0


@dataclass(slots=True)
class _Again:
    """When to try something again that failed, with a wait that doubles."""

    at_s: float = _NO_TIME_S
    wait_s: float = _RETRY_S

    def later(self, now: float) -> None:
        self.at_s = now + self.wait_s
        self.wait_s = min(self.wait_s * 2, _RETRY_LIMIT_S)


@dataclass(slots=True)
class _Open:
    """A study revision that is being received."""

    revision: int
    last_s: float
    carriers: set[int] = field(default_factory=set)
    released_s: float | None = None
    again: _Again = field(default_factory=_Again)


@dataclass(slots=True)
class _Refused:
    """An instance whose row the journal refused; ``taken`` counts what it had taken before."""

    instance: NewInstance
    arrival: Arrival
    taken: int
    tries: int = 1


class Assembler:
    """Writes what was kept to the journal and says when a study is complete.

    Parameters
    ----------
    quiet_s, release_quiet_s
        See the module's text, in seconds.
    on_complete
        Called after a study became complete (rings the dispatcher).
    name
        Of this receiver: several may share a journal and a spool.
    monotonic
        Clock in seconds that never jumps.
    originals_first
        Whether a study is predicted only when its instances are in the archive.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        quiet_s: float,
        release_quiet_s: float,
        on_complete: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        name: str = "",
        *,
        originals_first: bool = False,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._quiet_s = quiet_s
        self._release_quiet_s = release_quiet_s
        self._on_complete = on_complete
        self._monotonic = monotonic
        self._name = name
        self._originals_first = originals_first
        self._arrivals = Arrivals()
        self._carried = Carried()
        self._brought: list[Brought] = []
        self._open: dict[str, _Open] = {}
        self._refused: list[_Refused] = []
        self._refused_again = _Again()
        self._taken = 0
        self._stopping = threading.Event()
        self._recovering: _Again | None = _Again()
        self._unlooked: dict[str, None] = {}
        self._removed = self._lost = 0
        self._orphans_s = monotonic() + _ORPHANS_S
        self._looking_again = threading.Event()
        self._sign = Sign()
        self._thread = threading.Thread(target=self._run, name="assembler", daemon=True)

    # -- called from the threads of associations -----------------------------------------------

    def add(self, instance: NewInstance, association: int) -> None:
        """Take a kept instance; it is in the journal a moment later.

        Raises
        ------
        Busy
            The journal has not been keeping up for ten seconds.
        """
        self._arrivals.add(instance, association)

    def refused(self, association: int, reason: str) -> None:
        """Note that an instance was not kept; told with what its association brought."""
        self._carried.refused(association, reason)

    def ended(self, association: int, address: str = "") -> None:
        """Note that an association was released or aborted, and where it came from."""
        self._carried.came_from(association, address)
        self._arrivals.ended(association)

    def look_again(self) -> None:
        """Look for instances without a row: whoever kept them may have died before telling."""
        self._looking_again.set()

    def flush(self) -> None:
        """Wait until what was added so far has its row.

        Raises
        ------
        Busy
            The journal is not keeping up.
        """
        self._arrivals.flush()

    # -- life of the thread ------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; it first brings spool and journal together."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Write what waits and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def silent_s(self) -> float:
        """Return the seconds since the thread last came round, or tried to reach the journal."""
        return self._sign.silent_s()

    def _run(self) -> None:
        while not self._stopping.is_set() or len(self._arrivals):
            self._sign.show()
            try:
                self._round()
            except Exception:  # the edge: the thread must outlive any fault of ours
                log.error("assembler.fault", exc_info=True)
                self._stopping.wait(_RETRY_S)
        with contextlib.suppress(LimenError):
            self._journal.events.brought(self._brought)

    def _round(self) -> None:
        self._recover_if_due()
        if self._unlooked:
            self._until_done(partial(self.look_on, _LOOK_S))
        # Gathered for a while: commits by the dozen would compete with the spool for the disk.
        self._stopping.wait(_TICK_S)
        self.write(self._arrivals.take(_BATCH))
        self.write_refused()
        self.adopt()
        self.complete_due()
        self.write_brought()

    def _recover_if_due(self) -> None:
        if self._looking_again.is_set():
            self._looking_again.clear()
            self._recovering = self._recovering or _Again()
        again = self._recovering
        if again is None or self._monotonic() < again.at_s:
            return
        fault = self._until_done(self.recover)
        if fault is None:
            self._recovering = None
        elif not isinstance(fault, Transient):
            _tell("spool.not_recovered", fault)
            again.later(self._monotonic())

    def _until_done(self, step: Callable[[], object]) -> Exception | None:
        """Run a step until the journal takes it; the spool holds everything meanwhile.

        Returns
        -------
        Exception or None
            Why the step was given up: it will never work, or the thread is to end.
        """
        said = False
        while True:
            self._sign.show()
            try:
                step()
            except Transient as exc:
                if not said:
                    log.error("journal.waiting", error=exc)
                said = True
                if self._stopping.wait(_RETRY_S):
                    return exc
            except Exception as exc:
                return exc
            else:
                if said:
                    log.info("journal.recovered")
                return None

    # -- instances -> rows; each step is safe to repeat ------------------------------------------

    def recover(self) -> None:
        """Go on with studies left open, and begin to look for instances that have no row."""
        self._removed += self._spool.remove_parts()
        now = self._monotonic()
        opened = self._journal.receiving.open_revisions()
        for left in opened:
            self._open.setdefault(left.study_key, _Open(left.revision, now))
        self._unlooked = dict.fromkeys([left.study_key for left in opened])
        self._unlooked |= dict.fromkeys(self._spool.studies())
        self.look_on(0)

    def look_on(self, for_s: float) -> None:
        """Look at some more studies, for so long at most, and write the rows that are missing."""
        until = self._monotonic() + for_s
        while True:
            some = list(itertools.islice(self._unlooked, _STUDIES_AT_ONCE))
            self.find_lost(some)
            for key in some:
                del self._unlooked[key]
            if not self._unlooked or self._monotonic() >= until:
                break
        if not self._unlooked:
            if self._removed or self._lost:
                reason = f"{self._removed} part files removed"
                log.info("spool.recovered", count=self._lost, reason=reason)
            self._removed = self._lost = 0

    def find_lost(self, study_keys: Collection[str]) -> None:
        """Write rows for instances of some studies that have none."""
        kept = [path for key in study_keys for path in self._spool.paths(key)]
        known = self._arrivals.paths() | self._journal.receiving.paths(study_keys)
        lost = [path for path in kept if path not in known]
        found = [row for row in map(self._row_of, lost) if row is not None]
        for start in range(0, len(found), _BATCH):
            self.write([self._arrivals.found(row) for row in found[start : start + _BATCH]])
        self._lost += len(found)

    def _row_of(self, relative: str) -> NewInstance | None:
        path: Path = self._spool.root / relative
        self._sign.show()
        try:
            found = examine(path)
        except LimenError as exc:
            log.error("spool.set_aside", path=relative, error=exc)
            self._spool.set_aside(relative, TORN)
            return None
        except OSError as exc:  # purged, taken back by its writer, or the disk failed
            log.warning("spool.not_read", path=relative, error=exc)
            return None
        kept = Kept(relative, found.digest, found.size_bytes, new=True)
        at = datetime.fromtimestamp(found.received_s, UTC)
        return new_instance(found.identity, kept, found.transfer_syntax, found.peer, at)

    def write(self, batch: Sequence[Arrival]) -> None:
        """Write a batch of rows; what is refused alone is left to ``write_refused``."""
        before = self._taken
        parts = [batch] if batch else []
        while parts:
            part = parts.pop()
            fault = self._until_done(partial(self.record, part))
            if fault is None:
                self._taken += sum(arrival.instance is not None for arrival in part)
                self._arrivals.settle(part)
            elif isinstance(fault, Transient):  # the end of the thread: the spool holds the rest
                return
            elif len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            else:
                self._note_refused(part[0], fault, before)

    def write_refused(self) -> None:
        """Try again what was refused alone; give up what is refused while others are taken.

        As long as nothing else is taken, it may be the journal that is at fault.
        """
        if not self._refused or self._monotonic() < self._refused_again.at_s:
            return
        waiting, self._refused = self._refused, []
        for one in waiting:
            fault = self._until_done(partial(self.record, [one.arrival]))
            one.tries += 1
            if fault is None:
                self._taken += 1
                self._arrivals.settle([one.arrival])
            elif isinstance(fault, Transient) or one.tries < _TRIES or self._taken == one.taken:
                self._refused.append(one)
            else:
                self._give_up(one, fault)
        self._refused_again.later(self._monotonic())

    def write_brought(self) -> None:
        """Write what associations brought that have ended; what the journal refuses is let go."""
        some, self._brought = self._brought[:_BATCH], self._brought[_BATCH:]
        fault = self._until_done(partial(self._journal.events.brought, some))
        if isinstance(fault, Transient):  # the end of the thread
            self._brought = some + self._brought
        elif fault is not None:
            _tell("association.not_written", fault)

    def _note_refused(self, arrival: Arrival, fault: Exception, taken: int) -> None:
        if arrival.instance is None:  # the end of an association asks nothing of the journal
            return
        if not self._refused:
            _tell("journal.refused", fault, study=arrival.instance.study_key)
            self._refused_again = _Again()
            self._refused_again.later(self._monotonic())
        self._refused.append(_Refused(arrival.instance, arrival, taken))

    def _give_up(self, one: _Refused, fault: Exception) -> None:
        instance = one.instance
        _tell("instance.refused", fault, study=instance.study_key, path=instance.path)
        METRICS.set_aside.inc()
        self._spool.set_aside(instance.path, REFUSED)
        self._arrivals.settle([one.arrival])

    def record(self, batch: Sequence[Arrival]) -> None:
        """Write a batch of rows and note which studies they keep open."""
        instances = [arrival.instance for arrival in batch if arrival.instance is not None]
        rows = iter(self._journal.receiving.record(instances, self._name) if instances else [])
        now = self._monotonic()
        conflicts: Counter[str] = Counter()  # of those that no association will tell of
        for arrival in batch:
            instance, association = arrival.instance, arrival.association
            if instance is None:
                self._note_ended(association, now)
                continue
            row = next(rows)
            if association is not None:
                self._carried.came(association, instance, row)
            elif row.conflict:
                conflicts[instance.study_key] += 1
            if not row.new and instance.study_key not in self._open:
                continue
            study = self._open.setdefault(instance.study_key, _Open(row.revision, now))
            study.revision = max(study.revision, row.revision)
            study.last_s = now
            study.released_s = None
            if association is not None:
                study.carriers.add(association)
        for study_key, number in conflicts.items():
            log.warning("instance.conflict", study=study_key, count=number, reason=_CONFLICT)

    # -- rows -> complete studies ----------------------------------------------------------------

    def complete_due(self) -> None:
        """Complete every study that has been quiet for long enough."""
        now = self._monotonic()
        if self._arrivals.was_full():
            self._wait_anew(now)
        for key in [key for key, study in self._open.items() if self._is_due(study, now)]:
            if self._arrivals.is_pending(key):
                continue
            if key in self._unlooked:  # what is found opens it, or keeps it open
                if self._until_done(partial(self.find_lost, [key])) is None:
                    self._unlooked.pop(key, None)
                continue
            study = self._open[key]
            fault = self._until_done(partial(self._complete, key, study))
            if isinstance(fault, Transient):  # the end of the thread: the next start goes on
                return
            if fault is not None:
                _tell("study.not_completed", fault, study=key, revision=study.revision)
                study.again.later(self._monotonic())

    def _complete(self, study_key: str, study: _Open) -> None:
        where = (study_key, study.revision)
        ended = self._journal.receiving.complete(
            *where, self._name, self._quiet_s, originals_first=self._originals_first
        )
        if ended is None:  # another receiver has just had an instance of it
            study.again.at_s = self._monotonic() + _RETRY_S
            return
        del self._open[study_key]
        if ended:
            log.info("study.complete", study=study_key, revision=study.revision)
            self._on_complete()

    def adopt(self) -> None:
        """Take on studies that are left open: the receiver that they came to may be dead."""
        now = self._monotonic()
        if now < self._orphans_s:
            return
        self._orphans_s = now + _ORPHANS_S
        found: list[OpenRevision] = []
        silent_s = max(_ORPHANS_S, 2 * self._quiet_s)
        self._until_done(lambda: found.extend(self._journal.receiving.open_revisions(silent_s)))
        for left in found:
            self._open.setdefault(left.study_key, _Open(left.revision, now))

    def _wait_anew(self, now: float) -> None:
        """Senders were kept waiting: nobody can say how quiet a study was meanwhile."""
        for study in self._open.values():
            study.last_s = now
            study.released_s = None if study.released_s is None else now

    def _note_ended(self, association: int | None, now: float) -> None:
        if association is not None:
            brought = self._carried.ended(association)
            self._brought += brought
            for one in brought:
                _tell_received(one)
        for study in self._open.values():
            if association not in study.carriers:
                continue
            study.carriers.discard(association)
            if not study.carriers:
                study.released_s = now

    def _is_due(self, study: _Open, now: float) -> bool:
        if now < study.again.at_s:
            return False
        if now - study.last_s >= self._quiet_s:
            return True
        return study.released_s is not None and now - study.released_s >= self._release_quiet_s


def _tell_received(brought: Brought) -> None:
    """Log what an association brought of a study."""
    about = log.bind(
        study=brought.study_key,
        revision=brought.revision,
        association=brought.association,
        peer=brought.peer,
    )
    about.info("study.received", count=brought.kept, again=brought.again or None)
    if brought.conflicts:
        about.warning("instance.conflict", count=brought.conflicts, reason=_CONFLICT)


def _tell(event: str, fault: Exception, **fields: object) -> None:
    """Log a fault; one that is not ours with the place it came from."""
    log.error(
        event, error=fault, exc_info=None if isinstance(fault, LimenError) else fault, **fields
    )
