"""The properties of ``tests.fuzz.harness`` over bytes that hypothesis thinks up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scp.dimse import Command
from scp.negotiation import Request
from tests.fuzz.harness import Broken, Harness, leaks, seeds

BOUNDED = settings(
    derandomize=True,
    max_examples=400,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WAYS = 8


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.close()


def test_every_seed_holds_and_whole_instances_are_kept(harness: Harness) -> None:
    for seed in seeds():
        harness.one(seed)
    assert harness.kept >= 3
    assert {seed[0] % WAYS for seed in seeds()} == set(range(WAYS))


def test_a_reader_that_lets_anything_through_is_found_out(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fuzzers can fail: a fault in an association, and one in a reader, both show."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Command, "parse", fail)
    with pytest.raises(Broken, match="ZeroDivisionError"):
        harness.one(seeds()[7])
    monkeypatch.setattr(Request, "parse", fail)
    with pytest.raises(ZeroDivisionError):
        harness.one(seeds()[0])


@BOUNDED
@given(way=st.integers(0, WAYS - 1), data=st.binary(max_size=4000))
def test_whatever_bytes_arrive(harness: Harness, way: int, data: bytes) -> None:
    harness.one(bytes([way]) + data)


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A seed with a few pieces of it cut, doubled or replaced."""
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(1, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(st.one_of(st.binary(max_size=40), st.just(bytes(data[start:end]) * 2)))
        data[start:end] = piece
    return bytes(data)


@BOUNDED
@given(data=altered())
def test_whatever_happens_to_good_bytes_on_the_way(harness: Harness, data: bytes) -> None:
    harness.one(data)


def test_two_thousand_associations_leave_nothing_behind(harness: Harness) -> None:
    good = [seed for seed in seeds() if seed[0] > 2]
    for seed in good:
        harness.one(seed)
    files, threads, memory = leaks()
    for _ in range(2000 // len(good)):
        for seed in good:
            harness.one(seed)
    after = leaks()
    assert (files, threads) == after[:2]
    assert after[2] - memory < 16 << 20
