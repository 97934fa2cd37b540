"""Z-scores and percentiles of a slice are what a notebook computes just before the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.synthetic import fake_bundle, head_hu
from worker.bundles.bundle import Bundle
from worker.bundles.preparation import Preparation
from worker.serving.numbers import scaled
from worker.study.normalise import normalised
from worker.study.tensors import Upright, stacked, to_tensor

TENSOR = np.random.default_rng(3).random((8, 6, 2)).astype(np.float32) ** 2
PIXEL_MM = 3.0


def how(**said: Any) -> Preparation:
    return Preparation(**said)


def given(tensor: np.ndarray, preparation: Preparation) -> np.ndarray:
    """Return what the model gets: 0..1 stands for the usual scale."""
    low, high = preparation.usual_scale
    return normalised(tensor, preparation) * (high - low) + low


@pytest.mark.parametrize(("statistics", "axes"), [("channel", (0, 1)), ("all", None)])
def test_a_z_score_is_the_distance_from_the_mean_in_standard_deviations(
    statistics: str, axes: Any
) -> None:
    expected = (TENSOR - TENSOR.mean(axes)) / TENSOR.std(axes)
    found = given(TENSOR, how(normalise="z-score", statistics=statistics))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_z_scores_are_clipped_at_the_deviations_that_are_said() -> None:
    found = given(TENSOR, how(normalise="z-score", deviations=0.5))
    expected = ((TENSOR - TENSOR.mean((0, 1))) / TENSOR.std((0, 1))).clip(-0.5, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("percentiles", [(1, 99), (0, 100), (12.5, 60)])
def test_percentiles_become_0_and_1(percentiles: tuple[float, float]) -> None:
    found = normalised(TENSOR, how(normalise="percentile", percentiles=percentiles))
    low, high = np.percentile(TENSOR, percentiles, axis=(0, 1))
    np.testing.assert_allclose(found, ((TENSOR - low) / (high - low)).clip(0, 1), atol=1e-6)


def test_a_slice_that_is_the_same_everywhere_is_the_mean_and_never_no_number() -> None:
    flat = np.full((4, 4, 1), 0.3, np.float32)
    np.testing.assert_allclose(given(flat, how(normalise="z-score")), 0, atol=1e-5)
    np.testing.assert_array_equal(normalised(flat, how(normalise="percentile")), 0)


def test_without_it_a_tensor_is_what_it_was() -> None:
    assert normalised(TENSOR, how()) is TENSOR


def bundle(**said: Any) -> Bundle:
    return fake_bundle(size=(32, 32), preparation=how(**said))


@pytest.mark.parametrize(
    "said", [{"normalise": "z-score"}, {"normalise": "percentile", "percentiles": (25, 90)}]
)
def test_over_the_head_the_air_around_it_does_not_count(said: dict[str, Any]) -> None:
    near = head_hu(side=64).astype(np.float32)
    far = np.pad(near, 32, constant_values=-1000)

    def brain(hu: np.ndarray, over: str) -> float:
        middle = to_tensor(hu, bundle(**said, over=over), PIXEL_MM)[15:17, 15:17, 2]
        return float(middle.mean())

    assert brain(near, "head") == pytest.approx(brain(far, "head"), abs=0.02)
    assert brain(near, "slice") > brain(near, "head")  # beside air everything is bright


def test_a_slice_without_a_head_is_normalised_by_all_of_it() -> None:
    air = np.full((64, 64), -1000, np.float32)
    air[3, 3] = 60
    found = to_tensor(air, bundle(normalise="z-score", over="head"), PIXEL_MM)
    np.testing.assert_array_equal(
        found, to_tensor(air, bundle(normalise="z-score", over="slice"), PIXEL_MM)
    )


def test_neighbours_have_numbers_of_their_own_or_those_of_all() -> None:
    slices = [Upright(np.full((64, 64), hu, np.float32), 1.0, oriented=True) for hu in (0, 40, 80)]
    for one in slices:
        one.hu[:32] += 20
    each = fake_bundle(size=(8, 8), neighbours=1, preparation=how(normalise="z-score"))
    together = fake_bundle(
        size=(8, 8), neighbours=1, preparation=how(normalise="z-score", statistics="all")
    )
    alike = stacked(slices, each)
    np.testing.assert_allclose(alike[..., 2], alike[..., 5], atol=1e-5)
    apart = stacked(slices, together)
    assert apart[0, 0, 2] < apart[0, 0, 5] < apart[0, 0, 8]


def test_the_model_is_given_the_z_scores_themselves() -> None:
    hu = head_hu(lesion=True, side=64).astype(np.float32)
    wanted = fake_bundle(size=(64, 64), preparation=how(normalise="z-score"), scale=(-10.0, 10.0))
    windowed = to_tensor(hu, fake_bundle(size=(64, 64)), 1.0)
    expected = (windowed - windowed.mean((0, 1))) / windowed.std((0, 1))
    np.testing.assert_allclose(scaled(to_tensor(hu, wanted, 1.0), wanted), expected, atol=1e-4)
