"""A second method looks at the same regions, within the budget of the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.synthetic import BrightBlood, fake_bundle, head_hu
from worker.lime import explain, masks
from worker.lime.explain import Mode, Settings, SliceExplanation
from worker.lime.occlusion import Verdict, opinion
from worker.lime.superpixels import brain_median, slic_in_head
from worker.study.tensors import to_tensor

HOW = Settings(samples=120, superpixels=30, seed=7)
IMAGE = to_tensor(
    head_hu(lesion=True, side=64)
    + np.random.default_rng(8).normal(0, 3, (64, 64)).astype(np.float32),
    fake_bundle(size=(64, 64)),
)
CUT = slic_in_head(IMAGE, 30)


def run(
    model: Callable[[np.ndarray], np.ndarray], settings: Settings = HOW
) -> tuple[SliceExplanation, int]:
    """Return the explanation and how many images the model was shown."""
    seen = 0

    def counted(batch: np.ndarray) -> np.ndarray:
        nonlocal seen
        seen += len(batch)
        return model(batch)

    return explain.explain(IMAGE, counted, 0, settings), seen


def by_regions(logit: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a model that answers by which superpixels it is shown, (superpixels,) bool."""
    marks = [np.argwhere(CUT.segments == n)[0] for n in range(CUT.count)]

    def model(batch: np.ndarray) -> np.ndarray:
        shown = [[(one[y, x] == IMAGE[y, x]).all() for y, x in marks] for one in batch]
        logits = np.array([logit(np.array(row)) for row in shown])
        return (1 / (1 + np.exp(-logits)))[:, None].astype(np.float32)

    return model


def test_each_region_is_hidden_by_itself_within_the_budget() -> None:
    found, seen = run(BrightBlood().predict)
    assert seen == found.samples <= HOW.samples
    second, fill = found.second, brain_median(IMAGE, CUT)
    assert second is not None
    for number in range(CUT.count):
        hidden = np.where((CUT.segments == number)[..., None], fill, IMAGE)
        asked = BrightBlood().predict(hidden[None])[0, 0]
        assert second.without[number] == pytest.approx(asked, abs=1e-6)


def test_a_lesion_that_both_methods_see_is_agreed_upon() -> None:
    found, _ = run(BrightBlood().predict)
    assert found.second is not None
    assert found.second.verdict is Verdict.AGREES
    assert found.second.strongest == found.weights.argmax()
    assert not found.poor


def test_where_it_points_elsewhere_the_explanation_is_not_to_be_leaned_on() -> None:
    def logit(shown: np.ndarray) -> float:  # 3 counts only where nearly everything is there
        return -4 + 4 * shown[8] + (6 * shown[3] if shown.mean() > 0.9 else 0)

    found, _ = run(by_regions(logit))
    assert found.second is not None
    assert (found.weights.argmax(), found.second.strongest) == (8, 3)
    assert found.second.verdict is Verdict.DIFFERS
    assert "hiding one region at a time points at another region" in found.poor


def test_a_finding_that_no_region_carries_by_itself_is_told_so() -> None:
    found, _ = run(by_regions(lambda shown: 12 * shown.mean() - 6))
    assert found.second is not None
    assert (found.second.verdict, found.second.strongest) == (Verdict.SPREAD, None)
    assert "hiding any one of them lowers the answer by less than 5 %" in found.second.words
    assert "hiding one" not in found.poor


def test_a_region_of_half_the_highest_weight_is_one_that_lime_names() -> None:
    weights = np.array([1.0, 0.5, 0.49])
    said = [opinion(0.9, np.array([0.8, *two]), weights) for two in ((0.2, 0.7), (0.7, 0.2))]
    assert [one.verdict for one in said] == [Verdict.AGREES, Verdict.DIFFERS]


@pytest.mark.parametrize(
    "settings",
    [replace(HOW, samples=40), replace(HOW, mode=Mode.REFERENCE, samples=40)],
    ids=["too few samples", "reference"],
)
def test_where_there_is_no_room_no_second_opinion_is_given(settings: Settings) -> None:
    found, _ = run(BrightBlood().predict, settings)
    assert found.second is None
    assert found.without_strongest is not None
    assert "by itself" not in found.parameters


def test_masks_of_one_region_take_their_place_after_the_first_two() -> None:
    found, alone = masks.beside_alone(96, 20, seed=3)
    assert (len(found), alone) == (96, 20)
    assert (found[0].all(), found[1].any()) == (True, False)
    np.testing.assert_array_equal(found[2:22], ~np.eye(20, dtype=bool))
    np.testing.assert_array_equal(found[22::2], ~found[23::2])
    units = masks.units(96, alone)
    assert units[0] == units[1]
    np.testing.assert_array_equal(units[22::2], units[23::2])
    assert len(set(units.tolist())) == 38 + 20
