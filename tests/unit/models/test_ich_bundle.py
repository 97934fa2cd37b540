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
from worker import bundle as bundles
from worker.bundle import Bundle
from worker.pixels import to_tensor

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
    tensor = np.stack([to_tensor(hu.astype(np.float32), bundle) for hu in head.hu])
    return np.asarray(model(tensor, training=False))[:, bundle.decision_index]


def test_the_weights_are_the_ones_of_the_manifest(bundle: Bundle) -> None:
    assert hashlib.sha256(bundle.weights.read_bytes()).hexdigest() == bundle.sha256
    assert bundle.weights.stat().st_size <= 10_000_000


def test_the_manifest_asks_for_what_the_trainer_prepared(bundle: Bundle) -> None:
    assert bundle.size == INPUT.size
    assert bundle.windows == INPUT.windows
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
        answer.append(probabilities(model, bundle, ill)[clear])
        twins.append(probabilities(model, bundle, twin))
    assert auc(np.concatenate(label), np.concatenate(answer)) >= 0.92
    false_alarms = np.concatenate(twins) >= bundle.threshold
    assert false_alarms.mean() <= 0.03
    found = [(a[y] >= bundle.threshold).any() for a, y in zip(answer, label, strict=True)]
    assert np.mean(found) >= 0.85


def test_a_large_bleed_turns_the_study_and_its_twin_stays_negative(
    bundle: Bundle, model: keras.Model
) -> None:
    ill, twin = phantom.pair(UNSEEN + 500, Lesion(Kind.INTRAPARENCHYMAL, 40, 68))
    assert probabilities(model, bundle, ill).max() >= bundle.threshold
    assert probabilities(model, bundle, twin).max() < bundle.threshold


def test_the_demo_studies_come_out_as_their_truth_says(
    bundle: Bundle, model: keras.Model, tmp_path: Path
) -> None:
    import pydicom

    for study in phantom.demo_studies(tmp_path):
        if study.truth is phantom.Truth.NO_ROUTE:
            continue
        tensors = []
        for name in study.files:
            ds = pydicom.dcmread(study.folder / name)
            hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            tensors.append(to_tensor(hu.astype(np.float32), bundle))
        answer = np.asarray(model(np.stack(tensors), training=False))[:, 0]
        positive = bool((answer >= bundle.threshold).any())
        assert positive == (study.truth is phantom.Truth.POSITIVE), study.name
