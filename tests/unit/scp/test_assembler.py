"""scp.assembler: rows in batches, and when a study is complete."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from limen.config import Scp
from limen.errors import Busy, Permanent, Unreachable
from limen.journal import Journal, NewInstance
from limen.journal.receiving import Receiving
from limen.telemetry import METRICS
from limen.uids import key_of
from scp import arrivals
from scp import assembler as module
from scp.arrivals import Arrival
from scp.assembler import Assembler
from scp.header import Identity
from scp.intake import new_instance as row_of
from scp.spool import REFUSED, Found, Spool, examine
from tests.support import samples
from tests.support.associations import associate, store
from tests.support.journals import paths
from tests.support.node import until
from tests.support.samples import START, STUDY_UID, data_set, encode, new_instance
from tests.unit.scp.conftest import Listening

KEY = key_of(STUDY_UID)
EXPLICIT = "1.2.840.10008.1.2.1"


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    journal.migrate()
    yield journal
    journal.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 0)


@pytest.fixture
def rung() -> list[int]:
    return []


@pytest.fixture
def assembler(journal: Journal, spool: Spool, seconds: Seconds, rung: list[int]) -> Assembler:
    return Assembler(journal, spool, 5.0, 1.0, lambda: rung.append(1), seconds)


def keep(spool: Spool, number: int = 1, **elements: Any) -> NewInstance:
    """Put an instance into the spool and return the row it ought to have."""
    body = encode(data_set(number, **elements))
    identity = Identity.of(body, EXPLICIT)
    return row_of(identity, samples.keep(spool, identity, body), EXPLICIT, "CT1", START)


def came(instance: NewInstance, association: int) -> Arrival:
    return Arrival(0, instance, association)


def over(association: int) -> Arrival:
    return Arrival(0, None, association)


def states(journal: Journal) -> list[str]:
    return [r.state for r in journal.status.studies(STUDY_UID)]


def test_what_an_association_brought_and_was_refused_is_kept_when_it_ends(
    assembler: Assembler, journal: Journal
) -> None:
    assembler.refused(7, "0xA900 other class")
    assembler.record([came(new_instance(n), 7) for n in (1, 2, 1)])
    assembler.write_brought()
    assert journal.events.of(KEY) == []
    assembler.ended(7, "10.0.0.1")
    assembler.record([over(7)])
    assembler.write_brought()
    (event,) = journal.events.of(KEY)
    assert (event.who, event.subject, event.revision) == ("CT1", "7", 1)
    assert event.detail == {
        "address": "10.0.0.1", "kept": 2, "again": 1, "refused": {"0xA900 other class": 1},
    }  # fmt: skip


# -- when a study is complete ----------------------------------------------------------------------


def test_a_study_is_complete_when_it_was_quiet_for_quiet_s(
    assembler: Assembler, journal: Journal, seconds: Seconds, rung: list[int]
) -> None:
    assembler.record([came(new_instance(1), 7)])
    seconds.now += 4
    assembler.record([came(new_instance(2), 7)])
    seconds.now += 4.9
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 0.2
    assembler.complete_due()
    assert states(journal) == ["complete"]
    assembler.complete_due()
    assert rung == [1]


def test_the_end_of_the_last_association_shortens_the_wait(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7)])
    seconds.now += 2
    assembler.record([over(7)])
    seconds.now += 0.9
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 0.2
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_an_association_that_is_still_open_keeps_its_study_open(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7), came(new_instance(2), 8), over(7)])
    seconds.now += 3
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    assembler.record([over(8)])
    seconds.now += 1.1
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_an_instance_of_a_new_association_keeps_the_study_open_again(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7), over(7)])
    seconds.now += 0.9
    assembler.record([came(new_instance(2), 8)])
    seconds.now += 2
    assembler.complete_due()
    assert states(journal) == ["receiving"]


def test_an_end_before_any_instance_ends_nothing(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([over(7), came(new_instance(1), 7)])
    seconds.now += 2
    assembler.complete_due()
    assert states(journal) == ["receiving"]


def test_the_end_of_an_association_that_carried_other_studies_ends_nothing(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7), came(new_instance(1, "1.2.3"), 8), over(8)])
    seconds.now += 2
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    assert journal.status.studies("1.2.3")[0].state == "complete"


def test_an_end_that_is_told_twice_does_not_start_the_wait_anew(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7), over(7)])
    seconds.now += 0.9
    assembler.record([over(7)])  # released, then the connection is closed
    seconds.now += 0.2
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_a_late_instance_makes_the_next_revision(
    assembler: Assembler, journal: Journal, seconds: Seconds, rung: list[int]
) -> None:
    assembler.record([came(new_instance(1), 7), over(7)])
    seconds.now += 2
    assembler.complete_due()
    assembler.record([came(new_instance(2), 8), over(8)])
    seconds.now += 2
    assembler.complete_due()
    assert [(r.revision, r.state) for r in journal.status.studies(STUDY_UID)] == [
        (2, "complete"),
        (1, "complete"),
    ]
    assert rung == [1, 1]


def test_an_identical_resend_opens_nothing(
    assembler: Assembler, journal: Journal, seconds: Seconds, rung: list[int]
) -> None:
    for association in (7, 8):
        assembler.record([came(new_instance(1), association), over(association)])
        seconds.now += 10
        assembler.complete_due()
    assert states(journal) == ["complete"]
    assert rung == [1]


def test_a_resend_while_the_study_is_open_keeps_it_open(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7)])
    seconds.now += 4
    assembler.record([came(new_instance(1), 8)])
    seconds.now += 4
    assembler.complete_due()
    assert states(journal) == ["receiving"]


def test_other_bytes_under_the_same_uid_are_told(assembler: Assembler, journal: Journal) -> None:
    with capture_logs() as logs:
        assembler.record([came(new_instance(1), 7), came(new_instance(1, content="other"), 7)])
        assert logs == []
        assembler.record([Arrival(0, None, 7)])
    told = [(x["event"], x["study"], x["association"], x["count"]) for x in logs]
    assert told == [("study.received", KEY, 7, 2), ("instance.conflict", KEY, 7, 1)]


# -- after a crash ---------------------------------------------------------------------------------


def test_rows_that_a_crash_swallowed_are_written_again(
    assembler: Assembler, journal: Journal, spool: Spool, seconds: Seconds
) -> None:
    known, lost = keep(spool, 1), keep(spool, 2)
    journal.receiving.record([known])
    assembler.recover()
    assert paths(journal) == {known.path, lost.path}
    (row,) = [i for i in journal.receiving.instances(KEY, 1) if i.sop_uid == lost.sop_uid]
    assert (row.digest, row.series_uid) == (lost.digest, lost.series_uid)
    seconds.now += 5.1
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_recovering_twice_changes_nothing(
    assembler: Assembler, journal: Journal, spool: Spool
) -> None:
    keep(spool)
    assembler.recover()
    assembler.recover()
    assert [r.instances for r in journal.status.studies()] == [1]


def lose(spool: Spool, studies: int) -> list[str]:
    """Keep an instance of each of so many studies, the first the oldest; return their paths."""
    found = []
    for n in range(studies):
        kept = keep(spool, StudyInstanceUID=f"1.2.{n}", SOPInstanceUID=f"1.2.{n}.1.1")
        os.utime((spool.root / kept.path).parent, (n, n))
        found.append(kept.path)
    return found


def test_what_changed_last_is_looked_at_first_and_the_rest_bit_by_bit(
    assembler: Assembler, journal: Journal, spool: Spool
) -> None:
    lost = lose(spool, 50)
    assembler.recover()
    assert paths(journal) == set(lost[30:])
    assembler.look_on(0)
    assert paths(journal) == set(lost[10:])
    with capture_logs() as logs:
        assembler.look_on(60)
    assert paths(journal) == set(lost)
    assert [x["count"] for x in logs if x["event"] == "spool.recovered"] == [50]


def test_a_study_is_not_complete_before_its_folder_was_looked_at(
    assembler: Assembler, journal: Journal, spool: Spool, seconds: Seconds
) -> None:
    lost = lose(spool, 50)
    assembler.recover()
    assembler.record([came(new_instance(2, "1.2.0"), 7)])
    seconds.now += 5.1
    assembler.complete_due()
    assert lost[0] in paths(journal)
    assert journal.status.studies("1.2.0")[0].state == "receiving"
    seconds.now += 5.1
    assembler.complete_due()
    (row,) = journal.status.studies("1.2.0")
    assert (row.state, row.instances) == ("complete", 2)


def test_half_written_files_are_removed(assembler: Assembler, spool: Spool) -> None:
    path = spool.root / keep(spool).path
    part = spool.new_part()
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    assembler.recover()
    assert [p for p in spool.root.rglob("*") if p.is_file()] == [path]


def test_a_study_that_was_open_goes_on_after_a_restart(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    journal.receiving.record([new_instance(1)])
    assembler.recover()
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 5.1
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_a_lost_row_of_a_complete_study_makes_the_next_revision(
    assembler: Assembler, journal: Journal, spool: Spool, seconds: Seconds
) -> None:
    journal.receiving.record([keep(spool, 1)])
    journal.receiving.complete(KEY, 1)
    keep(spool, 2)
    assembler.recover()
    seconds.now += 5.1
    assembler.complete_due()
    assert [r.instances for r in journal.status.studies(STUDY_UID)] == [2, 1]


def test_a_foreign_file_does_not_stop_the_recovery(
    assembler: Assembler, journal: Journal, spool: Spool
) -> None:
    kept = keep(spool)
    foreign = (spool.root / kept.path).with_name("0.dcm")
    foreign.write_text("left by a person")
    (spool.root / "notes.txt").write_text("left by a person")
    with capture_logs() as logs:
        assembler.recover()
    assert paths(journal) == {kept.path}
    assert "spool.set_aside" in [x["event"] for x in logs]
    assert foreign.with_suffix(".torn").read_text() == "left by a person"


def test_an_instance_that_vanishes_or_cannot_be_read_does_not_stop_the_recovery(
    assembler: Assembler, journal: Journal, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = keep(spool, 1), keep(spool, 2)
    real: Callable[[Path], Found] = module.examine

    def examine(path: Path) -> Found:
        if path.name in lost.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(module, "examine", examine)
    assembler.recover()
    assert paths(journal) == {kept.path}


# -- a journal that stalls -------------------------------------------------------------------------


def test_a_study_is_not_complete_while_an_instance_of_it_waits_for_its_row(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([came(new_instance(1), 7), over(7)])
    assembler.add(new_instance(2), 8)
    seconds.now += 60  # the journal was busy with others
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    assembler.write(assembler._arrivals.take(10))
    seconds.now += 5.1
    assembler.complete_due()
    assert [(r.revision, r.instances) for r in journal.status.studies()] == [(1, 2)]


def test_the_wait_begins_anew_when_senders_were_kept_waiting(
    assembler: Assembler, journal: Journal, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other processes have kept may not even be in the queue yet."""
    monkeypatch.setattr(arrivals, "_LIMIT", 1)
    monkeypatch.setattr(arrivals, "_ROOM_S", 0.01)
    assembler.record([came(new_instance(1), 7), over(7)])
    assembler.add(new_instance(1, "1.2.3"), 8)
    with pytest.raises(Busy):
        assembler.add(new_instance(2), 9)
    seconds.now += 60
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 0.9
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 0.2
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_a_stall_of_the_journal_makes_no_false_revision(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the times that ship; batches of one stand for a queue of more than a batch."""
    monkeypatch.setattr(module, "_BATCH", 1)
    defaults = Scp()
    listening = listen(quiet_s=defaults.quiet_s, release_quiet_s=defaults.release_quiet_s)
    receiver = listening.receiver
    first = associate(listening.peer)
    assert store(first, data_set(1), f"{STUDY_UID}.1.1").Status == 0
    until(lambda: states(receiver.journal) == ["receiving"], 10, "the first row")
    path = listening.config.data_dir / "journal.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        other = data_set(1, StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")
        assert store(first, other, "1.2.3.4").Status == 0
        assert store(first, data_set(2), f"{STUDY_UID}.1.2").Status == 0
        until(lambda: time.monotonic() - began > defaults.quiet_s + 1, 20, "the stall to last")
        db.execute("ROLLBACK")
    first.release()
    until(lambda: "complete" in states(receiver.journal), 20, "the study")
    until(lambda: len(paths(receiver.journal)) == 3, 10, "every row")
    rows = receiver.journal.status.studies(STUDY_UID)
    assert [(r.revision, r.instances) for r in rows] == [(1, 2)]


# -- a journal that refuses ------------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, method: str, when: Callable[[Any], bool]) -> None:
    """Let a method of the journal fail for good when its first argument is a certain one."""
    real = getattr(Receiving, method)

    def call(self: Receiving, first: Any, *args: Any, **more: Any) -> Any:
        if when(first):
            raise Permanent("value too long for type character varying(16)")
        return real(self, first, *args, **more)

    monkeypatch.setattr(Receiving, method, call)


def test_a_row_that_is_refused_keeps_nobody_waiting_and_its_instance_is_set_aside(
    live: Assembler,
    journal: Journal,
    spool: Spool,
    rung: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [keep(spool, number) for number in range(1, 12)]
    poison = rows[5]
    refuse(monkeypatch, "record", lambda batch: poison.path in {row.path for row in batch})
    before = METRICS.set_aside._value.get()
    for row in rows:
        live.add(row, 7)
    live.ended(7)
    with capture_logs() as logs:
        live.start()
        until(lambda: len(paths(journal)) == 10, 10, "its neighbours")
        live.flush()
        until(lambda: rung, 10, "the bell")
    (told,) = [x for x in logs if x["event"] == "instance.refused"]
    assert (told["study"], told["path"]) == (KEY, poison.path)
    assert "too long" in str(told["error"])
    aside = (spool.root / poison.path).with_suffix(".refused")
    assert examine(aside).digest == poison.digest
    assert states(journal) == ["complete"]
    assert METRICS.set_aside._value.get() == before + 1


def test_nothing_is_set_aside_while_the_journal_takes_nothing(
    assembler: Assembler,
    journal: Journal,
    spool: Spool,
    seconds: Seconds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [keep(spool, number) for number in range(1, 5)]
    for row in rows:
        assembler.add(row, 7)
    with monkeypatch.context() as patch:
        patch.setattr(arrivals, "_ROOM_S", 0.01)
        refuse(patch, "record", lambda _: True)
        assembler.write(assembler._arrivals.take(10))
        for _ in range(20):
            seconds.now += 100
            assembler.write_refused()
            assembler.complete_due()
        assert journal.status.studies() == []
        with pytest.raises(Busy):
            assembler.flush()
    seconds.now += 100
    assembler.write_refused()
    assert paths(journal) == {row.path for row in rows}
    assembler.flush()


def test_what_was_set_aside_is_told_apart_from_what_was_set_aside_before(
    spool: Spool,
) -> None:
    kept = keep(spool)
    path = spool.root / kept.path
    path.with_suffix(".refused").write_text("before")
    spool.set_aside(kept.path, REFUSED)
    assert not path.exists()
    assert path.with_suffix(".refused").read_text() == "before"
    assert len(list(path.parent.iterdir())) == 2


def test_a_study_that_cannot_be_completed_keeps_no_other_waiting(
    assembler: Assembler, journal: Journal, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembler.record([came(new_instance(1), 7), came(new_instance(1, "1.2.3"), 7), over(7)])
    seconds.now += 2
    with monkeypatch.context() as patch:
        refuse(patch, "complete", lambda key: key == KEY)
        assembler.complete_due()
    assert states(journal) == ["receiving"]
    assert journal.status.studies("1.2.3")[0].state == "complete"
    seconds.now += 1.1
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_a_recovery_that_failed_is_tried_again(
    live: Assembler, journal: Journal, rung: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    live._quiet_s = 0.1
    journal.receiving.record([new_instance(1)])
    bug = fail_first(journal.receiving.open_revisions, 2, Permanent("no such table"))
    monkeypatch.setattr(journal.receiving, "open_revisions", bug)
    live.start()
    until(lambda: rung, 10, "the bell")
    assert states(journal) == ["complete"]


def test_what_else_lies_in_the_spool_does_not_stop_the_recovery(
    assembler: Assembler, journal: Journal, spool: Spool
) -> None:
    kept = keep(spool)
    (spool.root / "lost+found").mkdir()
    (spool.root / "lost+found" / "1.dcm").touch()
    (spool.root / ("0" * 32)).write_text("no folder")
    assembler.recover()
    assert paths(journal) == {kept.path}


# -- the thread ------------------------------------------------------------------------------------


@pytest.fixture
def live(journal: Journal, spool: Spool, rung: list[int]) -> Iterator[Assembler]:
    """An assembler on the real clock, not started yet."""
    assembler = Assembler(journal, spool, 30.0, 0.1, lambda: rung.append(1))
    yield assembler
    assembler.stop()


def test_the_thread_writes_completes_and_rings(
    live: Assembler, journal: Journal, rung: list[int]
) -> None:
    live.start()
    for number in range(1, 4):
        live.add(new_instance(number), 7)
    live.ended(7)
    until(lambda: rung, 10, "the bell")
    (row,) = journal.status.studies()
    assert (row.state, row.instances) == ("complete", 3)


def test_what_waits_is_written_before_the_thread_ends(live: Assembler, journal: Journal) -> None:
    for number in range(1, 401):
        live.add(new_instance(number), 7)
    live.start()
    live.stop()
    assert journal.status.studies()[0].instances == 400


def fail_first(real: Callable[..., Any], times: int, error: Exception) -> Callable[..., Any]:
    left = [times]

    def call(*args: Any, **more: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return real(*args, **more)

    return call


@pytest.mark.parametrize("step", ["paths", "record", "complete"])
def test_a_journal_that_is_away_is_tried_until_it_is_back(
    live: Assembler, journal: Journal, rung: list[int], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    away = fail_first(getattr(journal.receiving, step), 3, Unreachable("the journal is away"))
    monkeypatch.setattr(journal.receiving, step, away)
    with capture_logs() as logs:
        live.start()
        live.add(new_instance(1), 7)
        live.ended(7)
        until(lambda: rung, 10, "the bell")
        live.stop()
    assert states(journal) == ["complete"]
    events = [x["event"] for x in logs if x["event"].startswith("journal")]
    assert events == ["journal.waiting", "journal.recovered"]


def test_a_bug_in_one_step_does_not_end_the_thread(
    live: Assembler, journal: Journal, rung: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = fail_first(journal.receiving.complete, 1, RuntimeError("bug"))
    monkeypatch.setattr(journal.receiving, "complete", bug)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        live.start()
        live.add(new_instance(1), 7)
        live.ended(7)
        until(lambda: rung, 10, "the bell")
    finally:
        structlog.reset_defaults()
    assert states(journal) == ["complete"]


def test_a_journal_that_cannot_keep_up_makes_the_sender_wait_and_then_busy(
    assembler: Assembler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_ROOM_S", 0.01)
    for number in range(arrivals._LIMIT):
        assembler.add(new_instance(number), 7)
    with pytest.raises(Busy, match="send again later"):
        assembler.add(new_instance(1), 7)
    assembler.ended(7)  # never raises: quiet_s alone decides then


def test_stopping_does_not_wait_for_a_journal_that_is_away(
    live: Assembler, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = fail_first(journal.receiving.record, 10**6, Unreachable("the journal is away"))
    monkeypatch.setattr(journal.receiving, "record", away)
    with capture_logs() as logs:
        live.start()
        live.add(new_instance(1), 7)
        until(lambda: logs, 10, "the warning")
        began = time.monotonic()
        live.stop()
    assert time.monotonic() - began < 5
    assert not live._thread.is_alive()
