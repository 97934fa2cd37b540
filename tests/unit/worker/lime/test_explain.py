"""An explanation is what the lime package computes, or points at the lesion with less."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limen.errors import EngineError, NotAnalysable
from tests.support.synthetic import BrightBlood, fake_bundle, head_hu
from worker.bundles import bundle
from worker.lime import explain
from worker.lime.explain import Mode, Settings
from worker.lime.masks import bernoulli
from worker.lime.superpixels import brain_median, own_mean, quickshift, slic_in_head
from worker.serving.engine import Engine, Lane
from worker.study.tensors import to_tensor

ICH = Path(__file__).resolve().parents[4] / "models" / "ich"
SMALL = Settings(samples=120, superpixels=30, seed=7)


def tensor(*, lesion: bool = True, side: int = 64) -> np.ndarray:
    noise = np.random.default_rng(8).normal(0, 3, (side, side))
    hu = (head_hu(lesion=lesion, side=side) + noise).astype(np.float32)
    return to_tensor(hu, fake_bundle(size=(side, side)))


def run(image: np.ndarray, settings: Settings = SMALL) -> explain.SliceExplanation:
    return explain.explain(image, BrightBlood().predict, 0, settings)


def lime_weights(
    image: np.ndarray, model: explain.Classifier, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return superpixels, weights and score of the untouched package, as its README calls it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lime.lime_image import LimeImageExplainer

        found = LimeImageExplainer(random_state=seed).explain_instance(
            image.astype(np.float64),
            lambda batch: model(np.asarray(batch, np.float32)),
            labels=(0,),
            top_labels=None,
            hide_color=None,
            num_samples=samples,
            random_seed=seed,
        )
    weights = np.array([weight for _, weight in sorted(found.local_exp[0])])
    return found.segments, weights, float(found.score)


@pytest.fixture(scope="module")
def ich() -> explain.Classifier:
    engine = Engine(bundle.load(ICH))
    yield lambda tensors: engine.submit(tensors, Lane.EXPLAIN).result(60)
    engine.close()


def test_the_reference_is_the_lime_package_on_a_trained_model(ich: explain.Classifier) -> None:
    with np.load(ICH / "golden.npz") as golden:
        image = golden["tensor"][golden["probability"][:, 0].argmax()]
    found = explain.explain(image, ich, 0, Settings(Mode.REFERENCE, samples=100, seed=5))
    segments, weights, score = lime_weights(image, ich, 100, 5)
    assert image.shape == (224, 192, 3)
    assert len(weights) >= 30
    assert np.ptp(weights) > 0.01
    np.testing.assert_array_equal(found.segments, segments)
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=1e-6)
    assert found.fidelity_r2 == pytest.approx(score, abs=1e-6)
    assert (found.method, found.samples) == ("LIME, reference", 100)


@pytest.mark.parametrize("mode", list(Mode))
def test_what_the_model_says_without_the_strongest_superpixel_is_asked_of_the_model(
    mode: Mode,
) -> None:
    image = tensor()
    found = run(image, replace(SMALL, mode=mode))
    superpixels = quickshift(image) if mode is Mode.REFERENCE else slic_in_head(image, 30)
    fill = (own_mean if mode is Mode.REFERENCE else brain_median)(image, superpixels)
    hidden = (found.segments == found.weights.argmax())[..., np.newaxis]
    asked = BrightBlood().predict(np.where(hidden, fill, image)[np.newaxis])[0, 0]
    assert found.without_strongest == pytest.approx(asked, abs=1e-6)
    assert found.without_strongest < found.probability - 0.3  # the lesion was what it saw


def test_where_nothing_speaks_for_the_label_nothing_is_hidden() -> None:
    never = explain.explain(tensor(), lambda batch: np.zeros((len(batch), 1), np.float32), 0, SMALL)
    assert never.weights.max() <= 0
    assert never.without_strongest is None


def test_the_strongest_superpixel_is_the_lesion() -> None:
    found = run(tensor())
    y, x = np.argwhere(found.segments == found.weights.argmax()).mean(axis=0)
    assert abs(y - 25.6) < 4
    assert abs(x - 39.7) < 4
    assert found.weights.max() > 5 * np.abs(np.median(found.weights))
    assert not found.poor


def test_a_lesion_painted_into_a_slice_is_found_by_a_trained_model(ich: explain.Classifier) -> None:
    with np.load(ICH / "golden.npz") as golden:
        image = golden["tensor"][golden["probability"][:, 0].argmin()].copy()
    y, x = np.mgrid[:224, :192]
    blood = np.hypot(y - 100, x - 85) < 14
    # 70 HU through the three windows of the bundle
    image[blood] = [np.clip((70 - (c - w / 2)) / w, 0, 1) for c, w in bundle.load(ICH).windows]
    found = explain.explain(image, ich, 0)
    assert found.probability > 0.5
    strongest = found.segments == found.weights.argmax()
    assert strongest[blood].mean() > 0.5


def test_the_same_input_and_seed_give_the_same_numbers() -> None:
    one, other = run(tensor()), run(tensor())
    assert one.weights.tobytes() == other.weights.tobytes()
    assert one.segments.tobytes() == other.segments.tobytes()
    assert (one.fidelity_r2, one.stability) == (other.fidelity_r2, other.stability)


def test_another_seed_draws_other_samples() -> None:
    other = Settings(samples=120, superpixels=30, seed=8)
    assert run(tensor()).weights.tobytes() != run(tensor(), other).weights.tobytes()


def test_sampling_stops_when_the_weights_have_settled() -> None:
    patient = Settings(samples=1000, superpixels=30)
    found = run(tensor(), patient)
    assert found.stability >= explain.SETTLED_STABILITY
    assert found.samples < 1000
    assert found.samples % explain.ROUND == 0


def test_a_model_that_answers_by_chance_never_settles_and_is_called_poor() -> None:
    rng = np.random.default_rng(3)
    found = explain.explain(
        tensor(), lambda batch: rng.random((len(batch), 1), np.float32), 0, SMALL
    )
    assert found.samples == 120
    assert found.poor


def test_the_explanation_says_what_it_was_made_with_and_compared_with() -> None:
    found = run(tensor())
    assert found.method == "LIME, settled"
    assert found.baseline == "the median of the brain"
    assert "at most 120 samples" in found.parameters
    assert found.probability > 0.9
    assert found.baseline_probability is not None
    assert found.baseline_probability < 0.1


def test_perturbed_images_are_the_slice_where_kept_and_the_fill_where_hidden() -> None:
    image = tensor()
    cut = slic_in_head(image, 30)
    fill = brain_median(image, cut)
    images = explain.Perturbed(image, fill, cut)
    masks = bernoulli(40, cut.count, 1)
    for part in (masks[:32], masks[32:]):  # the second round overwrites the first
        kept = np.concatenate([part, np.ones((len(part), 1), bool)], axis=1)[:, cut.segments]
        np.testing.assert_array_equal(images(part), np.where(kept[..., None], image, fill))


def test_a_model_that_does_not_care_gives_a_poor_explanation() -> None:
    found = explain.explain(
        tensor(), lambda batch: np.full((len(batch), 1), 0.7, np.float32), 0, SMALL
    )
    assert "hardly lowers" in found.poor
    assert (found.fidelity_r2, found.stability) == (0, 0)
    assert np.abs(found.weights).max() == 0


def test_a_constant_image_is_explained_and_called_poor() -> None:
    found = run(np.full((64, 64, 3), 0.5, np.float32))
    assert found.poor
    assert len(found.weights) >= 1


def test_a_single_superpixel_is_explained_and_called_poor() -> None:
    image = np.zeros((64, 64, 3), np.float32)
    image[30:33, 30:33] = 0.9
    found = run(image, Settings(samples=20, superpixels=1))
    assert len(found.weights) == 1
    assert found.poor == "there is only one superpixel"


@pytest.mark.parametrize("mode", Mode)
def test_a_slice_of_no_numbers_cannot_be_explained(mode: Mode) -> None:
    image = tensor()
    image[5, 5, 1] = np.nan
    with pytest.raises(NotAnalysable, match="no numbers"):
        run(image, Settings(mode))


def test_a_slice_of_air_cannot_be_explained() -> None:
    with pytest.raises(NotAnalysable, match="nothing but air"):
        run(np.zeros((64, 64, 3), np.float32))


@pytest.mark.parametrize("mode", Mode)
def test_answers_that_are_no_numbers_fail(mode: Mode) -> None:
    with pytest.raises(EngineError, match="no number"):
        explain.explain(
            tensor(),
            lambda b: np.full((len(b), 1), np.nan, np.float32),
            0,
            Settings(mode, samples=40),
        )


# -- neighbours ------------------------------------------------------------------------------------


def test_superpixels_are_those_of_the_middle_slice_and_hidden_in_all_channels() -> None:
    image = tensor()
    beside = np.roll(image, 40, axis=0)
    stacked = np.concatenate([beside, image, np.zeros_like(image)], axis=-1)
    settings = Settings(samples=40, superpixels=20, slices=3)
    seen = []

    def classifier(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.copy())
        return batch[..., 3:6].mean(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0]

    found = explain.explain(stacked, classifier, 0, settings)
    alone = explain.explain(
        image,
        lambda batch: batch.mean(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0],
        0,
        Settings(samples=40, superpixels=20),
    )
    assert np.array_equal(found.segments, alone.segments)
    np.testing.assert_allclose(found.weights, alone.weights, atol=1e-5)
    assert "in all 3 slices" in found.parameters
    assert "slices" not in alone.parameters
    changed = [(batch != stacked).any(axis=(1, 2)) for batch in seen]
    every = np.concatenate(changed)
    hidden = every[:, 3:6].any(axis=1)
    assert hidden.any()
    assert every[hidden][:, :3].any(axis=1).all()


def test_the_reference_method_takes_the_three_channels_of_the_middle_slice() -> None:
    image = tensor()
    stacked = np.concatenate([image * 0, image, image * 0], axis=-1)
    settings = Settings(Mode.REFERENCE, samples=20, slices=3)
    found = explain.explain(stacked, lambda b: b.mean(axis=(1, 2))[:, 3:4], 0, settings)
    alone = explain.explain(
        image, lambda b: b.mean(axis=(1, 2))[:, :1], 0, Settings(Mode.REFERENCE, samples=20)
    )
    assert np.array_equal(found.segments, alone.segments)
