"""scp.assembler: rows in batches, and when a study is complete."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from limen.errors import Busy, Unreachable
from limen.journal import Journal, NewInstance
from limen.uids import key_of
from scp import assembler as module
from scp.assembler import Assembler
from scp.handlers import new_instance as row_of
from scp.header import Identity
from scp.spool import Found, Spool
from tests.node import until
from tests.samples import START, STUDY_UID, data_set, encode, new_instance

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
    return row_of(identity, spool.keep(identity, body, EXPLICIT, "CT1"), EXPLICIT, "CT1", START)


def states(journal: Journal) -> list[str]:
    return [r.state for r in journal.studies(STUDY_UID)]


# -- when a study is complete ----------------------------------------------------------------------


def test_a_study_is_complete_when_it_was_quiet_for_quiet_s(
    assembler: Assembler, journal: Journal, seconds: Seconds, rung: list[int]
) -> None:
    assembler.record([(new_instance(1), 7)])
    seconds.now += 4
    assembler.record([(new_instance(2), 7)])
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
    assembler.record([(new_instance(1), 7)])
    seconds.now += 2
    assembler.record([(None, 7)])
    seconds.now += 0.9
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 0.2
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_an_association_that_is_still_open_keeps_its_study_open(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([(new_instance(1), 7), (new_instance(2), 8), (None, 7)])
    seconds.now += 3
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    assembler.record([(None, 8)])
    seconds.now += 1.1
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_an_instance_of_a_new_association_keeps_the_study_open_again(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([(new_instance(1), 7), (None, 7)])
    seconds.now += 0.9
    assembler.record([(new_instance(2), 8)])
    seconds.now += 2
    assembler.complete_due()
    assert states(journal) == ["receiving"]


def test_an_end_before_any_instance_ends_nothing(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([(None, 7), (new_instance(1), 7)])
    seconds.now += 2
    assembler.complete_due()
    assert states(journal) == ["receiving"]


def test_the_end_of_an_association_that_carried_other_studies_ends_nothing(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([(new_instance(1), 7), (new_instance(1, "1.2.3"), 8), (None, 8)])
    seconds.now += 2
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    assert journal.studies("1.2.3")[0].state == "complete"


def test_an_end_that_is_told_twice_does_not_start_the_wait_anew(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([(new_instance(1), 7), (None, 7)])
    seconds.now += 0.9
    assembler.record([(None, 7)])  # released, then the connection is closed
    seconds.now += 0.2
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_a_late_instance_makes_the_next_revision(
    assembler: Assembler, journal: Journal, seconds: Seconds, rung: list[int]
) -> None:
    assembler.record([(new_instance(1), 7), (None, 7)])
    seconds.now += 2
    assembler.complete_due()
    assembler.record([(new_instance(2), 8), (None, 8)])
    seconds.now += 2
    assembler.complete_due()
    assert [(r.revision, r.state) for r in journal.studies(STUDY_UID)] == [
        (2, "complete"),
        (1, "complete"),
    ]
    assert rung == [1, 1]


def test_an_identical_resend_opens_nothing(
    assembler: Assembler, journal: Journal, seconds: Seconds, rung: list[int]
) -> None:
    for association in (7, 8):
        assembler.record([(new_instance(1), association), (None, association)])
        seconds.now += 10
        assembler.complete_due()
    assert states(journal) == ["complete"]
    assert rung == [1]


def test_a_resend_while_the_study_is_open_keeps_it_open(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    assembler.record([(new_instance(1), 7)])
    seconds.now += 4
    assembler.record([(new_instance(1), 8)])
    seconds.now += 4
    assembler.complete_due()
    assert states(journal) == ["receiving"]


def test_other_bytes_under_the_same_uid_are_told(assembler: Assembler, journal: Journal) -> None:
    with capture_logs() as logs:
        assembler.record([(new_instance(1), 7), (new_instance(1, content="other"), 7)])
    assert [(x["event"], x["study"]) for x in logs] == [("instance.conflict", KEY)]


# -- after a crash ---------------------------------------------------------------------------------


def test_rows_that_a_crash_swallowed_are_written_again(
    assembler: Assembler, journal: Journal, spool: Spool, seconds: Seconds
) -> None:
    known, lost = keep(spool, 1), keep(spool, 2)
    journal.record([known])
    assembler.recover()
    assert journal.paths() == {known.path, lost.path}
    (row,) = [i for i in journal.instances(KEY, 1) if i.sop_uid == lost.sop_uid]
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
    assert [r.images for r in journal.studies()] == [1]


def test_half_written_files_are_removed(assembler: Assembler, spool: Spool) -> None:
    path = spool.root / keep(spool).path
    part = path.with_name("0.part")
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    assembler.recover()
    assert list(path.parent.iterdir()) == [path]


def test_a_study_that_was_open_goes_on_after_a_restart(
    assembler: Assembler, journal: Journal, seconds: Seconds
) -> None:
    journal.record([new_instance(1)])
    assembler.recover()
    assembler.complete_due()
    assert states(journal) == ["receiving"]
    seconds.now += 5.1
    assembler.complete_due()
    assert states(journal) == ["complete"]


def test_a_lost_row_of_a_complete_study_makes_the_next_revision(
    assembler: Assembler, journal: Journal, spool: Spool, seconds: Seconds
) -> None:
    journal.record([keep(spool, 1)])
    journal.complete(KEY, 1)
    keep(spool, 2)
    assembler.recover()
    seconds.now += 5.1
    assembler.complete_due()
    assert [r.images for r in journal.studies(STUDY_UID)] == [2, 1]


def test_a_foreign_file_does_not_stop_the_recovery(
    assembler: Assembler, journal: Journal, spool: Spool
) -> None:
    kept = keep(spool)
    foreign = (spool.root / kept.path).with_name("0.dcm")
    foreign.write_text("left by a person")
    (spool.root / "notes.txt").write_text("left by a person")
    with capture_logs() as logs:
        assembler.recover()
    assert journal.paths() == {kept.path}
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
    assert journal.paths() == {kept.path}


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
    (row,) = journal.studies()
    assert (row.state, row.images) == ("complete", 3)


def test_what_waits_is_written_before_the_thread_ends(live: Assembler, journal: Journal) -> None:
    for number in range(1, 401):
        live.add(new_instance(number), 7)
    live.start()
    live.stop()
    assert journal.studies()[0].images == 400


def fail_first(real: Callable[..., Any], times: int, error: Exception) -> Callable[..., Any]:
    left = [times]

    def call(*args: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return real(*args)

    return call


@pytest.mark.parametrize("step", ["paths", "record", "complete"])
def test_a_journal_that_is_away_is_tried_until_it_is_back(
    live: Assembler, journal: Journal, rung: list[int], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    away = fail_first(getattr(journal, step), 3, Unreachable("the journal is away"))
    monkeypatch.setattr(journal, step, away)
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
    bug = fail_first(journal.complete, 1, RuntimeError("bug"))
    monkeypatch.setattr(journal, "complete", bug)
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
    monkeypatch.setattr(module, "_ADD_TIMEOUT_S", 0.01)
    for number in range(module._WAITING_LIMIT):
        assembler.add(new_instance(number), 7)
    with pytest.raises(Busy, match="send again later"):
        assembler.add(new_instance(1), 7)
    assembler.ended(7)  # never raises: quiet_s alone decides then


def test_stopping_does_not_wait_for_a_journal_that_is_away(
    live: Assembler, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = fail_first(journal.record, 10**6, Unreachable("the journal is away"))
    monkeypatch.setattr(journal, "record", away)
    with capture_logs() as logs:
        live.start()
        live.add(new_instance(1), 7)
        until(lambda: logs, 10, "the warning")
        began = time.monotonic()
        live.stop()
    assert time.monotonic() - began < 5
    assert not live._thread.is_alive()
