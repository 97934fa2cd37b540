"""An explanation is what the lime package computes, points at the lesion, and repeats itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from limen.errors import EngineError, NotAnalysable
from tests.unit.worker.synthetic import BrightBlood, fake_bundle, head_hu
from worker import explain
from worker.pixels import to_tensor

BUNDLE = fake_bundle()


def tensor(*, lesion: bool = True) -> np.ndarray:
    noise = np.random.default_rng(8).normal(0, 3, (64, 64))
    return to_tensor((head_hu(lesion=lesion) + noise).astype(np.float32), BUNDLE)


def reference_weights(image: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return what the untouched lime package gives for our superpixels and fill."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lime.lime_image import LimeImageExplainer

        segments = explain.superpixels_of(image, 30)
        found = LimeImageExplainer(random_state=seed).explain_instance(
            image.astype(np.float64),
            lambda batch: BrightBlood().predict(np.asarray(batch, np.float32)),
            labels=(0,),
            top_labels=None,
            hide_color=explain.fill_of(image, segments),
            num_samples=samples,
            segmentation_fn=lambda _: segments,
            random_seed=seed,
        )
    weights = np.zeros(segments.max() + 1)
    for number, weight in found.local_exp[0]:
        weights[number] = weight
    return np.append(weights[:-1], found.score)


def run(image: np.ndarray, **options: int) -> explain.SliceExplanation:
    values = {"samples": 120, "superpixels": 30, "seed": 7} | options
    return explain.explain(image, BrightBlood().predict, 0, **values)


def test_the_weights_are_those_of_the_lime_package() -> None:
    image = tensor()
    found = run(image)
    expected = reference_weights(image, 120, 7)
    np.testing.assert_allclose(found.weights, expected[:-1], atol=1e-6)
    assert found.fidelity_r2 == pytest.approx(expected[-1], abs=1e-6)


def test_the_strongest_superpixel_is_the_lesion() -> None:
    found = run(tensor(), samples=300)
    y, x = np.argwhere(found.segments == found.weights.argmax()).mean(axis=0)
    assert abs(y - 25.6) < 4
    assert abs(x - 39.7) < 4
    assert found.weights.max() > 5 * np.abs(np.median(found.weights))


def test_the_same_input_and_seed_give_the_same_numbers() -> None:
    one, other = run(tensor()), run(tensor())
    assert one.weights.tobytes() == other.weights.tobytes()
    assert one.segments.tobytes() == other.segments.tobytes()
    assert (one.fidelity_r2, one.stability) == (other.fidelity_r2, other.stability)


def test_another_seed_draws_other_samples() -> None:
    assert run(tensor()).weights.tobytes() != run(tensor(), seed=8).weights.tobytes()


def test_superpixels_cover_the_head_and_leave_the_air() -> None:
    segments = explain.superpixels_of(tensor(), 30)
    background = segments.max()
    assert segments[0, 0] == background
    assert segments[32, 32] != background
    assert set(np.unique(segments)) == set(range(background + 1))


def test_air_is_never_changed_and_a_hidden_lesion_looks_like_brain() -> None:
    image = tensor()
    segments = explain.superpixels_of(image, 30)
    fill = explain.fill_of(image, segments)
    np.testing.assert_array_equal(fill[0, 0], image[0, 0])
    assert fill[25, 39, 0] == pytest.approx(35 / 80, abs=0.05)


def test_a_model_that_does_not_care_gives_a_poor_explanation() -> None:
    found = explain.explain(
        tensor(), lambda batch: np.full((len(batch), 1), 0.7, np.float32), 0, samples=60
    )
    assert found.poor
    assert found.fidelity_r2 == 0
    assert np.abs(found.weights).max() == 0


def test_a_constant_image_is_explained_and_called_poor() -> None:
    found = run(np.full((64, 64, 3), 0.5, np.float32))
    assert found.poor
    assert len(found.weights) >= 1


def test_a_single_superpixel_is_explained_and_called_poor() -> None:
    image = np.zeros((64, 64, 3), np.float32)
    image[30:33, 30:33] = 0.9
    found = run(image, superpixels=1)
    assert len(found.weights) == 1
    assert found.poor


def test_a_slice_of_air_cannot_be_explained() -> None:
    with pytest.raises(NotAnalysable, match="nothing but air"):
        run(np.zeros((64, 64, 3), np.float32))


def test_answers_that_are_no_numbers_fail() -> None:
    with pytest.raises(EngineError, match="no number"):
        explain.explain(tensor(), lambda b: np.full((len(b), 1), np.nan, np.float32), 0, samples=40)
