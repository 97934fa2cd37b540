"""The properties of ``tests.fuzz.harness`` over bytes that hypothesis thinks up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scp.dimse import Command
from scp.negotiation import Request
from scp.spool import Part
from tests.fuzz.harness import TALKS, WAYS, Broken, Harness, seeds

BOUNDED = settings(
    derandomize=True,
    max_examples=400,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.close()


def test_every_seed_holds_and_whole_instances_are_kept(harness: Harness) -> None:
    for way, data in seeds():
        harness.run(way, data)
    assert harness.kept >= 5
    assert {way for way, _ in seeds()} == set(WAYS)


def test_a_reader_that_lets_anything_through_is_found_out(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fuzzers can fail: a fault in an association, and one in a reader, both show."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    good = dict(seeds())
    monkeypatch.setattr(Command, "parse", fail)
    with pytest.raises(Broken, match="ZeroDivisionError"):
        harness.run("commanded", good["commanded"])
    monkeypatch.setattr(Request, "parse", fail)
    with pytest.raises(ZeroDivisionError):
        harness.run("negotiation", good["negotiation"])


def test_a_part_file_that_stays_is_found_out(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Part, "discard", Part._close)
    with pytest.raises(Broken, match="part file"):
        harness.run("stored", b"\x0f\0")
    for path in harness.parts():
        path.unlink()


def test_text_of_a_stranger_in_a_log_line_is_found_out(harness: Harness) -> None:
    structlog.get_logger("test").warning("association.rejected", reason="\x1b[2J")
    with pytest.raises(Broken, match="reason"):
        harness.run("raw", b"")


def test_a_machine_that_stands_still_breaks_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process once looked like a good request that was not accepted: its time was up."""
    jumps = itertools.count(time.monotonic(), 1000)
    monkeypatch.setattr(time, "monotonic", lambda: next(jumps))
    for way, data in seeds():
        harness.run(way, data)


@BOUNDED
@given(way=st.sampled_from(WAYS), data=st.binary(max_size=4000))
def test_whatever_bytes_arrive(harness: Harness, way: str, data: bytes) -> None:
    harness.run(way, data)


@st.composite
def altered(draw: st.DrawFn) -> tuple[str, bytes]:
    """A seed with a few pieces of it cut, doubled or replaced."""
    way, good = draw(st.sampled_from(seeds()))
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(st.one_of(st.binary(max_size=40), st.just(bytes(data[start:end]) * 2)))
        data[start:end] = piece
    return way, bytes(data)


@BOUNDED
@given(one=altered())
def test_whatever_happens_to_good_bytes_on_the_way(
    harness: Harness, one: tuple[str, bytes]
) -> None:
    harness.run(*one)


def test_two_thousand_associations_leave_nothing_behind(harness: Harness) -> None:
    good = [seed for seed in seeds() if seed[0] in TALKS]
    for seed in good:
        harness.run(*seed)
    files, threads, memory = harness.leaks()
    for _ in range(2000 // len(good)):
        for seed in good:
            harness.run(*seed)
    after = harness.leaks()
    assert (files, threads) == after[:2]
    assert after[2] - memory < 16 << 20
