"""Explained slices lie all over the finding, the most probable of all among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from limen.result import Image, Outcome, Result
from tests.web import samples
from worker.study.spread import chosen

LABEL = samples.MODEL.labels[0]


def study(probability: Sequence[float], spacing_mm: float | None = 1.0) -> Result:
    images = [
        Image(
            sop_uid=f"1.2.3.{n}",
            frame=1,
            index=n,
            position_mm=None if spacing_mm is None else n * spacing_mm,
            probability={LABEL: p},
            positive=p >= 0.5,
        )
        for n, p in enumerate(probability)
    ]
    return replace(samples.result(), images=images)


def indices(prediction: Result, count: int) -> list[int]:
    return [image.index for image in chosen(prediction, lambda told: told[LABEL], count)]


def bump(middle: int, half: int, slices: int) -> list[float]:
    return [max(0.1, 0.99 - 0.4 * abs(n - middle) / half) for n in range(slices)]


def test_in_thin_slices_the_explained_ones_lie_apart_and_the_surest_is_first() -> None:
    found = indices(study(bump(150, 40, 300), 0.6), 5)
    assert found[0] == 150
    places = sorted(found)
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) >= 8


def test_where_there_are_no_more_than_wanted_all_are_explained_by_probability() -> None:
    assert indices(study([0.1, 0.6, 0.9, 0.8, 0.2]), 5) == [2, 3, 1]


def test_in_thick_slices_it_is_the_most_probable_ones() -> None:
    assert indices(study([0.9, 0.7, 0.8, 0.6], 5.0), 3) == [0, 2, 1]


def test_a_finding_in_two_places_has_both_explained() -> None:
    upper = [0.1] * 100 + [0.95] * 10 + [0.1] * 100 + [0.7] * 10
    found = indices(study(upper), 2)
    assert found[0] == 100
    assert found[1] >= 210


def test_where_no_position_is_known_the_number_of_the_slice_counts() -> None:
    found = indices(study(bump(30, 20, 60), None), 3)
    assert found[0] == 30
    assert abs(found[1] - 30) >= 5


def test_two_series_at_one_place_do_not_take_the_room_of_another_place() -> None:
    one = study([0.99, 0.6], 20.0)
    again = [
        replace(i, sop_uid=f"1.2.4.{i.index}", index=i.index + 2, series_uid="1.2.9")
        for i in one.images
    ]
    both = replace(one, images=[*one.images, *again])
    assert indices(both, 2) == [0, 1]


def test_none_is_explained_where_none_is_wanted() -> None:
    assert indices(study([0.9, 0.8]), 0) == []


def test_without_a_positive_slice_the_highest_stands_for_a_study_that_wants_a_word() -> None:
    low = replace(study([0.1, 0.4, 0.3]), outcome=Outcome.UNDETERMINED)
    assert indices(low, 5) == [1]
    assert indices(replace(low, outcome=Outcome.NEGATIVE), 5) == []
