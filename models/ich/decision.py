"""From slices to a study: calibration, rule, and thresholds, chosen on development heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from models.ich.dataset import Slices
from models.ich.network import MEMBERS
from models.ich.statistics import predict
from worker.bundles.manifest import Members, StudyRule
from worker.study import rule as rules

__all__ = ["RULE", "SENSITIVITY", "Chosen", "calibrate", "choose", "members_disagree", "studies"]

SENSITIVITY: Final = 0.9
"""Of studies with blood at least so many shall be called positive."""

SLICE_SPECIFICITY: Final = 0.98
STEP_MM: Final = 5.0  # of the development heads

RULE: Final = StudyRule(smooth_mm=3.0, top=1, threshold=0.5, chosen="not yet")
"""A bleed goes on in the next slice; a study with one such place bleeds."""

_UNDETERMINED: Final = 0.1
"""At most this share of the development heads may be undetermined."""

_MIN_LOSS_WEIGHT: Final = 0.02
"""Pulls the calibration of few studies towards that of slices."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the manifest says of a decision.

    Attributes
    ----------
    slice_threshold
        From there on a slice is called positive.
    rule, members
        How a study gets its word.
    """

    slice_threshold: float
    slice_chosen: str
    rule: StudyRule
    members: Members


def studies(slices: Slices, p: Floats, rule: StudyRule) -> tuple[Bools, Floats]:
    """Return the label and the probability of each study, as the worker calls it.

    Parameters
    ----------
    p
        (slices,) of one output; the slices of a head in order, ``STEP_MM`` apart.
    """
    label, called = [], []
    for head in np.unique(slices.head):
        rows = slices.head == head
        places = (np.arange(rows.sum()) * STEP_MM).tolist()
        found = rules.study_probability(rule, [(places, p[rows].astype(np.float64))])
        label.append(bool(slices.label[rows].any()))
        called.append(math.nan if found is None else found)
    return np.array(label), np.array(called, np.float32)


def members_disagree(
    slices: Slices, p: Floats, rule: StudyRule, members: Members | None
) -> NDArray[np.bool_]:
    """Return which studies are undetermined; ``p`` is (slices, 1 + members)."""
    if members is None:
        return np.zeros(len(np.unique(slices.head)), bool)
    each = np.stack([studies(slices, p[:, n], rule)[1] for n in members.outputs], axis=1)
    return np.array([rules.disagree(row.tolist(), rule.threshold, members) for row in each])


def calibrate(model: Any, slices: Slices) -> tuple[float, float]:
    """Scale and shift the members' last layers as fits the slices best; return scale and shift."""
    logit = rules.logit(predict(model, slices.tensor)[:, 0].astype(np.float64))
    scale, shift = _fit(logit, slices.label)
    for member in range(MEMBERS):
        last = model.get_layer(f"logit_{member}")
        weights, bias = last.get_weights()
        scaled = bias * np.float32(scale) + np.float32(shift)
        last.set_weights([weights * np.float32(scale), scaled])
    return scale, shift


def choose(slices: Slices, p: Floats) -> Chosen:
    """Return rule and thresholds for whole studies; ``p`` is (slices, 1 + members), calibrated.

    A missed bleed is worse than a false alarm, so sensitivity is held and specificity is what it
    comes to. The threshold lies midway between the last study that has to be found and the next
    one below it. Probabilities are calibrated on the same heads.
    """
    label, called = studies(slices, p[:, 0], RULE)
    scale, shift = _fit(rules.logit(called.astype(np.float64)), label, prior=_MIN_LOSS_WEIGHT)
    rule = RULE.model_copy(update={"scale": round(scale, 4), "shift": round(shift, 4)})
    called = studies(slices, p[:, 0], rule)[1]
    bleeding = np.sort(called[label])
    last = float(bleeding[int((1 - SENSITIVITY) * len(bleeding) + 1e-9)])
    below = called[called < last]
    threshold = (last + float(below.max(initial=0.0))) / 2
    rule = rule.model_copy(update={"threshold": round(threshold, 3), "chosen": _chosen(slices)})
    free = np.sort(p[~slices.label, 0])
    at = float(free[min(math.ceil(SLICE_SPECIFICITY * len(free)), len(free) - 1)])
    members = Members(outputs=tuple(range(1, MEMBERS + 1)), spread=0.0)
    return Chosen(
        slice_threshold=min(max(math.ceil(at * 1000) / 1000, 0.05), 0.95),
        slice_chosen=(
            f"lowest threshold with a slice specificity of {SLICE_SPECIFICITY} on development "
            "slices (real heads of the same hospital, never learned from)"
        ),
        rule=rule,
        members=members.model_copy(update={"spread": _spread(slices, p, rule, members)}),
    )


def _chosen(slices: Slices) -> str:
    count = len(np.unique(slices.head))
    return (
        f"threshold: highest with a sensitivity of {SENSITIVITY} on {count} development studies "
        "(real heads of the same hospital, never learned from), midway to the next study below; "
        "smoothing, top, scale and shift were chosen on the same heads"
    )


def _spread(slices: Slices, p: Floats, rule: StudyRule, members: Members) -> float:
    """Return the least spread, in twentieths, that leaves few studies undetermined."""
    for spread in np.arange(0.05, 1.0, 0.05):
        tried = members.model_copy(update={"spread": round(float(spread), 2)})
        if members_disagree(slices, p, rule, tried).mean() <= _UNDETERMINED:
            return tried.spread
    return 1.0


def _fit(logit: NDArray[np.float64], label: Bools, prior: float = 0.0) -> tuple[float, float]:
    """Return the scale and shift of a logistic fit (Platt 1999), drawn to 1 and 0 by ``prior``."""
    sign = np.where(label, 1.0, -1.0)

    def loss(line: NDArray[np.float64]) -> float:
        scale = math.exp(line[0])  # a larger logit never means less
        fit = np.logaddexp(0, -sign * (scale * logit + line[1])).mean()
        return float(fit + prior * ((scale - 1) ** 2 + line[1] ** 2))

    found = optimize.minimize(loss, (0.0, 0.0), method="Nelder-Mead").x
    return math.exp(found[0]), float(found[1])
