"""How old the patient was, where the model has not learned from patients of every age."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from worker.dicom.headers import Header

__all__ = ["doubts", "months"]

_AGE: Final = re.compile(r"^(\d{1,3})([DWMY])$")
_DATE: Final = re.compile(r"^\d{8}$")
_MONTHS: Final = {"D": 12 / 365.25, "W": 12 * 7 / 365.25, "M": 1.0, "Y": 12.0}
_IN_YEARS: Final = 24
"""From so many months on people say years."""


def doubts(headers: Iterable[Header], min_age_years: float | None) -> list[str]:
    """Return in words that the patient is younger than those the model has learned from.

    Parameters
    ----------
    headers
        Of the slices that are analysed.
    min_age_years
        ``accepts.min_age_years`` of the bundle; None accepts every age.
    """
    if min_age_years is None:
        return []
    ages = [age for header in headers if (age := months(header)) is not None]
    if not ages or min(ages) >= 12 * min_age_years:
        return []
    told = f"the patient is {_words(min(ages))} old"
    return [f"{told}, while the model has learned from {min_age_years:g} years on"]


def months(header: Header) -> int | None:
    """Return the age in completed months; None where nothing says it.

    PatientAge counts (PS3.5 6.2, AS), and without it birth date and study date: whoever takes the
    identity out of a file shifts the dates, or fills in one day for both, and leaves the age.
    ``000Y`` is filled in, too; newborns have days or weeks.
    """
    found = _AGE.match(header.patient_age.upper())
    if found and (int(found[1]) or found[2] != "Y"):
        return int(int(found[1]) * _MONTHS[found[2]])
    born, examined = _date(header.patient_birth_date), _date(header.study_date)
    if born is None or examined is None or born >= examined:
        return None
    whole = 12 * (examined.year - born.year) + examined.month - born.month
    return whole - (examined.day < born.day)


def _date(text: str) -> datetime | None:
    if not _DATE.match(text):
        return None
    try:
        return datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007 - a calendar day, nowhere
    except ValueError:
        return None


def _words(age_months: int) -> str:
    if age_months >= _IN_YEARS:
        return f"{age_months // 12} years"
    if age_months < 1:
        return "less than a month"
    return f"{age_months} month" + ("" if age_months == 1 else "s")
