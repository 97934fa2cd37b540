"""The worklist row of a study, derived from its reports."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.utils import timezone

from web.results.models import Outcome, Phase, Report, Study
from web.results.names import searchable

__all__ = ["RANKS", "URGENT", "is_high", "leading", "row", "urgency"]

RANKS = {
    Outcome.POSITIVE: 0,
    Outcome.UNDETERMINED: 1,
    Outcome.PARTIAL: 2,
    Outcome.NOT_ANALYSED: 3,
    Outcome.NEGATIVE: 4,
}
URGENT = RANKS[Outcome.POSITIVE]


def urgency(outcome: str, finding: dict[str, Any] | None) -> int:
    """Return the rank of a study on the worklist, lowest first.

    Within a rank who waits longest goes first: of two bleeding patients the one at 98.9 % who has
    waited an hour goes before the one at 100.0 % who has just come. A partial study that would be
    positive but for its doubts, such as one of two patients, waits among the positive.
    """
    called = Outcome(outcome)
    if called == Outcome.PARTIAL and finding and is_high(finding):
        called = Outcome.POSITIVE
    return RANKS[called]


def is_high(finding: dict[str, Any]) -> bool:
    """Tell whether a finding would make its study positive, had it no doubts."""
    if finding.get("volume_ml") is not None:
        return bool(finding["volume_ml"] >= finding["volume_threshold_ml"])
    threshold = finding.get("threshold")
    if threshold is None:  # schema 1: one positive slice made a study positive
        return bool(finding["positive_slices"])
    return bool(finding["probability"] >= threshold)


def leading(study: Study) -> Report:
    """Return the report that speaks for a study: the latest revision, explained if it is."""
    reports = study.reports.order_by("-revision")
    latest = reports.values_list("revision", flat=True)[:1]
    both = {r.phase: r for r in study.reports.filter(revision=latest)}
    return both.get(Phase.EXPLANATION) or both[Phase.PREDICTION]


def row(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a worklist row from the document that speaks for the study."""
    study, timings, finding = tree["study"], tree["timings"], tree["finding"] or {}
    probability = None if finding.get("volume_ml") is not None else finding.get("probability")
    named = {
        name: _text(study.get(name, ""))
        for name in ("patient_name", "patient_id", "accession", "description")
    }
    return {
        **named,
        "revision": tree["revision"],
        "phase": tree["phase"],
        "outcome": tree["outcome"],
        "reason": _text(tree["reason"]),
        "urgency": urgency(tree["outcome"], tree["finding"]),
        "label": _text(", ".join(_meanings(tree))),
        "probability": probability,
        "positive_slices": finding.get("positive_slices"),
        "analysed_slices": finding.get("analysed_slices"),
        "slices": finding.get("slices"),
        "modality": _text(study.get("modality", ""))[:16],
        "study_date": _text(study.get("study_date", ""))[:8],
        "study_time": _text(study.get("study_time", ""))[:16],
        "search": searchable(named["patient_name"], named["accession"], named["patient_id"]),
        "received_at": _time(timings["received"]),
        "complete_at": _time(timings["complete"]),
        "predicted_at": _time(timings.get("predicted")),
        "explained_at": _time(timings.get("explained")),
        "changed_at": timezone.now(),
    }


def _meanings(tree: dict[str, Any]) -> list[str]:
    """Return what the study shows: the worst finding, and every other that is positive."""
    worst = tree["finding"] or {}
    others = [
        _meaning(one)
        for one in tree.get("findings", [])
        if one["label"] != worst.get("label") and is_high(one)
    ]
    return [_meaning(worst), *others]


def _meaning(finding: dict[str, Any]) -> str:
    """Return what a finding stands for; of a segmentation with its volume."""
    volume_ml = finding.get("volume_ml")
    size = "" if volume_ml is None else f" {volume_ml:g} ml"
    return finding.get("meaning", "") + size


def document(report: Report) -> dict[str, Any]:
    """Return the document of a report."""
    return json.loads(bytes(report.document))


def _text(value: str) -> str:
    """PostgreSQL keeps no NUL in a text; the document itself keeps what was sent."""
    return value.replace("\x00", "")


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
