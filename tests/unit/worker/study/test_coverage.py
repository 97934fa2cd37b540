"""Gaps, missing numbers and extents are measured."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.headers import header
from worker.dicom.headers import Header
from worker.study import coverage
from worker.study.stacks import Stack, stacks


def at(*positions_mm: float, **changes: Any) -> Stack:
    headers = [
        header(n, position=(0.0, 0.0, z), **{"thickness_mm": 5.0} | changes)
        for n, z in enumerate(positions_mm, start=1)
    ]
    (found,) = stacks((h, f) for h in headers for f in h.frames)
    return found


def test_slices_as_far_apart_as_they_are_thick_have_no_gap() -> None:
    assert coverage.gaps(at(0, 5, 10, 15.2, 20)) == []


def test_a_lost_slice_is_a_gap_also_where_slices_overlap() -> None:
    (found,) = coverage.gaps(at(0, 2.5, 5, 10, 12.5, 15))
    assert found.startswith("1 gap between slices (the largest 5.0 mm where 2.5 mm")


def test_where_every_other_slice_is_lost_the_thickness_tells() -> None:
    assert "3 gaps" in coverage.gaps(at(0, 10, 20, 30))[0]


def test_sparse_slices_have_no_gap_where_the_file_says_so() -> None:
    assert coverage.gaps(at(0, 12, 24, 36, spacing_between_mm=12.0)) == []
    assert coverage.gaps(at(0, 12, 36, 48, spacing_between_mm=12.0))


def test_without_thickness_the_usual_distance_tells() -> None:
    assert coverage.gaps(at(0, 5, 10, 20, 25, thickness_mm=None))


@pytest.mark.parametrize(
    ("numbers", "known", "missing"),
    [
        ((1, 2, 3), (), []),
        ((1, 2, 4), (), [3]),
        ((3, 4, 5), (), [1, 2]),
        ((3, 4, 5), (1, 2), []),
        ((101, 102, 103), (), []),
        ((1, 2, 3, 101, 102), (), []),
        ((1, 1, 2), (), []),
        ((None, None), (), []),
    ],
)
def test_missing_numbers(numbers: tuple[Any, ...], known: Any, missing: list[int]) -> None:
    members: list[Header] = [header(0, instance_number=n) for n in numbers]
    assert coverage.missing_numbers(members, {*known, *numbers}) == missing


def test_spans_are_joined_where_they_touch() -> None:
    assert coverage.spans(at(0, 5, 10).places) == [(-2.5, 12.5)]
    assert coverage.spans(at(0, 20, spacing_between_mm=None).places) == [(-2.5, 2.5), (17.5, 22.5)]
    assert coverage.extent_mm([(-2.5, 2.5), (17.5, 22.5)]) == 10


def test_a_slice_is_covered_where_it_lies_within() -> None:
    covered = [(0.0, 10.0), (20.0, 30.0)]
    inside = [coverage.covers(covered, place) for place in at(5, 15, 20, 31).places]
    assert inside == [True, False, True, False]
