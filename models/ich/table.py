"""A row of the evaluation: one number, its interval, what it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ich.statistics import auc, bootstrap, wilson

__all__ = ["Row", "area", "over", "share"]


@dataclass(frozen=True, slots=True)
class Row:
    """One number."""

    name: str
    n: int
    value: float
    low: float
    high: float
    goal: str = ""

    def __str__(self) -> str:
        interval = f"{self.low:.3f}-{self.high:.3f}"
        return f"| {self.name} | {self.n} | {self.value:.3f} | {interval} | {self.goal} |"


def share(name: str, hits: NDArray[np.bool_], goal: str = "") -> Row:
    """Return a share with its Wilson interval."""
    low, high = wilson(int(hits.sum()), len(hits))
    return Row(name, len(hits), float(hits.mean()) if len(hits) else 0.0, low, high, goal)


def area(
    name: str,
    label: NDArray[np.bool_],
    probability: NDArray[np.float32],
    head: NDArray[np.int64],
    goal: str = "",
) -> Row:
    """Return an area under the ROC curve; heads are drawn again for its interval."""
    return over(name, head, lambda i: _area(label[i], probability[i]), goal)


def over(
    name: str,
    head: NDArray[np.int64],
    value: Callable[[NDArray[np.int64]], float],
    goal: str = "",
) -> Row:
    """Return ``value(rows)`` with the interval that drawing heads again gives."""
    low, high = bootstrap(value, head)
    return Row(name, len(head), value(np.arange(len(head))), low, high, goal)


def _area(label: NDArray[np.bool_], probability: NDArray[np.float32]) -> float:
    # A draw of few heads may hold one answer alone.
    return auc(label, probability) if 0 < label.sum() < len(label) else float("nan")
