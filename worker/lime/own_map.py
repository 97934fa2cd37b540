"""What a model's own map says of the regions of an explanation.

Some models give beside their answer a map of where they look: a class activation map (Zhou and
others, 2016), or a head that was trained to mark. It costs no question of its own: it came with the
answer to the slice. Where it and LIME name different regions, neither should be leaned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.lime.occlusion import STRONG, Verdict, beside_lime

__all__ = ["Pointed", "pointed"]

Array = NDArray[np.float32]

MOST_NAMED: Final = 0.5
"""A map that is high in more than this share of the regions names none of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Pointed:
    """What the map says beside LIME.

    Attributes
    ----------
    shares
        (superpixels,) float64, 0..1: mean of the map in each, as a share of its highest cell.
    strongest
        The superpixel with the highest mean; None where the map names none of them.
    """

    verdict: Verdict
    shares: NDArray[np.float64]
    strongest: int | None

    @property
    def words(self) -> str:
        """The verdict for people."""
        if self.verdict is Verdict.DIFFERS and self.strongest is None:
            return "the model's own map points at what is no part of the head"
        return _WORDS[self.verdict]


_WORDS: Final = {
    Verdict.AGREES: "the model's own map points at the same region",
    Verdict.DIFFERS: "the model's own map points at another region",
    Verdict.SPREAD: "the model's own map names no region",
}


def pointed(cells: Array, segments: NDArray[np.int64], weights: NDArray[np.float64]) -> Pointed:
    """Compare the model's own map of a slice with the weights of LIME.

    Parameters
    ----------
    cells
        (map rows, map columns) float32, 0..1.
    segments
        (rows, columns) int64: the superpixel of each pixel of the model's input, over all of which
        the map lies; the number after the last weight is background.
    weights
        (superpixels,) float64: those of LIME.
    """
    rows, columns = segments.shape
    over = Image.fromarray(np.ascontiguousarray(cells, np.float32))
    shown = np.asarray(over.resize((columns, rows), Image.Resampling.BILINEAR), np.float64)
    count = len(weights)
    area = np.bincount(segments.ravel(), minlength=count + 1)
    total = np.bincount(segments.ravel(), shown.ravel(), minlength=count + 1)
    shares = (total / np.maximum(area, 1))[:count]
    strongest = int(shares.argmax())
    most = float(shares[strongest])
    outside = segments.ravel()[shown.argmax()] >= count
    if outside and most < STRONG * shown.max():
        return Pointed(Verdict.DIFFERS, shares, None)
    if most <= 0 or (count > 1 and (shares >= STRONG * most).mean() > MOST_NAMED):
        return Pointed(Verdict.SPREAD, shares, None)
    return Pointed(beside_lime(strongest, weights), shares, strongest)
