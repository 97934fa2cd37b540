"""Old pictures leave the results server; what was found in them stays."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from tests.web import samples

pytestmark = pytest.mark.django_db
LONG_AGO = timedelta(days=366)


def files(settings) -> list[Path]:
    return [p for p in Path(settings.MEDIA_STORE).rglob("*") if p.is_file()]


def age(settings, **chosen) -> None:
    """Make results, and every file, older than pictures are kept."""
    from web.results.models import Report

    Report.objects.filter(**chosen).update(posted_at=timezone.now() - LONG_AGO)
    then = (timezone.now() - LONG_AGO).timestamp()
    for path in files(settings):
        os.utime(path, (then, then))


def put(post, number: int) -> None:
    """Post a study whose pictures no other has."""
    for document in samples.pair(number):
        bodies = samples.files(document, size=8 + number)
        assert post(document, bodies).status_code == 201


def page(browser, number: int) -> str:
    from web.results.models import Study

    key = Study.objects.get(study_uid=samples.study(number).study_uid).key
    return browser.get(f"/studies/{key}/").content.decode()


def test_pictures_are_dropped_after_a_year_and_the_page_says_so(post, browser, settings):
    put(post, 1)
    before = page(browser, 1)
    dropped = {path.name for path in files(settings)}
    age(settings)
    put(post, 2)
    text = page(browser, 1)
    assert "The pictures of this result were dropped on" in text
    assert "/images/" in before
    assert "/images/" not in text
    for said in ("positive", "analysed slices at or above the threshold"):
        assert said in text
    assert "but not explained" not in text  # it was
    from web.results.models import RenderedImage

    left = {path.name for path in files(settings)}
    assert not left & dropped
    assert left == set(RenderedImage.objects.values_list("sha256", flat=True))
    assert left


def test_pictures_of_younger_results_stay(post, browser, settings):
    put(post, 1)
    put(post, 2)
    assert "were dropped" not in page(browser, 1)
    assert "/images/" in page(browser, 1)


def test_zero_days_keep_them_for_ever(post, browser, settings):
    settings.PICTURE_DAYS = 0
    put(post, 1)
    age(settings)
    put(post, 2)
    assert "/images/" in page(browser, 1)


def test_the_same_result_again_is_known_after_its_pictures_went(post, settings):
    put(post, 1)
    age(settings)
    put(post, 2)
    for document in samples.pair(1):
        assert post(document, samples.files(document, size=9)).status_code == 200


def test_a_file_that_somebody_has_just_brought_again_stays(post, settings):
    from web.results import media

    put(post, 1)
    age(settings)
    path = files(settings)[0]
    media.store(path.name, [path.read_bytes()])
    media.drop(path.name)
    assert path.is_file()


def test_a_result_is_kept_when_old_pictures_cannot_be_dropped(post, settings, monkeypatch):
    from web.results import media

    put(post, 1)
    age(settings)
    monkeypatch.setattr(media, "drop", lambda sha256: (_ for _ in ()).throw(OSError(sha256)))
    put(post, 2)
