"""An acquisition is brought to the depth that a model of volumes declares; nothing is skipped."""

from __future__ import annotations

import numpy as np
import pytest

from worker.study.acquisition import depths_mm, weights

EVEN = [float(n) for n in range(10)]


def resampled(places: list[float], values: list[float], wanted: np.ndarray) -> np.ndarray:
    return weights(places, wanted) @ np.array(values)


def test_without_a_distance_the_slices_reach_from_one_end_to_the_other() -> None:
    (wanted,) = depths_mm(EVEN, 5, None)
    np.testing.assert_allclose(wanted, [0.5, 2.5, 4.5, 6.5, 8.5])
    (same,) = depths_mm(EVEN, 10, None)
    np.testing.assert_allclose(same, EVEN)


def test_a_distance_that_reaches_farther_than_the_acquisition_puts_it_in_the_middle() -> None:
    (wanted,) = depths_mm(EVEN, 8, 2.0)
    np.testing.assert_allclose(wanted, np.arange(8) * 2 - 2.5)


def test_a_longer_acquisition_has_parts_that_leave_nothing_out() -> None:
    parts = depths_mm(EVEN, 4, 1.0)
    assert len(parts) == 3
    assert parts[0][0] == 0
    assert parts[-1][-1] == 9
    covered = np.zeros(10)
    for wanted in parts:
        covered += weights(EVEN, wanted).sum(axis=0)
    assert covered.min() > 0.3


def test_between_two_slices_it_is_linear() -> None:
    values = [2.0 * n for n in EVEN]
    np.testing.assert_allclose(resampled(EVEN, values, np.array([2.0, 2.25, 2.5])), [4, 4.5, 5])


def test_of_thin_slices_all_are_weighed() -> None:
    places = [0.5 * n for n in range(40)]
    spike = [float(n == 21) for n in range(40)]
    (wanted,) = depths_mm(places, 5, None)
    found = weights(places, wanted)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.sum(axis=0) > 0).all()
    assert (found @ np.array(spike)).max() > 0.05


def test_unequal_distances_are_what_they_are() -> None:
    places = [0.0, 1.0, 2.0, 6.0, 10.0]
    values = [0.0, 1.0, 2.0, 6.0, 10.0]
    wanted = np.array([0.5, 1.5, 4.0, 8.0])
    found = weights(places, wanted[2:3]) @ np.array(values)
    assert found == pytest.approx([4.0], abs=0.8)


def test_beyond_the_ends_there_is_air() -> None:
    found = weights(EVEN, np.array([-3.0, -0.4, 9.4, 12.0]))
    assert found[0].sum() == found[3].sum() == 0
    np.testing.assert_allclose(found[1:3].sum(axis=1), 1)


@pytest.mark.parametrize("places", [[5.0], [5.0, 5.0]])
def test_a_slice_alone_is_all_of_a_volume(places: list[float]) -> None:
    (wanted,) = depths_mm(places, 4, None)
    np.testing.assert_allclose(weights(places, wanted).sum(axis=1), 1)
