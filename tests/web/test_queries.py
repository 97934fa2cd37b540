"""How often each page asks the database: as often with many rows as with few."""

from __future__ import annotations

import pytest
from django.utils import timezone

from limen.result import Outcome, Phase
from tests.web import samples

pytestmark = pytest.mark.django_db
UID = samples.study().study_uid
API = "/api/v1/studies"
SINCE = "2020-01-01T00:00:00Z"
# Address, with `#poll` where the script of the page asks: how many queries at most.
PAGES = {
    "/": 12,
    "/#poll": 12,
    "/?unread=1": 12,
    "/?mine=1": 12,
    "/?outcome=positive": 12,
    "/?state=prediction": 12,
    "/?state=waiting": 9,
    "/?modality=CT": 12,
    "/?received=7d": 10,
    "/?date=2026-03-09": 12,
    "/?q=doe": 12,
    "/studies/{key}/": 12,
    "/studies/{key}/state": 4,
    "/studies/{key}/images/{sha256}": 4,
    "/operations/": 4,
    "/models/": 5,
    "/audit/": 3,
    "/password/": 2,
    "/healthz": 2,
    "/readyz": 6,
    "/metrics": 3,
    "/api/v1/schema": 2,
    API: 4,
    f"{API}?q=doe": 4,
    f"{API}?changed_since={SINCE}": 3,
    f"{API}/{{uid}}": 6,
    f"{API}/{{uid}}/images/{{sop}}/original": 4,
}


def rows(post, numbers: range) -> None:
    """Post studies, each with two phases, a vote, a note, a view; and what else pages list."""
    from django.contrib.auth.models import User

    from web.results import feedback, notes
    from web.results.models import Bulletin, ModelVersion, Node, Order, Study, StudyView

    reader, _ = User.objects.get_or_create(username="ada")
    for number in numbers:
        for document in samples.pair(number, received="2026-03-09T08:21:00Z"):
            assert post(document).status_code == 201
        study = Study.objects.get(study_uid=samples.study(number).study_uid)
        Study.objects.filter(pk=study.pk).update(changed_at="2026-03-09T08:21:00Z")
        feedback.vote(study, 1, reader, "agree", "")
        notes.save(study, reader, "so", 0)
        StudyView.objects.create(study_key=study.key, who="x", by="token", what="page",
                                 at=timezone.now())  # fmt: skip
        dead = f"{study.key}-1-prediction-ris"
        Bulletin.objects.create(
            node=Node.objects.get(), host=f"node{number}", alarms=[], digest="", awaited_total=1,
            awaited=[{"study_uid": study.study_uid, "revision": 2, "accession": "", "images": 1,
                      "state": "receiving", "outcome": "", "received_at": SINCE,
                      "last_image_at": SINCE}],
            operations={"dead": [{"key": dead, "lane": "ris", "attempts": 1, "error": ""}],
                        "lanes": [], "workers": [], "disk": None, "peers": []},
            told_at=timezone.now(),
        )  # fmt: skip
        Order.objects.create(node=Node.objects.get(), host=f"node{number}", action="retry",
                             key=dead, reason="so", who="ada", asked_at=timezone.now())  # fmt: skip
        ModelVersion.objects.create(name="m", version=str(number), sha256=f"{number:064}",
                                    first_at=timezone.now(), last_at=timezone.now())  # fmt: skip


def test_no_page_asks_more_often_than_it_may_however_many_rows_there_are(post, django_user_model):
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from web.results.models import RenderedImage, study_key

    admin = Client()
    admin.force_login(django_user_model.objects.create_superuser("ada"))

    def asked(address: str) -> int:
        headers = {"x-limen-poll": "1"} if address.endswith("#poll") else {}
        words = {
            "key": study_key(UID), "uid": UID, "sop": samples.result().images[0].sop_uid,
            "sha256": RenderedImage.objects.first().sha256,
        }  # fmt: skip
        with CaptureQueriesContext(connection) as captured:
            answer = admin.get(address.format(**words), headers=headers)
            assert answer.status_code == 200, address
        answer.close()
        return len(captured)

    rows(post, range(1, 3))
    assert post(samples.result(90, positive=(), phase=Phase.PREDICTION)).status_code == 201
    assert post(samples.result(91, positive=(), outcome=Outcome.PARTIAL)).status_code == 201
    for address in PAGES:  # each view is noted once
        asked(address)
    few = {address: asked(address) for address in PAGES}
    rows(post, range(3, 9))
    for address in PAGES:
        asked(address)
    many = {address: asked(address) for address in PAGES}
    assert many == few
    assert {address: n for address, n in many.items() if n > PAGES[address]} == {}


def test_every_page_is_among_them():
    import re

    from tests.web.test_access import MATRIX

    known = {re.split("[?#]", address)[0] for address in PAGES}
    got = {re.split("[? ]", address)[0] for method, address in MATRIX if method == "GET"}
    assert got - known == {"/login/", "/login/x/", "/static/results/app.css"}
