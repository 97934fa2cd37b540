"""What is said of each finding, where a bundle looks for several: a line and a chart of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from web.results import chart, summary
from web.results.chart import Chart
from web.results.revision import Revision

__all__ = ["Line", "lines"]


@dataclass(frozen=True, slots=True)
class Line:
    """One finding.

    Attributes
    ----------
    is_worst
        Whether it is the one that speaks for the study.
    is_high
        Whether it is at or above its threshold.
    slice_threshold
        From which probability a slice is positive for it.
    chart
        Of its slices; None for the worst, which has the large one, and without slices.
    """

    finding: dict[str, Any]
    is_worst: bool
    is_high: bool
    slice_threshold: float | None
    chart: Chart | None


def lines(shown: Revision) -> list[Line]:
    """Return a line for each finding, the worst first; none where there is only one."""
    found = []
    for finding in shown.tree.get("findings", []):
        label = finding["label"]
        worst, threshold = label == shown.label, shown.thresholds.get(label)
        # Areas are those of the finding that speaks for the study.
        alone = worst or not shown.is_of_slices
        drawn = None if alone else chart.draw(shown.slices, threshold, label)
        found.append(Line(finding, worst, summary.is_high(finding), threshold, drawn))
    return sorted(found, key=lambda line: (not line.is_worst, not line.is_high))
