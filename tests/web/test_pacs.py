"""How results stand in a PACS: told by a node, shown on the page, with a link to the viewer."""

from __future__ import annotations

import json

import pytest
from django.test import Client

from tests.web import samples

pytestmark = pytest.mark.django_db


@pytest.fixture
def tell(token: str):
    def _tell(**more):
        body = {
            "study_uid": samples.result().study.study_uid,
            "revision": 1,
            "phase": "prediction",
            "destination": "main-pacs",
            "state": "sent",
            "reason": "",
            "objects": [],
            **more,
        }
        headers = {"authorization": f"Bearer {token}"}
        return Client().post(
            "/api/v1/deliveries", json.dumps(body), "application/json", headers=headers
        )

    return _tell


def page(browser) -> str:
    from web.results.models import study_key

    key = study_key(samples.result().study.study_uid)
    return browser.get(f"/studies/{key}/").content.decode()


def one(kind: str, state: str, reason: str = "") -> dict[str, str]:
    return {"kind": kind, "state": state, "reason": reason}


def test_the_page_says_what_the_pacs_has_and_what_it_refused_and_why(post, tell, browser):
    assert post(samples.result()).status_code == 201
    assert "In the PACS" not in page(browser)
    objects = [
        one("sr", "sent"),
        one("sc", "sent"),
        one("sc", "sent"),
        one("pm", "refused", "0xA900, <b>no</b>"),
    ]
    assert tell(objects=objects).status_code == 200
    text = page(browser)
    for words in (
        "In the PACS", "main-pacs", "sent, not yet vouched for: report, secondary capture (2)",
        "refused: saliency map: 0xA900, &lt;b&gt;no&lt;/b&gt;",
    ):  # fmt: skip
        assert words in text


def test_what_is_told_last_stands(post, tell, browser):
    assert tell().status_code == 200  # before the result itself has arrived
    assert post(samples.result()).status_code == 201
    assert tell(state="committed", objects=[one("sr", "committed")]).status_code == 200
    text = page(browser)
    assert "committed: report" in text
    assert "vouched" not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"study_uid": "no uid"},
        {"revision": 0},
        {"phase": "other"},
        {"destination": "Main PACS"},
        {"objects": [{"kind": "dose", "state": "sent", "reason": ""}]},
        {"objects": "none"},
    ],
)
def test_what_is_told_amiss_is_refused_with_its_name(tell, wrong):
    answer = tell(**wrong)
    assert answer.status_code == 422
    assert list(wrong) == list(answer.json()["errors"])


def test_the_page_leads_to_the_viewer_where_there_is_one(post, browser, settings):
    assert post(samples.result()).status_code == 201
    settings.VIEWER_URL = "https://pacs.example.org/viewer?StudyInstanceUIDs={study_uid}"
    uid = samples.result().study.study_uid
    assert f'href="https://pacs.example.org/viewer?StudyInstanceUIDs={uid}"' in page(browser)
