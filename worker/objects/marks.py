"""What a segmentation marks, read from the overlays that people are shown, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limen.result import Finding, Result
from worker.objects.evidence import as_stored, colours, picture
from worker.objects.source import Slice, Source
from worker.study import render

__all__ = ["Marked", "collect"]


@dataclass(frozen=True, slots=True)
class Marked:
    """A slice in which a finding is marked.

    Attributes
    ----------
    weights
        (rows, columns) float32, in the pixels of the instance: 1 where it is marked.
    """

    slice: Slice
    finding: Finding
    weights: NDArray[np.float32]

    @property
    def label(self) -> str:
        """The name of the finding."""
        return self.finding.label


def collect(result: Result, files: Mapping[str, Path], source: Source) -> list[Marked]:
    """Return the marked slices that objects may name, finding by finding, in order.

    Raises
    ------
    Unreadable
        A picture that the result names is not there, or is none.
    """
    found: list[Marked] = []
    findings = result.all_findings()
    names = [label for label in _order(result) if label in {one.label for one in findings}]
    for one in source.slices(result):
        if one.image.explanation is None:
            continue
        overlay = np.asarray(picture(files, one.image.explanation, colours))
        for number, label in enumerate(names):
            mask = as_stored(render.marks_in(overlay, number), one)
            if mask.any():
                finding = next(f for f in findings if f.label == label)
                found.append(Marked(one, finding, mask.astype(np.float32)))
    return sorted(found, key=lambda marked: names.index(marked.label))


def _order(result: Result) -> list[str]:
    """Return the labels in the order of the bits of an overlay: that of the bundle."""
    return result.model.labels if result.model else []
