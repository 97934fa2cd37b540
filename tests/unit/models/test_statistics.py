"""Discrimination, calibration and intervals, on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.ich.statistics import auc, bootstrap, expected_calibration_error, wilson

LABEL = np.array([False, False, True, True])


def test_auc_counts_the_pairs_in_the_right_order() -> None:
    assert auc(LABEL, np.array([0.1, 0.2, 0.8, 0.9], np.float32)) == 1.0
    assert auc(LABEL, np.array([0.1, 0.85, 0.8, 0.9], np.float32)) == 0.75
    assert auc(LABEL, np.full(4, 0.5, np.float32)) == 0.5


def test_calibration_error_is_the_gap_between_probability_and_frequency() -> None:
    assert expected_calibration_error(LABEL, np.full(4, 0.5, np.float32)) == pytest.approx(0)
    assert expected_calibration_error(LABEL, np.full(4, 0.9, np.float32)) == pytest.approx(0.4)


def test_bootstrap_draws_whole_heads() -> None:
    value, head = np.array([0.0, 0.0, 1.0, 1.0]), np.array([1, 1, 2, 2])
    low, high = bootstrap(lambda rows: float(value[rows].mean()), head)
    assert (low, high) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (10, 20), (20, 20)])
def test_the_interval_of_a_share_holds_it_and_stays_within_0_to_1(hits: int, n: int) -> None:
    low, high = wilson(hits, n)
    assert -1e-9 <= low <= hits / n + 1e-9
    assert hits / n - 1e-9 <= high <= 1 + 1e-9


def test_no_trial_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
