"""The local linear model of LIME: a weighted ridge regression, solved in closed form.

Kernel, regression and score are those of lime 0.2.0.1 (Ribeiro, Singh and
Guestrin, 2016): cosine distance to the unchanged image, an exponential kernel
0.25 wide, ``sklearn.linear_model.Ridge(alpha=1)`` with sample weights. A test
holds them to the package. Everything is in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.lime.masks import Masks

__all__ = ["ALPHA", "KERNEL_WIDTH", "Surrogate", "bootstrap_agreement", "fit", "kernel"]

Vector = NDArray[np.float64]

KERNEL_WIDTH: Final = 0.25
ALPHA: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """A fitted linear model.

    Attributes
    ----------
    weights
        (superpixels,) float64: what keeping a superpixel adds to the answer.
    intercept
        The answer when all are hidden.
    r2
        Weighted share of the variance of the answers that it explains, at most 1;
        0 where the answers do not vary.
    """

    weights: Vector
    intercept: float
    r2: float


def kernel(masks: Masks) -> Vector:
    """Return (samples,) float64, 0..1: how much each perturbed image counts.

    The cosine between a mask and the unchanged image is the root of the share that is kept; a
    mask that hides everything has no direction and lies at distance 1, as scikit-learn has it.
    """
    distance = 1 - np.sqrt(masks.mean(axis=1))
    found: Vector = np.sqrt(np.exp(-(distance**2) / KERNEL_WIDTH**2))
    return found


def fit(masks: Masks, answers: Vector, counts: Vector) -> Surrogate:
    """Fit the linear model.

    Parameters
    ----------
    masks
        (samples, superpixels) bool.
    answers
        (samples,) float64: the model's answer to each perturbed image.
    counts
        (samples,) float64: the weight of each, from ``kernel``.
    """
    kept = masks.astype(np.float64)
    weights, intercept = _solved(kept, answers, counts)
    residual = answers - kept @ weights - intercept
    spread = answers - np.average(answers, weights=counts)
    varies = np.ptp(answers) > 0
    r2 = 1 - float(counts @ residual**2) / float(counts @ spread**2) if varies else 0.0
    return Surrogate(weights, intercept, r2)


def _solved(kept: Vector, answers: Vector, counts: Vector) -> tuple[Vector, float]:
    mean = np.average(kept, axis=0, weights=counts)
    level = float(np.average(answers, weights=counts))
    centred = kept - mean
    weighted = centred * counts[:, None]
    normal = centred.T @ weighted
    normal.flat[:: len(normal) + 1] += ALPHA
    weights = np.asarray(np.linalg.solve(normal, weighted.T @ (answers - level)), np.float64)
    return weights, level - float(mean @ weights)


def bootstrap_agreement(
    masks: Masks, answers: Vector, counts: Vector, units: NDArray[np.int64], draws: int, seed: int
) -> float:
    """Tell how alike the weights stay when the samples are weighed anew.

    Bayesian bootstrap (Rubin, 1981): each unit counts by a draw from an exponential
    distribution, so that no superpixel loses all of its samples.

    Parameters
    ----------
    units
        (samples,) int64: samples of the same number are drawn together.

    Returns
    -------
    float
        Mean correlation (Pearson) of the weights of two draws, -1..1; 0 where the
        weights do not differ.
    """
    if masks.shape[1] < 2 or not np.ptp(answers) > 0:
        return 0.0
    kept = masks.astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.exponential(size=(draws, int(units.max()) + 1))[:, units] * counts
    found = np.stack([_solved(kept, answers, row)[0] for row in drawn])
    found -= found.mean(axis=1, keepdims=True)
    length = np.linalg.norm(found, axis=1)
    if not (length > 0).all():
        return 0.0
    unit = found / length[:, None]
    total = float(np.sum(unit.sum(axis=0) ** 2))  # of all pairs, each draw with itself included
    return (total - draws) / (draws * (draws - 1))
