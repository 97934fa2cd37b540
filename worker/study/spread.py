"""Which slices are explained: probable ones all over the finding, not five neighbours of one.

In a series of thin slices the most probable ones lie side by side and show the same. The most
probable of all is taken first, then the most probable of those that lie far enough from the ones
taken; where these do not suffice, half as far is far enough, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from limen.result import Image, Result

__all__ = ["apart", "chosen"]

_LEAST_GAP: Final = 0.1


def chosen(
    prediction: Result, worth: Callable[[Mapping[str, float]], float], count: int
) -> list[Image]:
    """Return the slices to explain, the most probable first, at most ``count``.

    Positive ones; where a study wants to be explained and has none, its highest.

    Parameters
    ----------
    worth
        How probable a slice is, from the probabilities of its labels.
    """
    asked = [
        (-worth(image.probability), image.index, image)
        for image in prediction.images
        if image.probability is not None
    ]
    ranked = [image for _, _, image in sorted(asked, key=lambda a: a[:2])]
    positive = [image for image in ranked if image.positive]
    highest = ranked[:1] if prediction.wants_explanation else []
    return apart(positive or highest, count)


def apart(ranked: list[Image], count: int) -> list[Image]:
    """Return at most ``count`` slices, spread over those that come in the order of preference."""
    if len(ranked) <= count or not count:
        return ranked[:count]
    return [ranked[n] for n in sorted(_spread(ranked, count))]


def _spread(ranked: list[Image], count: int) -> list[int]:
    """Return ``count`` numbers of ``ranked``, which come in the order of preference."""
    gap = max(_distance(a, b) for a in ranked[:1] for b in ranked) / count
    taken = [0]
    while len(taken) < count:
        for number, image in enumerate(ranked):
            apart = number not in taken and all(
                _distance(image, ranked[other]) >= gap for other in taken
            )
            if apart and len(taken) < count:
                taken.append(number)
        gap = gap / 2 if gap > _LEAST_GAP else 0.0
    return taken


def _distance(a: Image, b: Image) -> float:
    """Return how far two slices lie apart, in mm; in slices where that is not known.

    Also across series: two reconstructions of one head show the same place.
    """
    if a.position_mm is None or b.position_mm is None:
        return float(abs(a.index - b.index))
    return abs(a.position_mm - b.position_mm)
