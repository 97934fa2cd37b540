"""Acquisitions of a series are told apart, and every frame keeps a place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.headers import header, stack
from worker.dicom.headers import Header
from worker.study.stacks import Stack, stacks


def made(headers: list[Header]) -> list[Stack]:
    return stacks((h, frame) for h in headers for frame in h.frames)


def with_frame(one: Header, **changes: Any) -> Header:
    return replace(one, frames=tuple(replace(frame, **changes) for frame in one.frames))


def again(first: int, count: int = 5, shift_mm: float = 0.0, **frame: Any) -> list[Header]:
    """Return a second acquisition of ``stack(count, "1.1")`` with numbers from ``first``."""
    return [
        with_frame(header(first + n, position=(0.0, 0.0, n + shift_mm)), **frame)
        for n in range(count)
    ]


@pytest.mark.parametrize("shift_mm", [0.0, 0.5])
@pytest.mark.parametrize("key", ["acquisition_number", "acquisition_time", "temporal_index"])
def test_acquisitions_are_told_apart_by_what_they_say(key: str, shift_mm: float) -> None:
    first = [with_frame(h, **{key: 1}) for h in stack(5, "1.1")]
    found = made(first + again(90, shift_mm=shift_mm, **{key: 2}))
    assert [len(s.places) for s in found] == [5, 5]
    assert all(len({getattr(p.frame, key) for p in s.places}) == 1 for s in found)


def test_acquisitions_that_say_nothing_are_told_apart_by_the_restart() -> None:
    found = made(stack(5, "1.1") + again(5))
    numbers = [sorted(p.header.instance_number or 0 for p in s.places) for s in found]
    assert numbers == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_what_cannot_be_told_apart_stays_together_and_is_counted() -> None:
    twins = [replace(h, sop_uid=f"9.{h.sop_uid}") for h in stack(5, "1.1")]
    (found,) = made(stack(5, "1.1") + twins)
    assert (len(found.places), found.repeated) == (10, 5)


def test_rotations_that_lie_beside_each_other_are_one_acquisition() -> None:
    headers = [with_frame(h, acquisition_number=n) for n, h in enumerate(stack(6, "1.1"))]
    assert [len(s.places) for s in made(headers)] == [6]


def test_slice_location_stands_in_for_positions_that_are_all_the_same() -> None:
    headers = [
        with_frame(header(n, position=(0.0, 0.0, 0.0)), location_mm=-float(n)) for n in range(5)
    ]
    (found,) = made(headers)
    assert [p.header.instance_number for p in found.places] == [4, 3, 2, 1, 0]
    assert found.is_placed
    assert "placed by SliceLocation" in found.notes[0]


def test_a_slice_without_position_lies_between_its_neighbours() -> None:
    headers = stack(5, "1.1")
    headers[2] = with_frame(headers[2], position_mm=None)
    (found,) = made(headers)
    assert [p.position_mm for p in found.places] == [0, 1, 2, 3, 4]
    assert found.places[2].told_by == "InstanceNumber"


def test_an_orientation_that_differs_in_its_last_digits_parts_nothing() -> None:
    headers = [
        with_frame(h, orientation=((1.0, 1e-7 * n, 0.0), (0.0, 1.0, 0.0)))
        for n, h in enumerate(stack(5, "1.1"))
    ]
    assert [len(s.places) for s in made(headers)] == [5]


def test_many_directions_and_times_take_no_longer_than_they_are_many() -> None:
    headers = [
        with_frame(
            h, acquisition_time=str(n % 2500), orientation=((1.0, n / 900, 0.0), (0.0, 1.0, 0.0))
        )
        for n, h in enumerate(stack(5000, "1.1"))
    ]
    assert sum(len(s.places) for s in made(headers)) == 5000
