"""How a model does on the real heads that were set aside: rows of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.ich import decision, real
from models.ich.dataset import Slices
from models.ich.statistics import expected_calibration_error
from models.ich.table import Row, area, over, share
from worker.bundles.bundle import Bundle
from worker.study import rule as rules

__all__ = ["ADULT_YEARS", "reliability", "risk_coverage", "rows"]

ADULT_YEARS = 16.0
_LEVELS = (("base", 0.0, 0.4), ("middle", 0.4, 0.75), ("vertex", 0.75, 1.01))

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of each slice: age of the patient, place between base (0) and vertex (1)."""

    age_years: NDArray[np.float64]
    level: NDArray[np.float64]


def rows(data: Path, slices: Slices, p: Floats, bundle: Bundle) -> list[Row]:
    """Return the rows of the development heads.

    Parameters
    ----------
    slices
        Those of ``make_real``.
    p
        (slices, 1 + members) as the network of ``bundle`` answers.
    """
    facts, mean = _facts(data), p[:, 0]
    return [
        *_discrimination(slices, mean, bundle.threshold),
        *_studies(slices, p, bundle),
        *_kinds(slices, mean, bundle.threshold),
        *_groups(slices, mean, bundle, facts),
    ]


def risk_coverage(slices: Slices, p: Floats, bundle: Bundle) -> str:
    """Return how often studies are called wrongly where members agree within a spread: a table."""
    rule, members = rules.of_bundle(bundle), bundle.members
    if members is None:
        return "The bundle has no members."
    label, called = decision.studies(slices, p[:, 0], rule)
    wrong = (called >= rule.threshold) != label
    lines = ["| spread | undetermined | called | wrong among them |", "| --- | --- | --- | --- |"]
    for spread in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0):
        tried = members.model_copy(update={"spread": spread})
        apart = decision.members_disagree(slices, p, rule, tried)
        lines.append(f"| {spread} | {apart.sum()} | {(~apart).sum()} | {wrong[~apart].sum()} |")
    return "\n".join(lines)


def reliability(slices: Slices, p: Floats, bins: int = 10) -> str:
    """Return how often slices bleed, by the probability that they were given: a table."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    lines = [
        "| probability | slices | mean probability | share with blood |",
        "| --- | --- | --- | --- |",
    ]
    for b in np.unique(place):
        part = place == b
        span = f"{b / bins:.1f}-{(b + 1) / bins:.1f}"
        seen = f"{p[part].mean():.3f} | {slices.label[part].mean():.3f}"
        lines.append(f"| {span} | {part.sum()} | {seen} |")
    return "\n".join(lines)


def _facts(data: Path) -> _Facts:
    heads = real.heads(data, "development")
    age = [np.full(len(h.hu), h.age_years) for h in heads]
    level = [np.linspace(0, 1, len(h.hu)) for h in heads]
    return _Facts(np.concatenate(age), np.concatenate(level))


def _discrimination(s: Slices, p: Floats, threshold: float) -> list[Row]:
    found = p >= threshold
    return [
        area("slice AUC", s.label, p, s.head, ">= 0.93"),
        over("ECE", s.head, lambda i: expected_calibration_error(s.label[i], p[i]), "<= 0.03"),
        share("slice sensitivity at the threshold", found[s.label]),
        share("slice specificity at the threshold", ~found[~s.label]),
    ]


def _studies(s: Slices, p: Floats, bundle: Bundle) -> list[Row]:
    rule = rules.of_bundle(bundle)
    label, called = decision.studies(s, p[:, 0], rule)
    apart = decision.members_disagree(s, p, rule, bundle.members)
    positive = called >= rule.threshold
    return [
        area("study AUC", label, called, np.arange(len(label)), ">= 0.95"),
        share("study sensitivity at the threshold", positive[label], ">= 0.90"),
        share("study specificity at the threshold", ~positive[~label], ">= 0.85"),
        share("studies with blood called positive or undetermined", (positive | apart)[label]),
        share("studies without blood called negative", (~positive & ~apart)[~label]),
        share("undetermined studies", apart),
    ]


def _kinds(s: Slices, p: Floats, threshold: float) -> list[Row]:
    made = []
    for kind in ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"):
        shown = np.array([kind in kinds.split(",") for kinds in s.kind])
        if not shown.any():
            continue
        part = shown | ~s.label
        made.append(area(f"slice AUC, {kind}", shown[part], p[part], s.head[part]))
        made.append(share(f"slice sensitivity, {kind}", p[shown] >= threshold))
    return made


def _groups(s: Slices, p: Floats, bundle: Bundle, facts: _Facts) -> list[Row]:
    rule, threshold = rules.of_bundle(bundle), bundle.threshold
    made, child = [], facts.age_years < ADULT_YEARS
    for name, part in ((f"under {ADULT_YEARS:g} years", child), ("older", ~child)):
        label, called = decision.studies(s.take(np.flatnonzero(part)), p[part], rule)
        made.append(area(f"slice AUC, {name}", s.label[part], p[part], s.head[part]))
        made.append(share(f"study sensitivity, {name}", called[label] >= rule.threshold))
        made.append(share(f"study specificity, {name}", called[~label] < rule.threshold))
    for name, low, high in _LEVELS:
        part = (facts.level >= low) & (facts.level < high)
        made.append(share(f"slice sensitivity, {name}", p[part & s.label] >= threshold))
        made.append(share(f"slice specificity, {name}", p[part & ~s.label] < threshold))
    return made
