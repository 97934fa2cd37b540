"""Who may do what; logging in; headers; error pages."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.logs import logging_put_back
from tests.web import samples

pytestmark = pytest.mark.django_db
UID = samples.study().study_uid
SOP = samples.result().images[0].sop_uid
LOGIN = "/login/"


@pytest.fixture
def key(post) -> str:
    from web.results.models import study_key

    assert post(samples.result()).status_code == 201
    return study_key(UID)


WHO = ("nobody", "reader", "node", "read", "masked", "metrics")
# address: what each of WHO is answered
MATRIX = {
    ("GET", "/"): (302, 200, 302, 302, 302, 302),
    ("GET", "/studies/{key}/"): (302, 200, 302, 302, 302, 302),
    ("GET", "/studies/{key}/images/{sha256}"): (302, 200, 302, 302, 302, 302),
    ("POST", "/studies/{key}/feedback"): (302, 422, 302, 302, 302, 302),
    ("POST", "/studies/{key}/note"): (302, 422, 302, 302, 302, 302),
    ("GET", "/studies/{key}/state"): (302, 200, 302, 302, 302, 302),
    ("GET", "/audit/"): (302, 403, 302, 302, 302, 302),
    ("GET", "/password/"): (302, 200, 302, 302, 302, 302),
    ("POST", "/logout/"): (302, 302, 302, 302, 302, 302),
    ("GET", "/login/"): (200, 302, 200, 200, 200, 200),
    ("GET", "/healthz"): (200, 200, 200, 200, 200, 200),
    ("GET", "/readyz"): (200, 200, 200, 200, 200, 200),
    ("GET", "/static/results/app.css"): (200, 200, 200, 200, 200, 200),
    ("GET", "/metrics"): (401, 200, 403, 403, 403, 200),
    ("GET", "/api/v1/schema"): (401, 200, 200, 200, 200, 200),
    ("GET", "/api/v1/studies"): (401, 200, 403, 200, 200, 403),
    ("GET", "/api/v1/studies/{uid}"): (401, 200, 403, 200, 200, 403),
    ("GET", "/api/v1/studies/{uid}/images/{sop}/original"): (401, 200, 403, 200, 403, 403),
    ("POST", "/api/v1/results"): (401, 403, 422, 403, 403, 403),
    ("POST", "/api/v1/deliveries"): (401, 403, 422, 403, 403, 403),
    ("POST", "/api/v1/bulletins"): (401, 403, 422, 403, 403, 403),
    ("POST", "/api/v1/studies/{uid}/feedback"): (401, 422, 403, 403, 403, 403),
}


@pytest.mark.parametrize(("method", "address"), MATRIX)
@pytest.mark.parametrize("who", WHO)
def test_each_address_is_open_to_those_it_is_for(client, reader, token, key, who, method, address):
    from web.results import tokens
    from web.results.models import RenderedImage

    sha256 = RenderedImage.objects.first().sha256
    headers = {}
    if who == "reader":
        client.force_login(reader)
    elif who == "node":
        headers["authorization"] = f"Bearer {token}"
    elif who != "nobody":
        headers["authorization"] = f"Bearer {tokens.issue('c', who, 1)[0]}"
    target = address.format(key=key, sha256=sha256, uid=UID, sop=SOP)
    if target.endswith("/results"):
        body, kind = b"--x--\r\n", "multipart/form-data; boundary=x"
    else:
        body, kind = b"{}", "application/json"
    answer = client.generic(method, target, body, kind, headers=headers)
    assert answer.status_code == MATRIX[method, address][WHO.index(who)]
    if answer.status_code == 403 and target.startswith("/api/"):
        said = answer.json()
        assert said["id"] == answer.headers["X-Request-ID"]
        assert said["detail"].startswith(("this token has the scope", "only a"))
    if hasattr(answer, "streaming_content"):
        answer.close()


def test_every_address_of_the_server_is_in_the_matrix_or_tested_elsewhere():
    from web.urls import urlpatterns

    named = {re.sub(r"\{\w+\}", "<>", a).lstrip("/") for _, a in MATRIX}
    routes = {re.sub(r"<[^>]+>", "<>", str(p.pattern)) for p in urlpatterns}
    known = {n.replace("images/<>/original", "images/<>/<>") for n in named}
    assert routes - known == {"login/<>/"}


def test_a_vote_by_session_needs_the_csrf_token(reader, key):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(reader)
    for address in (f"/studies/{key}/feedback", f"/api/v1/studies/{UID}/feedback"):
        assert client.post(address, {"verdict": "agree", "revision": "1"}).status_code == 403


def test_a_vote_by_the_api_counts_for_the_latest_revision(browser, key):
    answer = browser.post(
        f"/api/v1/studies/{UID}/feedback",
        {"verdict": "agree", "note": "sure"},
        content_type="application/json",
    )
    assert answer.status_code == 201
    assert answer.json()["reader"] == "rita"
    detail = browser.get(f"/api/v1/studies/{UID}").json()
    assert [(v["verdict"], v["revision"]) for v in detail["feedback"]] == [("agree", 1)]


def test_the_list_of_studies_is_paged_and_filtered(browser, post):
    for number in (1, 2, 3):
        assert post(samples.result(number, positive=(1,) if number == 1 else ())).status_code == 201
    page = browser.get("/api/v1/studies", {"page_size": 2}).json()
    assert (page["count"], len(page["results"])) == (3, 2)
    positive = browser.get("/api/v1/studies", {"outcome": "positive"}).json()["results"]
    assert [s["study_uid"] for s in positive] == [UID]
    assert positive[0]["probability"] == pytest.approx(0.92)


def test_the_api_gives_back_the_document_that_was_posted(browser, key):
    import json

    got = browser.get(f"/api/v1/studies/{UID}").json()["documents"]["prediction"]
    assert got == json.loads(samples.result().to_json())
    assert browser.get(f"/api/v1/studies/{UID}", {"revision": 7}).status_code == 404
    assert browser.get(f"/api/v1/studies/{UID}", {"revision": "x"}).status_code == 400


def test_the_api_describes_itself_without_warnings(browser, capsys):
    from django.core.management import call_command

    call_command("spectacular", validate=True, fail_on_warn=True, file="/dev/null")
    text = browser.get("/api/v1/schema").content.decode()
    assert "/api/v1/results" in text
    assert "WARNING" not in capsys.readouterr().err.upper()


def test_every_answer_has_the_headers_that_protect_it(browser, key):
    for address in ("/", f"/studies/{key}/", "/api/v1/studies", "/nowhere"):
        headers = browser.get(address).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "private, no-store"


def test_templates_hold_no_inline_script_and_no_inline_style():
    from pathlib import Path

    import web.results

    folder = Path(web.results.__file__).parent / "templates"
    for file in folder.rglob("*.html"):
        text = file.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), file
        assert not re.search(r"\s(style|on[a-z]+)=", text), file


def test_a_page_that_is_not_there_shows_an_id_to_quote(browser):
    answer = browser.get("/nowhere")
    assert answer.status_code == 404
    assert answer.headers["X-Request-ID"] in answer.content.decode()


def test_a_failure_shows_the_id_that_the_log_has_and_neither_holds_phi(
    client, reader, monkeypatch, key
):
    from web import logs
    from web.results import pages

    def fail(*_: object) -> None:
        raise RuntimeError(samples.study().patient_name)

    monkeypatch.setattr(pages.revision, "read", fail)
    client.raise_request_exception = False
    client.force_login(reader)
    with logging_put_back(monkeypatch) as told:
        logs.configure({"level": "info", "format": "json"})
        answer = client.get(f"/studies/{key}/?q=Doe")
    (line,) = told.getvalue().splitlines()
    said = json.loads(line)
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] in answer.content.decode()
    assert (said["event"], said["error"]) == ("request.failed", "RuntimeError")
    assert said["id"] == answer.headers["X-Request-ID"]
    assert (said["route"], said["status"]) == ("studies/<key:key>/", 500)
    assert "Doe" not in line + answer.content.decode()


def test_metrics_count_what_was_posted(browser, key):
    text = browser.get("/metrics").content.decode()
    assert 'limen_web_results_total{status="201"}' in text
    assert 'limen_web_studies{outcome="positive"} 1.0' in text
    assert UID not in text


# ---- logging in ------------------------------------------------------------


def test_a_reader_logs_in_and_comes_back_to_where_the_login_began(client, reader):
    asked = client.get("/?outcome=positive")
    assert asked.headers["Location"] == "/login/?next=/%3Foutcome%3Dpositive"
    form = {"username": "rita", "password": "a reading room", "next": "/?outcome=positive"}
    assert client.post(LOGIN, form).headers["Location"] == "/?outcome=positive"
    assert client.get("/").status_code == 200
    assert client.post("/logout/").headers["Location"] == LOGIN
    assert client.get("/").status_code == 302


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_a_login_leads_nowhere_else(client, reader, target):
    form = {"username": "rita", "password": "a reading room", "next": target}
    assert client.post(LOGIN, form).headers["Location"] == "/"


def test_an_account_closes_after_ten_wrong_passwords_and_opens_again(client, reader, settings):
    wrong = {"username": "Rita", "password": "guess"}
    right = {"username": "rita", "password": "a reading room"}
    for _ in range(10):
        assert client.post(LOGIN, wrong).status_code == 200
    assert client.post(LOGIN, right).status_code == 429
    assert client.get("/").status_code == 302
    settings.LOCKOUT_MINUTES = -1  # the window has passed
    assert client.post(LOGIN, right).status_code == 302


def test_a_right_password_forgets_the_wrong_ones(client, reader):
    wrong = {"username": "rita", "password": "guess"}
    for _ in range(2):
        for _ in range(9):
            client.post(LOGIN, wrong)
        answer = client.post(LOGIN, {**wrong, "password": "a reading room"})
        assert answer.status_code == 302
        client.post("/logout/")


def test_an_account_that_does_not_exist_closes_the_same_way(client, db):
    for _ in range(10):
        assert client.post(LOGIN, {"username": "nobody", "password": "x"}).status_code == 200
    assert client.post(LOGIN, {"username": "nobody", "password": "x"}).status_code == 429


def test_a_login_link_works_once(client, reader):
    from django.test import Client

    from web.results import links

    address = links.create(reader).removeprefix("http://127.0.0.1:8642")
    assert client.head(address).status_code == 405
    assert "Log in as rita" in client.get(address).content.decode()
    assert client.get("/").status_code == 302, "looking at a link is no login"
    assert client.post(address).headers["Location"] == "/"
    assert client.get("/").status_code == 200
    second = Client().get(address)
    assert (second.status_code, Client().post(address).status_code) == (410, 410)
    assert "no longer good" in second.content.decode()


def test_a_login_link_is_good_for_a_day(client, reader):
    from datetime import timedelta

    from django.utils import timezone

    from web.results import links
    from web.results.models import LoginLink

    address = links.create(reader).removeprefix("http://127.0.0.1:8642")
    LoginLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert (client.get(address).status_code, client.post(address).status_code) == (410, 410)


@pytest.mark.parametrize("token", ["x", "a:b:c", "%00", "é"])
def test_a_login_link_that_was_never_given_out_is_not_good(client, db, token):
    assert client.get(f"/login/{token}/").status_code == 410
    assert client.post(f"/login/{token}/").status_code == 410


def test_a_link_of_a_closed_account_is_not_good(client, reader):
    from web.results import links

    address = links.create(reader).removeprefix("http://127.0.0.1:8642")
    reader.is_active = False
    reader.save()
    assert (client.get(address).status_code, client.post(address).status_code) == (410, 410)


def test_who_comes_by_link_without_a_password_is_asked_to_set_one(client, db):
    from django.contrib.auth.models import User

    from web.results import links

    user = User.objects.create_user("new", password=None)
    address = links.create(user).removeprefix("http://127.0.0.1:8642")
    assert client.post(address).headers["Location"] == "/password/"
    short = client.post("/password/", {"new": "short", "again": "short"})
    assert short.status_code == 422
    good = {"new": "a much longer one", "again": "a much longer one"}
    assert client.post("/password/", {**good, "again": "other"}).status_code == 422
    assert client.post("/password/", good).status_code == 302
    assert client.get("/").status_code == 200
    user.refresh_from_db()
    assert user.check_password("a much longer one")


def test_a_password_is_changed_only_by_who_knows_it(browser, reader):
    new = {"new": "a much longer one", "again": "a much longer one"}
    assert browser.post("/password/", {**new, "old": "guess"}).status_code == 422
    assert browser.post("/password/", {**new, "old": "a reading room"}).status_code == 302


def test_no_secret_is_kept_in_the_database(reader, token):
    from web.results import links
    from web.results.models import LoginLink, Node

    address = links.create(reader)
    assert LoginLink.objects.get().token_sha256 not in address
    assert Node.objects.get().token_sha256 != token
