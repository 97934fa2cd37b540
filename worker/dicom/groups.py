"""Functional groups: what a frame says of itself, what all frames share (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from worker.dicom import elements

__all__ = ["KEYWORDS", "FrameGroups", "are_there", "describe"]

_SHARED: Final = "SharedFunctionalGroupsSequence"
_PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"
KEYWORDS: Final = (_SHARED, _PER_FRAME)

_CONVERTED: Final = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
"""Where a converter leaves what has no group of its own (PS3.3 C.7.6.16.2.25)."""


def are_there(dataset: Dataset) -> bool:
    """Return True for an instance with functional groups."""
    return any(elements.item(dataset, keyword) is not None for keyword in KEYWORDS)


def describe(dataset: Dataset, frame: int) -> bool:
    """Return True where a frame, from 1, has groups of its own."""
    return elements.item(dataset, _PER_FRAME, frame - 1) is not None


class FrameGroups:
    """The places where attributes of one frame may stand.

    Parameters
    ----------
    dataset
        The instance, with or without functional groups.
    frame
        Frame number, from 1.
    """

    def __init__(self, dataset: Dataset, frame: int) -> None:
        own = elements.item(dataset, _PER_FRAME, frame - 1)
        shared = elements.item(dataset, _SHARED)
        self.dataset = dataset
        self.characters = elements.characters_of(dataset)
        self._groups = [group for group in (own, shared) if group is not None]
        self._left_over = [m for name in _CONVERTED if (m := self.macro(name)) is not None]

    def macro(self, name: str) -> Dataset | None:
        """Return a macro of the frame: its own, else the shared one, else None."""
        found = (elements.item(group, name) for group in self._groups)
        return next((macro for macro in found if macro is not None), None)

    def places(self, *names: str) -> Iterator[Dataset]:
        """Yield where an attribute may stand, the place that holds first.

        The named macros, then the instance itself, then what a converter left over.
        """
        for name in names:
            macro = self.macro(name)
            if macro is not None:
                yield macro
        yield self.dataset
        yield from self._left_over

    def numbers(self, keyword: str, count: int, *names: str) -> tuple[float, ...] | None:
        """Return ``count`` finite numbers from the first place that has them."""
        found = (elements.numbers(place, keyword, count) for place in self.places(*names))
        return next((value for value in found if value is not None), None)

    def number(self, keyword: str, *names: str) -> float | None:
        """Return one finite number from the first place that has it."""
        found = self.numbers(keyword, 1, *names)
        return found[0] if found else None

    def text(self, keyword: str, *names: str) -> str:
        """Return a text from the first place that has one."""
        found = (elements.text(p, keyword, self.characters) for p in self.places(*names))
        return next((value for value in found if value), "")
