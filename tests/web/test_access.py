"""Who may do what; logging in; headers; error pages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from uuid import uuid4

import pytest

from limen.result import Outcome
from tests.support.headers import header
from tests.support.logs import logging_put_back
from tests.web import samples
from worker.study import age
from worker.study.rows import Members

pytestmark = pytest.mark.django_db
UID = samples.study().study_uid
SOP = samples.result().images[0].sop_uid
LOGIN = "/login/"


def study_key_of(number: int) -> str:
    from web.results.models import study_key

    return study_key(samples.study(number).study_uid)


@pytest.fixture
def key(post) -> str:
    assert post(samples.result()).status_code == 201
    return study_key_of(1)


WHO = ("nobody", "reader", "admin", "integrator", "node", "read", "masked", "metrics")
ACCOUNTS = ("reader", "admin", "integrator")
PAGE = (302, 200, 200, 200, 302, 302, 302, 302)
FOR_READERS = (302, 200, 200, 403, 302, 302, 302, 302)
FOR_ALL = (200,) * 8
BY_NODES = (401, 403, 403, 403, 422, 403, 403, 403)
# Address, and the form that goes there: what each of WHO is answered.
MATRIX = {
    ("GET", "/"): PAGE,
    ("GET", "/?q=Doe"): FOR_READERS,
    ("GET", "/?date=2026-03-09"): FOR_READERS,
    ("GET", "/studies/{key}/"): PAGE,
    ("GET", "/studies/{key}/images/{sha256}"): FOR_READERS,
    ("GET", "/studies/{key}/state"): PAGE,
    ("POST", "/studies/{key}/feedback"): (302, 422, 422, 403, 302, 302, 302, 302),
    ("POST", "/studies/{key}/note"): (302, 422, 422, 403, 302, 302, 302, 302),
    ("GET", "/operations/"): (302, 403, 200, 200, 302, 302, 302, 302),
    ("POST", "/operations/order"): (302, 403, 404, 404, 302, 302, 302, 302),
    ("POST", "/operations/order action=retry"): (302, 403, 404, 404, 302, 302, 302, 302),
    ("POST", "/operations/order action=discard"): (302, 403, 404, 403, 302, 302, 302, 302),
    ("GET", "/models/"): PAGE,
    ("GET", "/audit/"): (302, 403, 200, 403, 302, 302, 302, 302),
    ("GET", "/password/"): PAGE,
    ("POST", "/password/"): (302, 422, 422, 422, 302, 302, 302, 302),
    ("POST", "/logout/"): (302,) * 8,
    ("GET", "/login/"): (200, 302, 302, 302, 200, 200, 200, 200),
    ("POST", "/login/"): FOR_ALL,
    ("GET", "/login/x/"): (410, 302, 302, 302, 410, 410, 410, 410),
    ("POST", "/login/x/"): (410, 302, 302, 302, 410, 410, 410, 410),
    ("GET", "/healthz"): FOR_ALL,
    ("GET", "/readyz"): FOR_ALL,
    ("GET", "/static/results/app.css"): FOR_ALL,
    ("GET", "/metrics"): (401, 200, 200, 200, 403, 403, 403, 200),
    ("GET", "/api/v1/schema"): (401, 200, 200, 200, 200, 200, 200, 200),
    ("GET", "/api/v1/studies"): (401, 200, 200, 200, 403, 200, 200, 403),
    ("GET", "/api/v1/studies?q=Doe"): (401, 200, 200, 403, 403, 200, 403, 403),
    ("GET", "/api/v1/studies/{uid}"): (401, 200, 200, 200, 403, 200, 200, 403),
    ("GET", "/api/v1/studies/{uid}/images/{sop}/original"): (
        401, 200, 200, 403, 403, 200, 403, 403,
    ),
    ("POST", "/api/v1/results"): BY_NODES,
    ("POST", "/api/v1/deliveries"): BY_NODES,
    ("POST", "/api/v1/bulletins"): BY_NODES,
    ("POST", "/api/v1/studies/{uid}/feedback"): (401, 422, 422, 403, 403, 403, 403, 403),
}  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE")


@pytest.fixture
def everybody(db, token, key):
    """Return how each of WHO asks: method and address to answer."""
    from django.contrib.auth.models import User
    from django.test import Client

    from web.results import roles, tokens
    from web.results.models import RenderedImage

    sha256 = RenderedImage.objects.first().sha256

    def ask(who: str, method: str, address: str):
        client, headers = Client(), {}
        if who in ACCOUNTS:
            user, _ = User.objects.get_or_create(username=who, defaults={"password": "!"})
            roles.assign(user, roles.Role(who))
            client.force_login(user)
        elif who != "nobody":
            one = token if who == "node" else tokens.issue(f"{who}-{uuid4().hex}", who, 1)[0]
            headers["authorization"] = f"Bearer {one}"
        target, _, form = address.format(key=key, sha256=sha256, uid=UID, sop=SOP).partition(" ")
        body, kind = b"{}", "application/json"
        if form:
            body, kind = form.encode(), "application/x-www-form-urlencoded"
        elif target.endswith("/results"):
            body, kind = b"--x--\r\n", "multipart/form-data; boundary=x"
        answer = client.generic(method, target, body, kind, headers=headers)
        if hasattr(answer, "streaming_content"):
            answer.close()
        return answer

    return ask


@pytest.mark.parametrize(("method", "address"), MATRIX)
def test_each_address_is_open_to_those_it_is_for(everybody, method, address):
    answers = {who: everybody(who, method, address) for who in WHO}
    assert tuple(answer.status_code for answer in answers.values()) == MATRIX[method, address]
    for who, answer in answers.items():
        if answer.status_code == 403 and address.startswith("/api/"):
            said = answer.json()
            assert said["id"] == answer.headers["X-Request-ID"]
            assert said["detail"].startswith(("this token has the scope", "only a")), who


@pytest.mark.parametrize("method", METHODS)
def test_no_address_takes_a_method_that_it_is_not_for(everybody, method):
    """Neither data nor a deed for anybody: a login, a refusal, or "method not allowed"."""
    like = {"HEAD": "GET"}.get(method, method)
    addresses = {address for _, address in MATRIX if (like, address) not in MATRIX}
    for address in addresses:
        for who in WHO:
            status = everybody(who, method, address).status_code
            assert status in {302, 401, 403, 405}, (who, address, status)
            assert status != 302 or who not in ACCOUNTS, (who, address)


def test_every_address_of_the_server_is_in_the_matrix():
    from web.urls import urlpatterns

    named = {re.sub(r"\{\w+\}", "<>", re.split("[? ]", a)[0]).lstrip("/") for _, a in MATRIX}
    routes = {re.sub(r"<[^>]+>", "<>", str(p.pattern)) for p in urlpatterns}
    known = {n.replace("images/<>/original", "images/<>/<>").replace("/x/", "/<>/") for n in named}
    assert routes - known == set()


def test_an_integrator_sees_results_and_nothing_of_the_patient(
    everybody, post, client, django_user_model
):
    from web.results import roles

    for document in samples.pair(2, received="2026-03-09T08:21:00Z"):
        assert post(document).status_code == 201
    born = header(1, patient_age="003M", series_number=4, series_description="CCT (Doe, Jane)")
    other = replace(born, series_number=None)
    series = [Members("1", (one,), (), ()).name for one in (born, other)]
    reason = "; ".join([
        f"{series[0]} is left out by its header, but its pixels show a head",
        "a gap of 12 mm", f"{series[1]} is left out", *age.doubts([born], 18),
        "2 patients in one study: P00001, P00002",
    ])  # fmt: skip
    partial = samples.result(3, outcome=Outcome.PARTIAL, reason=reason)
    assert post(partial).status_code == 201
    reader = django_user_model.objects.create_user("rita")
    key = study_key_of(3)
    client.force_login(reader)
    client.post(f"/studies/{key}/note", {"note": "as told to Mrs Doe", "version": "0"})
    client.post(f"/studies/{key}/feedback", {"verdict": "agree", "revision": "1"})
    study = samples.study()
    private = [
        "Doe", "A00000", "P0000", study.description, "2026-03-09 08:15", "1951",
        study.referring_institution, "Mrs Doe", "rita", "Head 5.0", "CCT", "3 months", "/images/",
        "1.2.826",
    ]  # fmt: skip
    for number in (2, 3):
        assert "Doe" in client.get(f"/studies/{study_key_of(number)}/").content.decode()
    roles.assign(reader, roles.Role.INTEGRATOR)
    client.force_login(django_user_model.objects.create_user("ivo", is_staff=True))
    addresses = ["/", *(f"/studies/{study_key_of(number)}/" for number in (2, 3))]
    for address in addresses:
        text = client.get(address).content.decode()
        assert "Positive" in text
        assert [value for value in private if value in text] == [], address
    for kept in ("series 4 is left out by", "a gap of 12 mm; series is left out; ", "is younger,"):
        assert kept in text
    poll = client.get("/", headers={"x-limen-poll": "1"}).content.decode()
    told = [client.get(f"/api/v1/studies{n}").content.decode() for n in ("", f"/{UID[:-1]}3")]
    for text in (poll, *told):
        assert "partial" in text.lower()
        assert [value for value in private[:-1] if value in text] == []


def test_why_somebody_asked_for_something_is_told_to_who_may_read_of_patients(
    client, token, django_user_model
):
    """Who writes a reason may name a patient in it."""
    from django.utils import timezone

    from web.results.models import Bulletin, Node, Order

    now, node = timezone.now(), Node.objects.get()
    Bulletin.objects.create(node=node, host="node1", alarms=[], awaited=[], awaited_total=0,
                            operations={}, digest="", told_at=now)  # fmt: skip
    for key, who in (("a", "ada"), ("b", "ivo")):
        Order.objects.create(node=node, host="node1", action="retry", key=key, who=who,
                             reason=f"of Mrs Doe, says {who}", asked_at=now)  # fmt: skip
    client.force_login(django_user_model.objects.create_user("ivo", is_staff=True))
    masked = client.get("/operations/").content.decode()
    assert "says ivo" in masked
    assert "says ada" not in masked
    assert "ada: retry <code>a</code>" in masked
    client.force_login(django_user_model.objects.create_superuser("ada"))
    assert "says ivo" in client.get("/operations/").content.decode()


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

    def fail(*_: object, **__: object) -> None:
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
