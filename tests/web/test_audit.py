"""What the results server notes for the audit trail; the node reads it as its own notes."""

from __future__ import annotations

import stat

import pytest
from django.urls import reverse
from django.utils import timezone

from limen.audit import Kind
from limen.audit.notes import Notes
from tests.web import samples
from web.results import audit
from web.results.models import Bulletin, Node, Study


@pytest.fixture
def notes(settings, tmp_path, monkeypatch):
    """The folder of notes, with the trail on."""
    settings.AUDIT_IS_ON = True
    settings.AUDIT_DIR = tmp_path / "audit"
    settings.AUDIT_MAX_WAITING = 1000
    monkeypatch.setattr(audit, "_minute", None)
    return Notes(settings.AUDIT_DIR, 1000)


def events(notes):
    return [notes.read(name) for name in notes.waiting()]


def test_who_opens_a_study_is_noted_with_whose_it_is(notes, browser, post):
    result = samples.result()
    assert post(result).status_code == 201
    address = reverse("study", args=[Study.objects.get().key])
    assert browser.get(address).status_code == 200
    (event,) = [e for e in events(notes) if e.kind is Kind.VIEWED]
    assert (event.user, event.address, event.process) == ("rita", "127.0.0.1", "web")
    assert event.study_uid == result.study.study_uid
    assert (event.patient_id, event.accession) == (
        result.study.patient_id,
        result.study.accession,
    )


def test_a_page_that_is_not_there_shows_nobody_anything(notes, browser):
    assert browser.get(reverse("study", args=["0" * 32])).status_code == 404
    assert [e for e in events(notes) if e.kind is Kind.VIEWED] == []


def test_logins_right_and_wrong_and_the_logout_are_noted(notes, client, reader):
    address = reverse("login")
    client.post(address, {"username": "rita", "password": "wrong"})
    client.post(address, {"username": "rita", "password": "a reading room"})
    client.post(reverse("logout"))
    told = [(e.kind, e.outcome, e.user) for e in events(notes)]
    assert told == [
        (Kind.LOGGED_IN, 4, "rita"),
        (Kind.LOGGED_IN, 0, "rita"),
        (Kind.LOGGED_OUT, 0, "rita"),
    ]
    modes = {stat.S_IMODE((notes.folder / name).stat().st_mode) for name in notes.waiting()}
    assert modes == {0o600}


@pytest.mark.django_db
def test_who_tries_names_all_day_fills_no_disk(notes, client, monkeypatch):
    monkeypatch.setattr(audit, "_MOST_FAILURES", 3)
    for n in range(8):
        client.post(reverse("login"), {"username": f"name-{n}", "password": "guess"})
    assert 3 <= len(notes.waiting()) <= 6  # a minute may have begun meanwhile


def test_a_folder_that_is_full_holds_up_no_page_and_is_counted(notes, client, reader, settings):
    settings.AUDIT_MAX_WAITING = 1
    for _ in range(3):
        client.force_login(reader)
    assert len(notes.waiting()) == 1
    assert notes.take_dropped() == 2


def test_nothing_is_noted_without_a_collector(notes, client, reader, settings):
    settings.AUDIT_IS_ON = False
    client.force_login(reader)
    assert not settings.AUDIT_DIR.exists()


def test_who_has_dead_work_retried_or_discarded_is_noted_with_the_reason(
    notes, client, django_user_model, post
):
    assert post(samples.result()).status_code == 201
    study = Study.objects.get()
    keys = [f"{study.key}-1-prediction-ris", "ris"]
    bulletin = Bulletin.objects.create(
        node=Node.objects.get(), host="node1", alarms=[], awaited=[], awaited_total=0, digest="",
        operations={"dead": [{"key": key} for key in keys]}, told_at=timezone.now(),
    )  # fmt: skip
    client.force_login(django_user_model.objects.create_superuser("ada"))
    for key, action in zip(keys, ("discard", "retry"), strict=True):
        form = {"bulletin": bulletin.pk, "key": key, "action": action, "reason": "a phantom"}
        assert client.post(reverse("order"), form).status_code == 302
        assert client.post(reverse("order"), form).status_code == 422  # asked for already
    of_a_study, of_none = [e for e in events(notes) if e.kind is Kind.ORDERED]
    assert of_a_study.asked == f"discard {keys[0]}"
    for event in (of_a_study, of_none):
        assert (event.user, event.address, event.peer) == ("ada", "127.0.0.1", "node1")
        assert (event.reason, event.process) == ("a phantom", "web")
    assert (of_a_study.study_uid, of_a_study.patient_id) == (study.study_uid, study.patient_id)
    assert (of_none.asked, of_none.study_uid) == ("retry ris", "")
