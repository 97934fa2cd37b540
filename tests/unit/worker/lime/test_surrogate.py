"""The linear model is scikit-learn's, and the agreement of draws tells signal from noise."""

from __future__ import annotations

import numpy as np
import pytest

from worker.lime import masks, surrogate


def noisy(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = masks.bernoulli(200, 20, seed=4)
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 0.1, 20)
    return drawn, drawn @ truth + rng.normal(0, noise, 200), truth


def agreement(drawn: np.ndarray, answers: np.ndarray) -> float:
    counts = surrogate.kernel(drawn)
    return surrogate.bootstrap_agreement(drawn, answers, counts, np.arange(len(answers)), 30, 0)


def test_kernel_ridge_and_score_are_those_of_lime() -> None:
    from lime.lime_base import LimeBase
    from sklearn.metrics import pairwise_distances

    drawn, answers, _ = noisy(0.1)
    drawn[7] = False  # hides everything: no direction
    data = drawn.astype(np.int64)
    distances = pairwise_distances(data, data[:1], metric="cosine").ravel()

    def kernel(d: np.ndarray) -> np.ndarray:
        return np.sqrt(np.exp(-(d**2) / 0.25**2))

    np.testing.assert_allclose(surrogate.kernel(drawn), kernel(distances), atol=1e-12)
    intercept, pairs, score, _ = LimeBase(kernel).explain_instance_with_data(
        data, answers[:, None], distances, 0, 100_000
    )
    found = surrogate.fit(drawn, answers, surrogate.kernel(drawn))
    np.testing.assert_allclose(found.weights, [w for _, w in sorted(pairs)], atol=1e-10)
    assert (found.intercept, found.r2) == pytest.approx((intercept, score), abs=1e-10)


def test_answers_that_never_vary_give_no_weight_and_no_score() -> None:
    drawn = masks.foldover(40, 9, seed=0)
    found = surrogate.fit(drawn, np.full(40, 0.7), surrogate.kernel(drawn))
    assert np.abs(found.weights).max() < 1e-12
    assert (found.r2, found.intercept) == (0, pytest.approx(0.7))
    assert agreement(drawn, np.full(40, 0.7)) == 0


def test_weights_that_rest_on_signal_agree_and_weights_of_noise_do_not() -> None:
    drawn, answers, truth = noisy(0.01)
    assert agreement(drawn, answers) > 0.98
    noise = np.random.default_rng(6).normal(0, 1, 200)
    assert agreement(drawn, noise) < 0.9 * agreement(drawn, answers)
    found = surrogate.fit(drawn, answers, surrogate.kernel(drawn))
    assert np.corrcoef(found.weights, truth)[0, 1] > 0.99


def test_one_superpixel_has_nothing_to_agree_on() -> None:
    drawn = masks.foldover(20, 1, seed=0)
    assert agreement(drawn, drawn[:, 0].astype(np.float64)) == 0
