"""Discrimination, calibration, and intervals of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = [
    "auc",
    "bootstrap",
    "expected_calibration_error",
    "predict",
    "wilson",
]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def predict(model: Any, tensor: NDArray[np.uint8]) -> Floats:
    """Return (n, outputs) float32 probabilities. ``tensor`` is that of ``Slices``."""
    parts = [
        np.asarray(model(tensor[i : i + 32].astype(np.float32) / 255, training=False))
        for i in range(0, len(tensor), 32)
    ]
    return np.asarray(np.concatenate(parts), np.float32)


def auc(label: Bools, probability: Floats) -> float:
    """Return the area under the ROC curve (Mann-Whitney)."""
    ranks, positives = rankdata(probability), int(label.sum())
    negatives = len(label) - positives
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(label: Bools, probability: Floats, bins: int = 15) -> float:
    """Return the mean gap between probability and frequency over bins of equal width."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(float(probability[place == b].mean()) - float(label[place == b].mean()))
        * float((place == b).mean())
        for b in np.unique(place)
    ]
    return float(sum(gaps))


def bootstrap(
    value: Callable[[NDArray[np.int64]], float], head: NDArray[np.int64], draws: int = 400
) -> tuple[float, float]:
    """Return the 95 % interval of ``value(rows)`` when heads are drawn again."""
    order = np.argsort(head, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(head[order])) + 1)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        chosen = rng.integers(0, len(groups), len(groups))
        found.append(value(np.concatenate([groups[i] for i in chosen])))
    return float(np.nanquantile(found, 0.025)), float(np.nanquantile(found, 0.975))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    if not n:
        return 0.0, 1.0
    z, share = 1.96, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half
