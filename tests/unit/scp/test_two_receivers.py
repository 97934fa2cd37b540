"""scp.assembler and scp.spool: two receivers that share a journal and a spool."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from limen.journal import Journal
from limen.uids import key_of
from scp.assembler import Assembler
from scp.header import Identity
from scp.spool import Spool
from tests.support.samples import STUDY_UID, Clock, data_set, encode, new_instance

KEY = key_of(STUDY_UID)
QUIET_S, RELEASE_S = 5.0, 1.0


class Two:
    """Two receivers, and one clock for all."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.journal = Journal(f"sqlite:///{folder}/journal.db", self.clock)
        self.journal.migrate()
        self.spool = Spool(folder / "spool", 0)
        self.a, self.b = self.receiver("a"), self.receiver("b")

    def receiver(self, name: str) -> Assembler:
        spool = Spool(self.spool.root, 0)
        return Assembler(
            self.journal, spool, QUIET_S, RELEASE_S, lambda: None, self._seconds, name
        )  # fmt: skip

    def _seconds(self) -> float:
        return self.clock.now.timestamp()

    def come(self, to: Assembler, number: int, association: int) -> None:
        to.add(new_instance(number, at=self.clock.now), association)
        self.turn(to)

    def turn(self, *receivers: Assembler) -> None:
        for one in receivers:
            one.write(one._arrivals.take(100))
            one.adopt()
            one.complete_due()

    def pass_s(self, seconds: float, *receivers: Assembler) -> None:
        for _ in itertools.repeat(None, int(seconds / 0.5)):
            self.clock.forward(0.5)
            self.turn(*receivers)

    @property
    def states(self) -> list[tuple[int, str, int]]:
        rows = self.journal.status.studies()
        return [(r.revision, r.state, r.instances) for r in rows]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    two = Two(tmp_path)
    yield two
    two.journal.close()


def test_a_study_is_complete_when_it_is_quiet_at_both(two: Two) -> None:
    two.come(two.a, 1, 1)
    two.come(two.b, 2, 2)
    two.a.ended(1)
    two.pass_s(QUIET_S - 1, two.a)  # b pauses, its association is open
    two.come(two.b, 3, 2)
    two.pass_s(QUIET_S - 1, two.a)
    assert two.states == [(1, "receiving", 3)]
    two.b.ended(2)
    two.pass_s(QUIET_S, two.a, two.b)
    assert two.states == [(1, "complete", 3)]


def test_what_no_other_receiver_had_waits_for_none(two: Two) -> None:
    two.come(two.a, 1, 1)
    two.a.ended(1)
    two.pass_s(RELEASE_S + 0.5, two.a)
    assert two.states == [(1, "complete", 1)]


def test_a_receiver_that_starts_completes_nothing_that_comes_to_the_other(two: Two) -> None:
    two.come(two.b, 1, 1)
    two.a.recover()
    for number in range(2, 8):
        two.pass_s(QUIET_S - 1, two.a)
        two.come(two.b, number, 1)
    assert two.states == [(1, "receiving", 7)]


def test_what_a_dead_receiver_left_open_is_completed_by_the_other(two: Two) -> None:
    two.come(two.b, 1, 1)  # and then it dies
    two.pass_s(60, two.a)
    assert two.states == [(1, "complete", 1)]


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_receiver_that_starts_leaves_alone_what_the_other_is_writing(
    tmp_path: Path, size: int
) -> None:
    body = encode(data_set(PixelData=bytes(size)))
    identity = Identity.of(body, "1.2.840.10008.1.2.1")
    before = Spool(tmp_path / "spool", 0)
    part = before.begin(identity.sop_class_uid, identity.sop_uid, "1.2.840.10008.1.2.1", "CT1")
    part.write(memoryview(body))
    after = Spool(tmp_path / "spool", 0)
    after._started_s += 60
    assert after.remove_parts() == 0
    kept = part.keep(identity)
    assert (tmp_path / "spool" / kept.path).is_file()


def test_what_a_dead_receiver_was_writing_is_removed(tmp_path: Path) -> None:
    before = Spool(tmp_path / "spool", 0)
    before.new_part().write_bytes(b"half")
    after = Spool(tmp_path / "spool", 0)
    after._started_s += 60
    assert after.remove_parts() == 1
