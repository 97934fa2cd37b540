"""Thresholds and calibration of the trainer, on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.ich import decision, network
from models.ich.dataset import INPUT, MAP, Slices
from models.ich.statistics import expected_calibration_error, predict
from worker.bundles.manifest import Members, StudyRule

LAST = StudyRule(threshold=0.5, chosen="the highest slice")


def studies(labels: list[bool], slices: int = 4) -> Slices:
    """Return heads of empty slices; every slice of a head that bleeds shows it."""
    head = np.repeat(np.arange(len(labels)), slices)
    n, text = len(head), np.full(len(head), "")
    tensor, area = np.zeros((n, 8, 8, 3), np.uint8), np.zeros((n, *MAP), np.uint8)
    label = np.array(labels)[head]
    return Slices(tensor, area, label, head, text, np.zeros(n, np.float32), text, text)


def test_a_study_is_called_by_its_rule() -> None:
    made = studies([True, False], slices=2)
    p = np.array([0.1, 0.8, 0.3, 0.2], np.float32)
    label, called = decision.studies(made, p, LAST)
    assert label.tolist() == [True, False]
    assert called.tolist() == pytest.approx([0.8, 0.3])
    smooth = LAST.model_copy(update={"smooth_mm": 50.0})
    assert decision.studies(made, p, smooth)[1][0] == pytest.approx(0.4, abs=0.05)


def test_the_threshold_finds_nine_of_ten_and_is_no_lower() -> None:
    rng = np.random.default_rng(4)
    labels = [True] * 20 + [False] * 20
    made = studies(labels)
    strength = np.array([*rng.normal(2, 1, 20), *rng.normal(-2, 1, 20)])[made.head]
    p = 1 / (1 + np.exp(-(strength + rng.normal(0, 0.2, len(strength)))))
    all_ = np.repeat(p[:, None], 1 + network.MEMBERS, 1).astype(np.float32)
    chosen = decision.choose(made, all_)
    label, called = decision.studies(made, all_[:, 0], chosen.rule)
    positive = called >= chosen.rule.threshold
    assert positive[label].mean() == pytest.approx(decision.SENSITIVITY)
    assert (~positive[~label]).mean() >= 0.9
    free = all_[~made.label, 0]
    assert (free < chosen.slice_threshold).mean() >= decision.SLICE_SPECIFICITY - 0.02
    assert not decision.members_disagree(made, all_, chosen.rule, chosen.members).any()


def test_members_on_both_sides_make_a_study_undetermined() -> None:
    made = studies([True, False, False])
    p = np.full((12, 3), 0.2, np.float32)
    p[:4, 2] = 0.9
    apart = decision.members_disagree(made, p, LAST, Members(outputs=(1, 2), spread=0.5))
    assert apart.tolist() == [True, False, False]
    assert not decision.members_disagree(made, p, LAST, None).any()


def test_calibration_makes_probabilities_agree_with_frequencies() -> None:
    rng = np.random.default_rng(2)
    model = network.build(begun=False)
    for member in range(network.MEMBERS):
        last = model.get_layer(f"logit_{member}")
        weights, bias = last.get_weights()
        last.set_weights([weights, bias + 2])
    n, text = 60, np.full(60, "")
    tensor = rng.integers(0, 255, (n, *INPUT.size, 3), np.uint8)
    none, area = np.zeros(n, np.float32), np.zeros((n, *MAP), np.uint8)
    label = rng.uniform(size=n) < 0.3
    made = Slices(tensor, area, label, np.arange(n), text, none, text, text)
    before = expected_calibration_error(label, predict(model, tensor)[:, 0])
    decision.calibrate(model, made)
    after = expected_calibration_error(label, predict(model, tensor)[:, 0])
    assert after < 0.12 < before
