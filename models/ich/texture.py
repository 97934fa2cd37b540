"""What a small classifier tells apart by the grain of the brain alone.

Sources that differ in grain teach a network the source; where one source bleeds more often, it
takes the grain for blood. What is compared went through the changes of training first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.ich.dataset import Slices
from models.ich.statistics import auc

__all__ = ["features", "table", "told_apart"]

SLICES = 400
_SOURCES = ("real", "graft", "template")
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
_JPEG_PX = 8

Changed = NDArray[np.float32]


def features(tensor: Changed) -> NDArray[np.float64]:
    """Return (n, features): spread, tails, and correlation of the grain in the brain of slices.

    ``tensor`` is (n, rows, columns, channels), 0..1; the first channel is the brain window.
    """
    return np.stack([_grain(np.asarray(one[..., 0], np.float64)) for one in tensor])


def told_apart(
    found: NDArray[np.float64], label: NDArray[np.bool_], head: NDArray[np.int64]
) -> float:
    """Return the area under the curve of a logistic regression, heads kept apart."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    p = cross_val_predict(
        model, found, label, groups=head, cv=GroupKFold(5), method="predict_proba"
    )
    return auc(label, np.asarray(p[:, 1], np.float32))


def table(slices: Slices, changed: Callable[[int, np.random.Generator], Changed]) -> str:
    """Return what is told apart within a training set, after its changes: a table.

    Parameters
    ----------
    slices
        Rows of the sources "real", "graft" and "template".
    changed
        Returns a row of ``slices`` as training shows it.
    """
    without = {s: np.flatnonzero((slices.source == s) & ~slices.label) for s in _SOURCES}
    blood = np.flatnonzero((slices.source == "real") & slices.label)
    pairs = {
        "synthetic bleeds' twins from real slices": (without["graft"], without["real"]),
        "synthetic heads from real slices": (without["template"], without["real"]),
        "real slices with blood from those without": (blood, without["real"]),
    }
    lines = ["| told apart | slices | AUC |", "| --- | --- | --- |"]
    for name, (some, others) in pairs.items():
        rng = np.random.default_rng(6)
        rows = np.concatenate([rng.permutation(part)[:SLICES] for part in (some, others)])
        label = np.isin(rows, some)
        found = features(np.stack([changed(int(row), rng) for row in rows]))
        area = told_apart(found, label, slices.head[rows])
        lines.append(f"| {name} | {len(rows)} | {area:.3f} |")
    return "\n".join(lines)


def _grain(brain: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = ndimage.binary_erosion((brain > 0.1) & (brain < 0.9), iterations=3)
    grain = brain - ndimage.gaussian_filter(brain, 1.5)
    if inside.sum() < 200:
        return np.zeros(5 + len(_LAGS))
    seen = grain[inside]
    deviation = seen.std() + 1e-6
    lags = [
        float((grain * np.roll(grain, lag, (0, 1)))[inside].mean() / deviation**2) for lag in _LAGS
    ]
    fine = (brain - ndimage.gaussian_filter(brain, 0.6))[inside].std()
    steps = np.abs(np.diff(brain, axis=1))
    edges = steps[:, _JPEG_PX - 1 :: _JPEG_PX].mean() / (steps.mean() + 1e-6)
    tails = float(((seen / deviation) ** 4).mean())
    exact = float((np.abs(np.diff(brain, axis=1))[inside[:, 1:]] < 1e-6).mean())
    return np.array([deviation, fine / deviation, edges, min(tails, 50.0), exact, *lags])
