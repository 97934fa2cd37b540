"""The committed bundle: intact, and able to tell a phantom bleed from its twin."""

from __future__ import annotations

import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest

from models.ich import phantom
from models.ich.dataset import INPUT
from models.ich.phantom import Kind, Lesion
from models.ich.statistics import auc
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.study import rule as rules
from worker.study.tensors import to_tensor

FOLDER = Path(phantom.__file__).parent
UNSEEN = 7_000_000  # no set of the trainer has these seeds


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load(FOLDER)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> keras.Model:
    return keras.models.load_model(bundle.weights, safe_mode=True, compile=False)


@pytest.fixture(scope="module")
def heads() -> list[tuple[phantom.Head, phantom.Head]]:
    kinds = list(Kind)
    return [
        phantom.pair(UNSEEN + i, Lesion(kinds[i % 4], 12.0 + 2 * i), size=192) for i in range(20)
    ]


def probabilities(model: keras.Model, bundle: Bundle, head: phantom.Head) -> np.ndarray:
    pixel_mm = head.spacing_mm[1]
    tensor = np.stack([to_tensor(hu.astype(np.float32), bundle, pixel_mm) for hu in head.hu])
    return np.asarray(model(tensor, training=False))


def called(bundle: Bundle, answer: np.ndarray, step_mm: float) -> rules.Answer:
    """Return what the rule of the bundle makes of a study."""
    places = [n * step_mm for n in range(len(answer))]
    (found,) = rules.answers(bundle, [rules.Stretch(places, answer.astype(np.float64))])
    return found


def test_the_weights_are_the_ones_of_the_manifest(bundle: Bundle) -> None:
    assert hashlib.sha256(bundle.weights.read_bytes()).hexdigest() == bundle.sha256
    assert bundle.weights.stat().st_size <= 20_000_000


def test_the_manifest_asks_for_what_the_trainer_prepared(bundle: Bundle) -> None:
    assert bundle.size == INPUT.size
    assert bundle.windows == INPUT.windows
    assert (bundle.crop, bundle.spacing_mm) == (INPUT.crop, INPUT.spacing_mm)
    assert bundle.neighbours == INPUT.neighbours
    assert bundle.label_names == ["any"]


def test_the_manifest_says_that_it_is_not_for_diagnosis(bundle: Bundle) -> None:
    assert "not for diagnostic use" in bundle.intended_use.lower()
    assert "synthetic" in bundle.training_data.lower()


def test_the_model_still_answers_as_when_it_was_made(bundle: Bundle, model: keras.Model) -> None:
    answer = np.asarray(model(bundle.golden_tensor, training=False))
    assert np.abs(answer - bundle.golden_probability).max() <= bundle.golden_tolerance


def test_golden_tensors_show_both_answers(bundle: Bundle) -> None:
    found = bundle.golden_probability[:, 0] >= bundle.threshold
    assert found.any()
    assert not found.all()


def test_bleeds_of_unseen_heads_are_found_and_their_twins_are_not(
    bundle: Bundle, model: keras.Model, heads: list[tuple[phantom.Head, phantom.Head]]
) -> None:
    label, answer, twins = [], [], []
    for ill, twin in heads:
        clear = ill.positive | (ill.area_mm2 == 0)
        label.append(ill.positive[clear])
        answer.append(probabilities(model, bundle, ill)[clear, 0])
        twins.append(probabilities(model, bundle, twin)[:, 0])
    assert auc(np.concatenate(label), np.concatenate(answer)) >= 0.92
    false_alarms = np.concatenate(twins) >= bundle.threshold
    assert false_alarms.mean() <= 0.03
    found = [(a[y] >= bundle.threshold).any() for a, y in zip(answer, label, strict=True)]
    assert np.mean(found) >= 0.85


def test_a_large_bleed_turns_the_study_and_is_called_above_its_twin(
    bundle: Bundle, model: keras.Model
) -> None:
    for n in range(500, 510):
        heads = phantom.pair(UNSEEN + n, Lesion(Kind.INTRAPARENCHYMAL, 40, 68), size=192)
        ill, twin = (
            called(bundle, probabilities(model, bundle, head), head.spacing_mm[0]).probability
            for head in heads
        )
        assert ill >= rules.of_bundle(bundle).threshold
        assert ill > twin


def test_the_demo_studies_come_out_as_their_truth_says(
    bundle: Bundle, model: keras.Model, tmp_path: Path
) -> None:
    import pydicom

    for study in phantom.demo_studies(tmp_path):
        if study.truth is phantom.Truth.NO_ROUTE:
            continue
        tensors, places = [], []
        for name in study.files:
            ds = pydicom.dcmread(study.folder / name)
            hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            tensors.append(to_tensor(hu.astype(np.float32), bundle, float(ds.PixelSpacing[0])))
            places.append(float(ds.ImagePositionPatient[2]))
        order = np.argsort(places)
        answer = np.asarray(model(np.stack(tensors)[order], training=False))
        step_mm = float(np.median(np.diff(np.sort(places))))
        found, threshold = called(bundle, answer, step_mm), rules.of_bundle(bundle).threshold
        positive = found.probability >= threshold
        assert positive == (study.truth is phantom.Truth.POSITIVE), study.name
        assert bundle.members is not None
        assert not rules.disagree(found.members, threshold, bundle.members), study.name
