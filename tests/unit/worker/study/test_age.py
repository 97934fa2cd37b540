"""How old the patient was, by whatever element says so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.headers import header
from worker.study.age import doubts


def said(**changes: Any) -> list[str]:
    return doubts([header(1, **changes)], 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patient_age": "007Y"}, "7 years"),
        ({"patient_age": "7Y"}, "7 years"),
        ({"patient_age": "018M"}, "18 months"),
        ({"patient_age": "005W"}, "1 month"),
        ({"patient_age": "003D"}, "less than a month"),
        ({"patient_age": "000D"}, "less than a month"),
        ({"patient_birth_date": "20160310", "study_date": "20230309"}, "6 years"),
        ({"patient_birth_date": "20160310", "study_date": "20320309"}, "15 years"),
    ],
)
def test_a_patient_younger_than_those_the_model_knows_is_told(
    changes: dict[str, str], told: str
) -> None:
    assert said(**changes) == [
        f"the patient is {told} old, while the model has learned from 16 years on"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"patient_age": "016Y"},
        {"patient_birth_date": "20160310", "study_date": "20320310"},  # the birthday
        {"patient_birth_date": "20160229", "study_date": "20320229"},
        {},
        {"patient_age": "child"},
        {"patient_age": "7"},  # of what unit nobody can say
        {"patient_birth_date": "20160310"},
        {"patient_birth_date": "20160310", "study_date": "20160309"},  # before the birth
        {"patient_birth_date": "20000101", "study_date": "20000101"},  # filled in
        {"patient_age": "000Y"},
        {"patient_birth_date": "20161310", "study_date": "20200101"},  # no month of any year
        {"patient_birth_date": "19000101", "study_date": "20200101"},
    ],
)
def test_who_is_old_enough_or_of_unknown_age_is_no_doubt(changes: dict[str, str]) -> None:
    assert said(**changes) == []


def test_the_age_counts_before_dates_that_may_have_been_shifted() -> None:
    dates = {"patient_birth_date": "20200704", "study_date": "20230101"}
    assert said(patient_age="75Y", **dates) == []
    assert said(patient_age="000Y", **dates) != []
    assert said(patient_age="7Y", patient_birth_date="19500101", study_date="20200101") != []


def test_the_youngest_of_several_ages_counts() -> None:
    assert doubts([header(1, patient_age="040Y"), header(2, patient_age="004Y")], 16) != []


def test_a_model_that_says_nothing_of_ages_knows_every_age() -> None:
    assert doubts([header(1, patient_age="001D")], None) == []
