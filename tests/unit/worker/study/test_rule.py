"""What is made of the slices of a study: one probability, whatever their thickness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.synthetic import fake_bundle
from worker.bundles.manifest import Members, StudyRule
from worker.study.rule import Stretch, answers, disagree, study_probability

RULE = StudyRule(smooth_mm=4, top=1, threshold=0.5, chosen="by hand")
MEMBERS = Members(outputs=(1, 2), spread=0.3)
Positions = Sequence[float | None]


def of_one(rule: StudyRule, positions: Positions, *probabilities: float) -> float | None:
    return study_probability(rule, [(positions, np.array(probabilities))])


def bleed(every_mm: float) -> tuple[Positions, NDArray[np.float64]]:
    """Return slices of a head of 150 mm with a bleed 20 mm high in the middle."""
    positions = np.arange(0, 150, every_mm)
    return list(positions), np.where(np.abs(positions - 75) <= 10, 0.9, 0.05)


def test_without_a_rule_the_highest_slice_speaks_and_keeps_its_digits() -> None:
    rule = StudyRule(threshold=0.5, chosen="by hand")
    assert of_one(rule, [0, 5, 10], 0.1, 0.123457, 0.0) == 0.123457
    assert of_one(rule, [0, 5], 1.0, 0.0) == 1.0


def test_the_rule_is_the_mean_of_the_highest_logits_scaled_and_shifted() -> None:
    rule = StudyRule(top=2, scale=2, shift=-1, threshold=0.5, chosen="by hand")
    logits = np.array([1.0, 3.0, -2.0])
    found = of_one(rule, [0, 5, 10], *(1 / (1 + np.exp(-logits))))
    assert found == pytest.approx(1 / (1 + np.exp(-(2 * 2.0 - 1))), abs=1e-6)


def test_a_lone_slice_counts_less_than_one_with_its_neighbours() -> None:
    positions = list(range(0, 50, 5))
    alone = of_one(RULE, positions, *(0.9 if n == 4 else 0.05 for n in range(10)))
    together = of_one(RULE, positions, *(0.9 if 3 <= n <= 6 else 0.05 for n in range(10)))
    assert alone is not None
    assert together is not None
    assert alone < 0.5 < together < 0.9


@pytest.mark.parametrize("every_mm", [0.625, 1.25, 2.5, 5.0])
def test_thin_and_thick_slices_of_the_same_head_say_the_same(every_mm: float) -> None:
    assert study_probability(RULE, [bleed(every_mm)]) == pytest.approx(0.87, abs=0.03)


def test_uneven_slices_are_weighed_by_where_they_lie() -> None:
    near = of_one(RULE, [0, 1, 60], 0.9, 0.1, 0.1)
    far = of_one(RULE, [0, 40, 60], 0.9, 0.1, 0.1)
    assert near is not None
    assert far == pytest.approx(0.9, abs=1e-3)
    assert near < 0.6


def test_missing_positions_are_numbers_times_the_median_spacing() -> None:
    probabilities = [0.1, 0.8, 0.9, 0.2, 0.1]
    known = of_one(RULE, [0, 2.5, 5, 7.5, 10], *probabilities)
    assert of_one(RULE, [0, 2.5, None, 7.5, 10], *probabilities) == known
    nothing = of_one(RULE, [None] * 5, *probabilities)
    assert nothing == of_one(RULE, [0, 5, 10, 15, 20], *probabilities)


def test_a_slice_that_was_not_analysed_keeps_its_place() -> None:
    found = of_one(RULE, [None] * 4, 0.1, np.nan, 0.9, 0.1)
    assert found == of_one(RULE, [0, 10, 15], 0.1, 0.9, 0.1)


def test_one_slice_speaks_for_itself_and_none_for_nothing() -> None:
    rule = RULE.model_copy(update={"top": 3})
    assert of_one(rule, [7.5], 0.3) == 0.3
    assert of_one(rule, [None], 0.3) == 0.3
    assert of_one(rule, [7.5], np.nan) is None
    assert study_probability(rule, []) is None


def test_certain_slices_have_a_finite_logit() -> None:
    assert of_one(RULE, [0, 5], 1.0, 1.0) == 0.999999
    assert of_one(RULE, [0, 5], 0.0, 0.0) == 0.000001


def test_the_highest_part_speaks_for_the_study_and_parts_do_not_mix() -> None:
    high, low = bleed(5.0), ([0.0, 5.0, 10.0], np.full(3, 0.05))
    both = study_probability(RULE, [low, high])
    assert both == study_probability(RULE, [high]) == study_probability(RULE, [high, low])


def test_each_member_goes_by_the_same_rule() -> None:
    bundle = replace(fake_bundle(), study=RULE, members=MEMBERS)
    columns = np.array([[0.1, 0.1, 0.1], [0.4, 0.2, 0.7], [0.4, 0.2, 0.7]])
    positions = [0.0, 5.0, 10.0]
    (found,) = answers(bundle, [Stretch(positions, columns)])
    alone = [study_probability(RULE, [(positions, columns[:, n])]) for n in range(3)]
    assert [found.probability, *found.members] == alone
    assert answers(bundle, []) == ()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ((0.2, 0.7), True),
        ((0.4, 0.7), True),
        ((0.4, 0.5), False),
        ((0.5, 0.9), False),
        ((0.1, 0.49), False),
        ((0.2, 0.5), True),
        ((), False),
    ],
    ids=["apart", "just so far", "too near", "both above", "both below", "at it", "none"],
)
def test_members_disagree_on_both_sides_of_the_threshold_and_far_apart(
    members: tuple[float, ...], *, expected: bool
) -> None:
    assert disagree(members, 0.5, MEMBERS) is expected
