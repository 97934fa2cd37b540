"""What receivers tell of studies without a result: on the worklist, and on the page of a study."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from limen.result import Outcome
from tests.web import samples

pytestmark = pytest.mark.django_db
NOW = datetime.now(UTC)


def awaited(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "study_uid": samples.study(number).study_uid,
        "revision": 1,
        "accession": f"A{number}",
        "state": "complete",
        "outcome": "",
        "images": 28,
        "received_at": NOW.isoformat(),
        "last_image_at": NOW.isoformat(),
        **changes,
    }


@pytest.fixture
def tell(token: str, client):
    """Tell as a receiver does; ``changes`` replace what it tells."""

    def _tell(*waiting: dict[str, Any], **changes: Any):
        told = {
            "host": "reception",
            "alarms": [],
            "awaited": list(waiting),
            "awaited_total": len(waiting),
            **changes,
        }
        return client.post(
            "/api/v1/bulletins",
            told,
            content_type="application/json",
            headers={"authorization": f"Bearer {token}"},
        )

    return _tell


def worklist(browser) -> str:
    return browser.get("/").content.decode()


def test_nothing_is_said_of_receivers_where_none_ever_told_anything(browser):
    text = worklist(browser)
    assert "received" not in text.partition('id="board"')[2].partition('id="news"')[0]


def test_a_study_without_a_result_is_listed_with_its_accession_number_and_state(browser, tell):
    assert tell(awaited(1), awaited(2, state="receiving")).status_code == 200
    text = worklist(browser)
    assert "2 received without a result" in text
    assert '<details class="waiting-list card" open>' in text
    assert "A1" in text
    assert "Waiting for the model" in text
    assert "Arriving" in text
    assert "late" not in text.partition("<details")[2].partition("</details>")[0]


def test_what_is_told_takes_the_place_of_what_was_told(browser, tell):
    tell(awaited(1))
    tell()
    assert "Everything that was received has a result" in worklist(browser)


def test_a_result_that_came_meanwhile_is_not_awaited(browser, tell, post):
    tell(awaited(1))
    assert post(samples.result(1)).status_code == 201
    assert "without a result" not in worklist(browser)


def test_images_that_came_later_are_told_on_the_list_and_beside_the_result(browser, tell, post):
    assert post(samples.result(1, positive=())).status_code == 201
    tell(awaited(1, revision=2, images=31))
    assert "the result without these images" in worklist(browser)
    from web.results.models import Study

    page = f"/studies/{Study.objects.get().key}/"
    assert "what is said here does not know them" in browser.get(page).content.decode()
    tell()
    assert "does not know them" not in browser.get(page).content.decode()


def test_a_positive_whose_result_is_stuck_on_its_way_stands_first(browser, tell):
    early = (NOW - timedelta(minutes=5)).isoformat()
    tell(
        awaited(1, received_at=early),
        awaited(2, state="predicted", outcome=Outcome.POSITIVE.value),
    )
    board = worklist(browser).partition("<details")[2]
    assert board.index("A2") < board.index("A1")
    assert 'class="badge positive"' in board


def test_a_study_that_waits_for_too_long_is_late(browser, tell):
    tell(awaited(1, last_image_at=(NOW - timedelta(minutes=16)).isoformat()))
    text = worklist(browser)
    assert "<b>1 late</b>" in text


def test_alarms_are_shown_to_who_sees_operations_and_to_nobody_else(browser, reader, tell):
    text = "no worker has given a sign of life"
    tell(alarms=[{"kind": "missing", "about": "worker", "text": text}])
    assert text not in worklist(browser)
    reader.is_staff = True
    reader.save()
    assert text in worklist(browser)


def test_everybody_is_told_of_a_receiver_that_fell_silent(browser, tell):
    from web.results.models import Bulletin

    tell()
    before = browser.get("/", headers={"x-limen-poll": "1"})
    Bulletin.objects.update(told_at=NOW - timedelta(minutes=3))
    text = worklist(browser)
    assert "The receiver on reception has told nothing since" in text
    assert "Everything that was received" not in text
    # A page that is open learns of it too, though nothing new was told.
    asked = {"x-limen-poll": "1", "if-none-match": before.headers["ETag"]}
    assert "has told nothing" in browser.get("/", headers=asked).content.decode()
    Bulletin.objects.update(told_at=NOW - timedelta(days=8))
    assert "has told nothing" not in worklist(browser)


def test_a_host_that_a_node_no_longer_has_is_no_silence(browser, tell):
    from web.results.models import Bulletin

    tell(awaited(1), host="the one before")
    Bulletin.objects.update(told_at=NOW - timedelta(minutes=3))
    tell()
    assert "Everything that was received has a result" in worklist(browser)


def test_an_open_page_hears_what_is_told_and_nothing_while_it_stays_so(browser, tell):
    first = browser.get("/", headers={"x-limen-poll": "1"})
    tell(awaited(1))
    asked = {"x-limen-poll": "1", "if-none-match": first.headers["ETag"]}
    second = browser.get("/", headers=asked)
    assert "1 received without a result" in second.content.decode()
    tell(awaited(1))
    asked["if-none-match"] = second.headers["ETag"]
    assert browser.get("/", headers=asked).status_code == 304


@pytest.mark.parametrize(
    "changes",
    [{"host": ""}, {"awaited": [{}]}, {"awaited_total": -1}, {"alarms": [{"kind": "x"}] * 501}],
    ids=["no host", "a study without anything", "fewer than none", "too many alarms"],
)
def test_what_no_receiver_tells_is_refused(tell, changes):
    assert tell(**changes).status_code == 422


def test_only_a_node_tells(client, browser):
    assert client.post("/api/v1/bulletins", {}, content_type="application/json").status_code in {
        401,
        403,
    }


def test_whoever_asks_whether_all_is_well_is_told_what_is_not_without_a_name(client, tell):
    from web.results.models import Bulletin

    assert client.get("/readyz").json() == {"status": "ok", "database": "ok", "reasons": {}}
    text = "worker 0a1b2c3d on ct-host: dead or cut off"
    alarms = [{"kind": "missing", "about": str(n), "text": text} for n in range(2)]
    tell(alarms=[*alarms, {"kind": "broker", "about": "broker", "text": "x"}])
    tell(alarms=alarms, host="another")  # of the same journal
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "unwell"
    assert answer.json()["reasons"] == {"broker": 1, "missing": 2}
    assert "ct-host" not in answer.content.decode()
    Bulletin.objects.update(told_at=NOW - timedelta(minutes=3))
    assert client.get("/readyz").json()["reasons"] == {"silent": 1}
