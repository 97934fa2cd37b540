"""The probability of a study from those of its slices, as the ``[study]`` of a bundle says.

One slice above a threshold says little of thirty: some slice of a normal head is always the worst.
A bleed goes on in the next slice, whatever their thickness; that is what is weighed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.result import NEAREST, margin
from worker.bundles.bundle import Bundle, Sought
from worker.bundles.manifest import Members, StudyRule

__all__ = [
    "Answer",
    "Stretch",
    "answers",
    "disagree",
    "in_words",
    "logit",
    "of_bundle",
    "study_probability",
    "worst_of",
]

SPACING_MM: Final = 5.0
"""Where no slice of a part says where it lies: the usual distance in a head CT."""

LEAST_ML: Final = 1e-3
"""A smaller volume counts as this one where volumes are compared."""

_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Stretch:
    """The slices of one part of a series, in the order of the body.

    Attributes
    ----------
    positions_mm
        Along the normal; None where nothing tells.
    probabilities
        (slices, outputs) float, 0..1; NaN where a slice was not analysed.
    """

    positions_mm: Sequence[float | None]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rule makes of a study, of one finding.

    Attributes
    ----------
    probability
        Of the label, 0..1.
    members
        The same of each member alone; empty where the bundle has none, and of other labels than
        that of the decision.
    volume_ml
        Of a segmentation: what is marked; ``probability`` is that of its most probable pixel.
    """

    sought: Sought
    probability: float
    members: tuple[float, ...] = ()
    volume_ml: float | None = None

    @property
    def is_positive(self) -> bool:
        """Whether the study is positive for it."""
        if self.volume_ml is not None and self.sought.volume_ml is not None:
            return self.volume_ml >= self.sought.volume_ml
        return self.probability >= self.sought.study_threshold

    @property
    def margin(self) -> float:
        """How far it lies above its threshold: what tells the worst of several.

        In log-odds; of volumes in logarithms.
        """
        if self.volume_ml is not None and self.sought.volume_ml is not None:
            return math.log(max(self.volume_ml, LEAST_ML) / self.sought.volume_ml)
        return margin(self.probability, self.sought.study_threshold)


def worst_of(probability: Mapping[str, float], bundle: Bundle) -> Sought:
    """Return the finding that a slice lies farthest above the threshold for."""
    return max(bundle.sought, key=lambda one: margin(probability[one.name], one.threshold))


def of_bundle(bundle: Bundle) -> StudyRule:
    """Return the rule of a bundle; without one the highest slice speaks for the study."""
    return bundle.study or StudyRule(threshold=bundle.threshold, chosen=bundle.threshold_chosen)


def answers(bundle: Bundle, stretches: Sequence[Stretch]) -> tuple[Answer, ...]:
    """Return the probability of a study for each finding; none where no slice was analysed."""
    rule = of_bundle(bundle)

    def of_column(column: int) -> float | None:
        parts = [(s.positions_mm, s.probabilities[:, column]) for s in stretches]
        return study_probability(rule, parts)

    found = []
    for sought in bundle.sought:
        own = sought.index == bundle.decision_index
        columns = (sought.index, *(bundle.member_outputs if own else ()))
        known = [p for p in map(of_column, columns) if p is not None]
        if len(known) == len(columns):
            found.append(Answer(sought, known[0], tuple(known[1:])))
    return tuple(found) if len(found) == len(bundle.sought) else ()


def disagree(members: Sequence[float], threshold: float, settings: Members) -> bool:
    """Return True where members lie on both sides of the threshold of the study, far apart."""
    if not members:
        return False
    low, high = min(members), max(members)
    # Six decimals each: a difference of exactly the spread is one, whatever the last bit says.
    return low < threshold <= high and round(high - low, _DECIMALS) >= settings.spread


def in_words(rule: StudyRule) -> str:
    """Return how the slices make the probability of a study, for people."""
    many = "the highest slice" if rule.top == 1 else f"the mean of the {rule.top} highest slices"
    smoothed = f" after each is averaged with its neighbours over {rule.smooth_mm:g} mm"
    scaled = f", calibrated (logit times {rule.scale:g} plus {rule.shift:g})"
    return (
        many
        + (smoothed if rule.smooth_mm else "")
        + (scaled if (rule.scale, rule.shift) != (1, 0) else "")
    )


def study_probability(
    rule: StudyRule,
    parts: Sequence[tuple[Sequence[float | None], NDArray[np.float64]]],
) -> float | None:
    """Return what a rule makes of one output: the probability of the highest part, six decimals.

    Parameters
    ----------
    parts
        Positions along the normal in mm, None where nothing tells, and probabilities (slices,)
        float, 0..1, NaN where a slice was not analysed: a pair for each part of a series.

    Returns
    -------
    float or None
        0..1; None where no slice was analysed.
    """
    found = [
        _part_probability(rule, _placed_mm(positions)[known], probabilities[known])
        for positions, probabilities in parts
        if (known := np.isfinite(probabilities)).any()
    ]
    return round(max(found), _DECIMALS) if found else None


def logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log-odds; nearer than ``NEAREST`` to 0 or 1 counts as that near."""
    inside = np.clip(probabilities, NEAREST, 1 - NEAREST)
    return np.asarray(np.log(inside) - np.log1p(-inside), np.float64)


def _part_probability(
    rule: StudyRule, placed_mm: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> float:
    if (rule.smooth_mm, rule.top, rule.scale, rule.shift) == (0, 1, 1, 0):
        return float(probabilities.max())  # itself, not its logit there and back
    highest = np.sort(_smoothed(logit(probabilities), placed_mm, rule.smooth_mm))[-rule.top :]
    return float(1 / (1 + np.exp(-(rule.scale * highest.mean() + rule.shift))))


def _smoothed(
    logits: NDArray[np.float64], placed_mm: NDArray[np.float64], smooth_mm: float
) -> NDArray[np.float64]:
    """Return each logit averaged with its neighbours, by Gaussian weights of their distance."""
    if not smooth_mm:
        return logits
    apart = (placed_mm[:, None] - placed_mm[None, :]) / smooth_mm
    weights = np.exp(-0.5 * apart**2)
    return np.asarray(weights @ logits / weights.sum(axis=1), np.float64)


def _placed_mm(positions_mm: Sequence[float | None]) -> NDArray[np.float64]:
    """Return where each slice lies: its position, or its number times the usual distance."""
    known = np.array([np.nan if mm is None else mm for mm in positions_mm], np.float64)
    if np.isfinite(known).all():
        return known
    steps = np.abs(np.diff(known))
    steps = steps[np.isfinite(steps) & (steps > 0)]
    spacing_mm = float(np.median(steps)) if len(steps) else SPACING_MM
    return np.arange(len(known), dtype=np.float64) * spacing_mm
