"""A comparison of two bundles as it is shown: for people, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from limen.command import NOTICE
from limen.command.screen import say, table
from worker.bundles.bundle import Bundle
from worker.tools.model_card import input_of
from worker.tools.model_compare import Comparison

__all__ = ["show", "tree_of"]

SHOWN_ROWS: Final = 40
"""Slices that are printed, the largest differences first; --csv and --json have all."""


def tree_of(found: Comparison, pair: tuple[Bundle, Bundle]) -> dict[str, Any]:
    """Return all of it as JSON has it."""
    return {
        **{side: _one_line(bundle) for side, bundle in zip("ab", pair, strict=True)},
        "summary": asdict(found.summary),
        "studies": [asdict(study) for study in found.studies],
        "slices": [asdict(row) for row in found.rows],
        "unreadable": [{"file": str(path), "reason": why} for path, why in found.unreadable],
    }


def _one_line(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "label": bundle.decision_label,
        "threshold": bundle.threshold,
        "study_threshold": bundle.study.threshold if bundle.study else bundle.threshold,
        "members": len(bundle.member_outputs),
        "task": bundle.task.value,
        "input": input_of(bundle),
    }


def show(found: Comparison, pair: tuple[Bundle, Bundle], written: Path | None) -> None:
    """Print it for people, the largest differences first."""
    for side, bundle in zip("AB", pair, strict=True):
        say(
            f"{side}: {bundle.name} {bundle.version}, {bundle.sha256[:12]}, "
            f"positive from {bundle.decision_label} >= {bundle.threshold:g}{_of_studies(bundle)}"
            + (f"; sees {bundle.part}" if bundle.part else "")
        )
    rows = sorted(found.rows, key=lambda r: (not r.changed, -abs(r.difference or 0.0), r.file))
    say("")
    table(
        ["slice", "A", "B", "B - A", "positive"],
        [
            (
                "/".join(Path(r.file).parts[-2:]) + (f" frame {r.frame}" if r.frame > 1 else ""),
                _shown(r.probability_a),
                _shown(r.probability_b),
                "-" if r.difference is None else f"{r.difference:+.3f}",
                f"{_word(r.positive_a)} -> {_word(r.positive_b)}" if r.changed else "",
            )
            for r in rows[:SHOWN_ROWS]
        ],
    )
    left = len(rows) - SHOWN_ROWS
    if left > 0:
        say(f"... and {left} slices with smaller differences; --csv OUT writes all")
    say("")
    table(
        ["study", "A", "", "B", ""],
        [
            (
                str(number),
                *(study.outcome_a.value, _shown(study.probability_a)),
                *(study.outcome_b.value, _shown(study.probability_b)),
            )
            for number, study in enumerate(found.studies, start=1)
        ],
    )
    _summarise(found)
    for path, reason in found.unreadable:
        say(f"not read: {path}: {reason}")
    if written is not None:
        say(f"written: {written}")
    say(NOTICE)


def _of_studies(bundle: Bundle) -> str:
    """Return what differs for whole studies, in words."""
    rule = f", a study from {bundle.study.threshold:g}" if bundle.study else ""
    return rule + (f", {len(bundle.member_outputs)} members" if bundle.members else "")


def _summarise(found: Comparison) -> None:
    told = found.summary
    say(
        f"\n{told.both} of {told.slices} slices analysed by both "
        f"(only A {told.only_a}, only B {told.only_b}); "
        f"{told.became_positive} positive only with B, {told.became_negative} only with A; "
        f"{told.studies_changed} of {told.studies} studies change their outcome"
    )
    if told.both:
        say(
            f"B - A: mean {told.mean_difference:+.4f}, mean size "
            f"{told.mean_absolute_difference:.4f}, largest {told.largest_absolute_difference:.4f}"
        )


def _shown(probability: float | None) -> str:
    return "-" if probability is None else f"{probability:.3f}"


def _word(positive: bool) -> str:
    return "yes" if positive else "no"
