"""The API as a program reads it: what changed, page by page; what it does not know it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.utils import timezone

from tests.web import samples

pytestmark = pytest.mark.django_db
STUDIES = "/api/v1/studies"
UID = samples.study(1).study_uid


def stored(post, *numbers: int) -> None:
    """Post studies that changed a minute ago, one a second."""
    from web.results.models import Study

    for number in numbers:
        assert post(samples.result(number)).status_code == 201
        at = timezone.now() - timedelta(seconds=60 - number)
        Study.objects.filter(study_uid=samples.study(number).study_uid).update(changed_at=at)


def follow(browser, address: str) -> dict[str, Any]:
    parts = urlsplit(address)
    answer = browser.get(f"{parts.path}?{parts.query}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def uids(page: dict[str, Any]) -> list[str]:
    return [row["study_uid"] for row in page["results"]]


def study_uids(*numbers: int) -> list[str]:
    return [samples.study(number).study_uid for number in numbers]


SINCE = f"{STUDIES}?changed_since=2026-01-01T00:00:00Z"


def test_what_changed_is_told_in_order_page_by_page_until_there_is_no_more(browser, post):
    stored(post, 1, 2, 3)
    first = follow(browser, f"{SINCE}&page_size=2")
    assert (uids(first), first["more"]) == (study_uids(1, 2), True)
    second = follow(browser, first["next"])
    assert (uids(second), second["more"]) == (study_uids(3), False)
    third = follow(browser, second["next"])
    assert (uids(third), third["more"]) == ([], False)
    stored(post, 4)
    assert uids(follow(browser, third["next"])) == study_uids(4)


def test_a_study_that_changes_between_two_pages_is_not_missed(browser, post):
    from web.results.models import Study

    stored(post, 1, 2, 3, 4)
    first = follow(browser, f"{SINCE}&page_size=2")
    again = Study.objects.filter(study_uid__in=study_uids(1, 4))
    again.update(changed_at=timezone.now() - timedelta(seconds=10))
    second = follow(browser, first["next"])
    third = follow(browser, second["next"])
    assert sorted(uids(second) + uids(third)) == sorted(study_uids(1, 3, 4))


def test_studies_of_one_moment_are_each_told_once(browser, post):
    from web.results.models import Study

    stored(post, 1, 2, 3)
    Study.objects.update(changed_at=timezone.now() - timedelta(seconds=10))
    page, found = follow(browser, f"{SINCE}&page_size=1"), []
    while page["results"]:
        found += uids(page)
        page = follow(browser, page["next"])
    assert sorted(found) == sorted(study_uids(1, 2, 3))


def test_a_change_is_told_when_none_before_it_can_still_come(browser, post):
    assert post(samples.result(1)).status_code == 201
    page = follow(browser, SINCE)
    assert page["results"] == []
    stored(post, 2)
    assert uids(follow(browser, page["next"])) == study_uids(2)


def test_a_vote_is_a_change_and_filters_go_along(browser, post):
    stored(post, 1)
    since = (datetime.now(UTC) - timedelta(seconds=5)).isoformat().replace("+00:00", "Z")
    page = follow(browser, f"{STUDIES}?changed_since={since}&outcome=positive&page_size=7")
    assert page["results"] == []
    assert "outcome=positive" in page["next"]
    assert "page_size=7" in page["next"]
    vote = browser.post(f"{STUDIES}/{UID}/feedback", {"verdict": "agree"}, "application/json")
    assert vote.status_code == 201
    from web.results.models import Study

    assert Study.objects.get(study_uid=UID).changed_at.isoformat() > since


@pytest.mark.parametrize(
    ("query", "name", "told"),
    [
        ("outcom=positive", "query", "known: outcome, modality, tests, q, changed_since, cursor"),
        (
            "outcome=bad",
            "outcome",
            "known: positive, undetermined, partial, not_analysed",
        ),
        ("outcome=positive&outcome=negative", "outcome", "given twice"),
        ("outcome=", "outcome", "is empty; leave it out"),
        ("q=", "q", "is empty; leave it out"),
        ("tests=yes", "tests", "known: 0, 1"),
        ("modality=" + "x" * 17, "modality", "takes 16 characters"),
        ("q=" + "x" * 201, "q", "takes 200 characters"),
        ("page=0", "page", "a whole number is wanted"),
        ("page_size=501", "page_size", "1 to 500"),
        ("page_size=-1", "page_size", "1 to 500"),
        ("changed_since=yesterday", "changed_since", "RFC 3339"),
        ("changed_since=2026-01-02", "changed_since", "RFC 3339"),
        ("changed_since=2026-01-02T03:04:05", "changed_since", "RFC 3339"),
        ("changed_since=2026-01-02T03:04:05+01:00", "changed_since", "a + is written %2B"),
        ("changed_since=0001-01-01T00:00:00%2B14:00", "changed_since", "RFC 3339"),
        ("changed_since=2026-13-02T03:04:05Z", "changed_since", "RFC 3339"),
        ("cursor=1", "cursor", "none that this server gave"),
        ("cursor=999999999999999999.1", "cursor", "none that this server gave"),
        ("cursor=1.1&changed_since=2026-01-02T03:04:05Z", "cursor", "without changed_since"),
        ("cursor=1.1&page=2", "page", "follow cursor"),
    ],
)
def test_what_a_list_does_not_know_is_refused_with_what_it_knows(browser, query, name, told):
    answer = browser.get(f"{STUDIES}?{query}")
    assert answer.status_code == 400
    assert told in answer.json()[name][0]


@pytest.mark.parametrize("address", ["{}?version=1", "{}?revision=0", "{}/images/1.2/original?x=1"])
def test_what_a_study_does_not_know_is_refused_too(browser, post, address):
    stored(post, 1)
    assert browser.get(address.format(f"{STUDIES}/{UID}")).status_code == 400


def test_the_description_names_every_word_that_a_list_takes(browser):
    from drf_spectacular.generators import SchemaGenerator

    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    words = {one["name"] for one in paths[STUDIES]["get"]["parameters"]}
    refused = browser.get(f"{STUDIES}?x=1").json()["query"][0]
    assert set(refused.partition("known: ")[2].split(", ")) == words
