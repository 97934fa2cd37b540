"""A look at the pixels of some slices, where the header does not say what part they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from limen.errors import Unreadable
from worker.dicom.decoder import Decoder
from worker.study.eligibility import Fault
from worker.study.head import Shape, shape_of
from worker.study.stacks import Place
from worker.study.tensors import upright

__all__ = ["HeadLook"]

SLICES: Final = 9
"""Looked at, evenly spread: a look costs a few milliseconds each."""

FEWEST: Final = 5
"""Of fewer slices nobody can say that they show no head: the vertex and the base do not."""

SKULL_SHARE: Final = 0.2
"""Of the slices of a head, also of its base alone, more show a closed skull."""


class HeadLook:
    """Tells a head from other parts of the body by its pixels."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __call__(self, places: Sequence[Place]) -> Fault | None:
        """Return why slices show no head; None where they do, or too few can be read."""
        some = [places[round(n * (len(places) - 1) / (SLICES - 1))] for n in range(SLICES)]
        some = list(dict.fromkeys(some))
        frames = self._decoder.hounsfield_many((p.header.path, p.frame.number) for p in some)
        seen: Counter[Shape] = Counter()
        for place, hu in zip(some, frames, strict=True):
            if not isinstance(hu, Unreadable):
                slice_ = upright(hu, place.frame)
                seen[shape_of(slice_.hu, slice_.pixel_mm)] += 1
        total = seen.total()
        if lungs := seen[Shape.LUNG]:
            return Fault(
                f"{Shape.LUNG.value} in {lungs} of {total} slices looked at", harmless=True
            )
        if total >= FEWEST and seen[Shape.HEAD] < SKULL_SHARE * total:
            return Fault(f"{Shape.HEAD.value} in {seen[Shape.HEAD]} of {total} looked at")
        return None
