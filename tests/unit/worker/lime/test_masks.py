"""Masks are balanced, come with their complements, and can be drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from worker.lime import masks


@pytest.mark.parametrize("least", [1, 2, 3, 5, 12, 20, 29, 37, 44, 48, 50, 61, 93, 200])
def test_rows_of_a_hadamard_matrix_are_orthogonal(least: int) -> None:
    matrix = masks.hadamard(least).astype(np.int64)
    order = len(matrix)
    assert least <= order <= max(2 * least, 4)
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))
    assert (matrix[0] == 1).all()
    assert (matrix[:, 0] == 1).all()


def test_the_first_mask_is_the_slice_and_each_second_one_a_complement() -> None:
    found = masks.foldover(128, 37, seed=3)
    assert found.shape == (128, 37)
    assert found[0].all()
    np.testing.assert_array_equal(found[1::2], ~found[::2])


def test_once_the_matrix_is_used_up_any_two_superpixels_are_hidden_independently() -> None:
    found = masks.foldover(96, 47, seed=3)  # a matrix of order 48
    signs = np.where(found, 1, -1)
    np.testing.assert_array_equal(signs.T @ signs, 96 * np.eye(47))
    assert (signs.sum(axis=0) == 0).all()


def test_more_samples_than_the_matrix_has_are_drawn_anew() -> None:
    found = masks.foldover(400, 11, seed=0)
    assert len(found) == 400
    assert not (found[1:].all(axis=1)).any()
    assert len(np.unique(found, axis=0)) > 48


def test_a_seed_gives_the_same_masks_again_and_another_seed_others() -> None:
    one = masks.foldover(64, 30, seed=1)
    np.testing.assert_array_equal(one, masks.foldover(64, 30, seed=1))
    assert not np.array_equal(one, masks.foldover(64, 30, seed=2))


def test_fewer_samples_are_the_first_of_more() -> None:
    np.testing.assert_array_equal(masks.foldover(33, 30, 1), masks.foldover(200, 30, 1)[:33])
