"""Who was shown which study: what is noted, for how long, and who may read it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.web import samples

pytestmark = pytest.mark.django_db
UID = samples.study().study_uid


@pytest.fixture
def key(post) -> str:
    from web.results.models import study_key

    assert post(samples.result()).status_code == 201
    return study_key(UID)


def noted() -> list[tuple[str, str, str, str]]:
    from web.results.models import StudyView

    return list(StudyView.objects.order_by("id").values_list("by", "who", "what", "study_key"))


def test_a_page_its_images_and_a_list_are_noted_once_with_who_saw_them(browser, key):
    from web.results.models import RenderedImage

    for _ in range(3):
        browser.get("/")
        browser.get(f"/studies/{key}/")
        for sha256 in RenderedImage.objects.values_list("sha256", flat=True):
            browser.get(f"/studies/{key}/images/{sha256}").close()
    assert noted() == [
        ("account", "rita", "list", ""),
        ("account", "rita", "page", key),
        ("account", "rita", "images", key),
    ]


def test_what_a_token_reads_is_noted_under_its_name(client, key):
    from web.results import tokens

    token, _ = tokens.issue("ris", "read", 30)
    headers = {"authorization": f"Bearer {token}"}
    sop = samples.result().images[0].sop_uid
    client.get("/api/v1/studies", headers=headers)
    client.get(f"/api/v1/studies/{UID}", headers=headers)
    client.get(f"/api/v1/studies/{UID}/images/{sop}/original", headers=headers).close()
    assert noted() == [
        ("token", "ris", "list", ""),
        ("token", "ris", "result", key),
        ("token", "ris", "images", key),
    ]


def test_who_comes_back_after_ten_minutes_is_noted_again(browser, key, monkeypatch):
    from web.results import trail

    browser.get(f"/studies/{key}/")
    monkeypatch.setattr(trail, "AGAIN_S", 0)
    browser.get(f"/studies/{key}/")
    assert len(noted()) == 2


def test_what_was_refused_or_is_not_there_is_not_noted(browser, client, key):
    client.logout()
    client.get(f"/studies/{key}/")
    client.get("/api/v1/studies")
    assert noted() == []


def test_a_note_holds_the_key_of_the_study_and_nothing_else_of_the_patient(browser, key):
    from web.results.models import StudyView

    browser.get(f"/studies/{key}/?q=Doe")
    row = str(StudyView.objects.values().get())
    study = samples.study()
    for value in (UID, study.patient_name, study.patient_id, study.accession, "Doe"):
        assert value not in row


def test_notes_leave_after_three_years(browser, key):
    from django.utils import timezone

    from web.results import trail
    from web.results.models import StudyView

    now = timezone.now()
    for days in (1, 3 * 365 - 1, 3 * 365 + 1):
        StudyView.objects.create(
            who="rita", by="account", what="page", study_key=key, at=now - timedelta(days=days)
        )
    assert trail.forget() == 1
    assert len(noted()) == 2


def test_the_trail_is_shown_to_administrators_alone(client, browser, key, reader):
    browser.get(f"/studies/{key}/")
    refused = browser.get("/audit/")
    assert refused.status_code == 403
    assert "Who saw what" not in browser.get("/").content.decode()
    reader.is_superuser = True
    reader.save()
    page = browser.get("/audit/", {"study": key}).content.decode()
    assert key in page
    assert "rita" in page
    assert "Nobody was shown this" in browser.get("/audit/", {"who": "nobody"}).content.decode()
    assert "Who saw what" in browser.get("/").content.decode()


def test_a_view_that_cannot_be_noted_is_shown_all_the_same(browser, key, monkeypatch):
    from django.db import OperationalError

    from web.results.models import StudyView

    def full(**_: object) -> None:
        raise OperationalError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(StudyView.objects, "create", full)
        assert browser.get(f"/studies/{key}/").status_code == 200
    assert noted() == []
    browser.get(f"/studies/{key}/")
    assert len(noted()) == 1
