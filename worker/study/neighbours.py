"""A slice with those beside it: the further channels of a model that looks at several at once.

One rule fills a gap: what is not beside a slice on one side is taken from the other side, and
where that is not there either, the slice itself stands in. So both ends of a stack are mirrored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat
from typing import TypeVar

from limen.errors import Unreadable

__all__ = ["filled", "windows"]

T = TypeVar("T")


def windows(
    slices: Iterable[T], neighbours: int, part: Callable[[T], Hashable]
) -> Iterator[tuple[T | None, ...]]:
    """Yield, for each slice, itself between its neighbours: so many on each side.

    Reads so many slices ahead, and keeps no more than it yields.

    Parameters
    ----------
    slices
        In the order of the body, stack by stack.
    part
        Which stack a slice is of: nothing beyond it is a neighbour.

    Returns
    -------
    Iterator[tuple[T | None, ...]]
        ``2 * neighbours + 1`` slices; None beyond the ends.
    """
    for _, members in groupby(slices, part):
        window: deque[T | None] = deque([None] * (2 * neighbours), maxlen=2 * neighbours + 1)
        for one in chain(members, repeat(None, neighbours)):
            window.append(one)
            if len(window) > 2 * neighbours and window[neighbours] is not None:
                yield tuple(window)


def filled(window: Sequence[T | Unreadable | None], middle: T) -> tuple[list[T], int]:
    """Return a window without gaps, and how many of its slices cannot be read.

    Parameters
    ----------
    window
        As ``windows`` yields it; what cannot be read is the error that says why.
    middle
        The slice in the middle of it.
    """
    found: list[T] = []
    for one, mirrored in zip(window, reversed(window), strict=True):
        there = middle
        for candidate in (mirrored, one):
            if candidate is not None and not isinstance(candidate, Unreadable):
                there = candidate
        found.append(there)
    return found, sum(isinstance(one, Unreadable) for one in window)
