"""A second opinion on an explanation: each region hidden by itself (Zeiler and Fergus, 2014).

LIME averages over pictures of which many regions are hidden; here all others stay as they are. The
regions are the same, and so is what stands in for a hidden one, so that the two methods can be
compared region by region. Where they name different ones, neither should be leaned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRONG", "Opinion", "Verdict", "beside_lime", "opinion"]

STRONG: Final = 0.5
"""A region of this share of LIME's highest weight, and more, is one that LIME names."""

MIN_EFFECT: Final = 0.05
"""Least difference of probability that hiding a region makes where it matters by itself."""


class Verdict(StrEnum):
    """What the second method says of the first."""

    AGREES = "agrees"
    """It names a region that LIME names, too."""
    DIFFERS = "differs"
    """It names another one."""
    SPREAD = "spread"
    """It names none: no region by itself lowers the answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """What occlusion says beside LIME.

    Attributes
    ----------
    without
        (superpixels,) float64: the model's answer with only that superpixel hidden, 0..1.
    strongest
        The superpixel whose hiding lowers the answer most; None where none does by
        ``MIN_EFFECT``.
    """

    verdict: Verdict
    without: NDArray[np.float64]
    strongest: int | None

    @property
    def words(self) -> str:
        """The verdict for people."""
        return _WORDS[self.verdict]


_WORDS: Final = {
    Verdict.AGREES: "hiding one region at a time points at the same region",
    Verdict.DIFFERS: "hiding one region at a time points at another region",
    Verdict.SPREAD: (
        f"no region by itself: hiding any one of them lowers the answer by less than "
        f"{100 * MIN_EFFECT:g} %"
    ),
}


def opinion(
    probability: float, without: NDArray[np.float64], weights: NDArray[np.float64]
) -> Opinion:
    """Compare what hiding each superpixel by itself does with the weights of LIME.

    Parameters
    ----------
    probability
        The model's answer to the slice, 0..1.
    without
        (superpixels,) float64: its answer with only that superpixel hidden.
    weights
        (superpixels,) float64: those of LIME.
    """
    strongest = int(without.argmin())
    if probability - without[strongest] < MIN_EFFECT:
        return Opinion(Verdict.SPREAD, without, None)
    return Opinion(beside_lime(strongest, weights), without, strongest)


def beside_lime(strongest: int, weights: NDArray[np.float64]) -> Verdict:
    """Return whether the strongest region of another method is one that LIME names."""
    highest = float(weights.max())
    named = highest > 0 and weights[strongest] >= STRONG * highest
    return Verdict.AGREES if named else Verdict.DIFFERS
