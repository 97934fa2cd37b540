"""What the pixels of a study tell beside what the model makes of them: why it may not be whole."""

from __future__ import annotations

from collections.abc import Sequence

from limen.result import Task
from worker.bundles.bundle import Bundle
from worker.study import doubts, neighbours
from worker.study.crop import is_known, reaches_beyond
from worker.study.metal import Metal
from worker.study.series import Slice
from worker.study.tensors import Upright
from worker.study.top import Top

__all__ = ["Notes"]


class Notes:
    """Collects what is seen of the slices of a study, each once."""

    def __init__(self, bundle: Bundle, slices: Sequence[Slice]) -> None:
        self._bundle = bundle
        self._top = Top()
        self._metal = Metal(bundle.accepts.max_metal_mm2)
        self._without_size = 0
        self._without_neighbour = 0
        self._cut_off = 0
        self._others: list[str] = []
        self._beside_a_gap = neighbours.beside_gaps(
            [(s.header.series_uid, s.part, s.stretch) for s in slices], bundle.neighbours
        )

    def add(self, one: Slice, shown: Upright, lost: int = 0) -> None:
        """Note a slice, and how many of its neighbours cannot be read."""
        bundle = self._bundle
        self._top.add(one, shown)
        self._metal.add(one, shown)
        is_measured = bundle.spacing_mm is not None or bundle.task is Task.SEGMENTATION
        self._without_size += is_measured and not is_known(shown.pixel_mm, shown.hu.shape)
        self._without_neighbour += lost > 0
        is_cut = bundle.crop == "centre" and bundle.accepts.is_of_head
        self._cut_off += is_cut and reaches_beyond(shown.hu, shown.pixel_mm, bundle)

    def doubt(self, words: str) -> None:
        """Note another reason why nobody may call what was seen the whole, or nothing."""
        self._others.append(words)

    def doubts(self) -> list[str]:
        """Return why nobody may call what was seen the whole, or nothing."""
        top = self._top.doubts() if self._bundle.accepts.looks_like else []
        of_input = doubts.of_input(
            self._without_size, self._without_neighbour, self._beside_a_gap, self._cut_off
        )
        return [*self._metal.doubts(), *top, *of_input, *dict.fromkeys(self._others)]
