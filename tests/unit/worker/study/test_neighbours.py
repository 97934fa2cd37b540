"""A slice with those beside it: filled in at the ends, never across stacks, never all at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limen.errors import Unreadable
from worker.study.neighbours import filled, windows

LOST = Unreadable("broken")


def stack_of(name: str) -> str:
    return name[0]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, ["a0", "a1", "a2", "b0"]),
        (1, ["-a0a1", "a0a1a2", "a1a2-", "-b0-"]),
        (2, ["--a0a1a2", "-a0a1a2-", "a0a1a2--", "--b0--"]),
    ],
)
def test_each_slice_comes_between_its_neighbours_and_nothing_of_another_stack(
    count: int, expected: list[str]
) -> None:
    found = windows(["a0", "a1", "a2", "b0"], count, stack_of)
    assert ["".join(one or "-" for one in window) for window in found] == expected


def test_no_more_slices_are_read_ahead_than_are_neighbours() -> None:
    read = []

    def slices() -> Iterator[str]:
        for number in range(100):
            read.append(number)
            yield f"a{number}"

    found = windows(slices(), 2, stack_of)
    next(found)
    assert len(read) == 3
    next(found)
    assert len(read) == 4


@pytest.mark.parametrize(
    ("window", "expected", "lost"),
    [
        ([None, "m", "b"], "bmb", 0),
        (["a", "m", None], "ama", 0),
        ([None, "m", None], "mmm", 0),
        ([LOST, "m", "b"], "bmb", 1),
        (["a", "m", LOST], "ama", 1),
        ([LOST, "m", LOST], "mmm", 2),
        ([LOST, "m", None], "mmm", 1),
        (["a", "b", "m", LOST, None], "abmba", 1),
        ([None, LOST, "m", "c", "d"], "dcmcd", 1),
        (["m"], "m", 0),
    ],
)
def test_what_is_not_beside_a_slice_is_mirrored_or_the_slice_itself(
    window: list[str | Unreadable | None], expected: str, lost: int
) -> None:
    found, count = filled(window, "m")
    assert ("".join(found), count) == (expected, lost)


@pytest.mark.parametrize(
    ("window", "expected", "lost"),
    [
        ([None, "m", "b"], "mmb", 0),
        (["a", "m", None], "amm", 0),
        ([LOST, "m", LOST], "mmm", 2),
        (["a", "b", "m", LOST, None], "abmmm", 1),
        ([None, LOST, "m", "c", "d"], "mmmcd", 1),
        ([None, "b", "m", "c", None], "bbmcc", 0),
        (["a", LOST, "m", LOST, "d"], "ammmd", 2),
        (["m"], "m", 0),
    ],
)
def test_what_is_not_beside_a_slice_is_the_nearest_one_where_the_ends_are_repeated(
    window: list[str | Unreadable | None], expected: str, lost: int
) -> None:
    found, count = filled(window, "m", "repeat")
    assert ("".join(found), count) == (expected, lost)
