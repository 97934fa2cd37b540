"""A slice with those beside it: the further channels of a model that looks at several at once.

What is not beside a slice is filled in one of two ways. ``mirror``: it is taken from the other
side, and where that is not there either, the slice itself stands in. ``repeat``: the nearest slice
on its own side that is there stands in, the slice itself at the latest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise, repeat
from typing import TypeVar

from limen.errors import Unreadable
from worker.bundles.preparation import Edges

__all__ = ["beside_gaps", "filled", "windows"]

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
        Which stack, without a gap, a slice is of: nothing beyond it is a neighbour.

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


def beside_gaps(stretches: Sequence[tuple[str, int, int]], neighbours: int) -> int:
    """Return how many slices would have a neighbour beyond a gap of their acquisition.

    Parameters
    ----------
    stretches
        Of each slice, in order: series, acquisition, and the stretch of it without a gap.
    """
    found: set[int] = set()
    for at, (one, other) in enumerate(pairwise(stretches), start=1):
        if one[:2] == other[:2] and one != other:
            found |= {
                n
                for n in range(at - neighbours, at + neighbours)
                if 0 <= n < len(stretches) and stretches[n] == (one if n < at else other)
            }
    return len(found)


def filled(
    window: Sequence[T | Unreadable | None], middle: T, edges: Edges = "mirror"
) -> tuple[list[T], int]:
    """Return a window without gaps, and how many of its slices cannot be read.

    Parameters
    ----------
    window
        As ``windows`` yields it; what cannot be read is the error that says why.
    middle
        The slice in the middle of it.
    """
    there: list[T | None] = [None if isinstance(one, Unreadable) else one for one in window]
    at = len(there) // 2
    there[at] = middle
    if edges == "mirror":
        pairs = zip(there, reversed(there), strict=True)
        found = [next((o for o in pair if o is not None), middle) for pair in pairs]
    else:
        found = [*_repeated(there[at::-1])[:0:-1], *_repeated(there[at:])]
    return found, sum(isinstance(one, Unreadable) for one in window)


def _repeated(outwards: Sequence[T | None]) -> list[T]:
    """Return slices from the middle outwards, the one before in the place of one that is not."""
    found: list[T] = []
    for one in outwards:
        found.append(found[-1] if one is None else one)
    return found
