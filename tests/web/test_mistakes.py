"""What a browser or a script sends by mistake: refused with the reason, or answered right."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest

from tests.web import samples

pytestmark = pytest.mark.django_db
STUDIES = "/api/v1/studies"
UID = samples.study().study_uid
IMAGE = f"{STUDIES}/{UID}/images/{samples.result().images[0].sop_uid}/original"


@pytest.fixture
def key(post) -> str:
    from web.results.models import study_key

    assert post(samples.result()).status_code == 201
    return study_key(UID)


@pytest.fixture
def admin(client, django_user_model):
    client.force_login(django_user_model.objects.create_superuser("ada"))
    return client


def text_of(answer) -> str:
    if answer.streaming:
        answer.close()
        return ""
    return answer.content.decode()


@pytest.mark.parametrize("address", ["/", STUDIES, "/audit/", "/login/"])
@pytest.mark.parametrize("query", ["q=%ff", "q=M\xfcller", "q=%ED%A0%80", "%fe=1", "q=%C3"])
def test_an_address_that_is_no_utf_8_is_refused_and_not_read_as_something_else(
    admin, key, address, query
):
    answer = admin.get(address, QUERY_STRING=query)
    assert answer.status_code == 400
    assert "not UTF-8" in text_of(answer)


def test_the_next_page_of_what_was_not_escaped_is_of_the_same_name(admin, post):
    """curl sends the bytes of a terminal as they are."""
    for number in (1, 2):
        assert post(samples.result(number, patient_name="Müller^김")).status_code == 201
    raw = f"q={'müller 김'.encode().decode('latin-1')}&page_size=1"
    first = admin.get(STUDIES, QUERY_STRING=raw).json()
    assert quote("müller", safe="") in first["next"]
    second = admin.get(STUDIES, QUERY_STRING=urlsplit(first["next"]).query).json()
    assert (second["count"], second["next"]) == (2, None)
    assert {row["study_uid"] for row in first["results"] + second["results"]} == {
        samples.study(number).study_uid for number in (1, 2)
    }


def test_a_page_that_there_is_not_says_which_is_the_last(admin, post):
    for number in (1, 2, 3):
        assert post(samples.result(number)).status_code == 201
    last = admin.get(f"{STUDIES}?page=2&page_size=2").json()
    assert (len(last["results"]), last["next"]) == (1, None)
    assert last["previous"].endswith(f"{STUDIES}?page_size=2&page=1")
    answer = admin.get(f"{STUDIES}?page=3&page_size=2")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no page 3; the last is 2"
    assert admin.get(f"{STUDIES}?q=nobody").json()["results"] == []


@pytest.mark.parametrize(
    ("accept", "address", "kind"),
    [
        ("image/jls", IMAGE, "image/jls"),
        ("image/webp", IMAGE, "image/jls"),
        ("text/html", STUDIES, "application/json"),
        ("application/xml", f"{STUDIES}/{UID}", "application/json"),
        ("garbage", f"{STUDIES}/{UID}", "application/json"),
        ("application/vnd.oai.openapi+json", "/api/v1/schema", "application/vnd.oai.openapi+json"),
        ("image/png", "/api/v1/schema", "application/vnd.oai.openapi; charset=utf-8"),
    ],
)
def test_who_wants_another_form_is_answered_in_the_one_there_is(admin, key, accept, address, kind):
    answer = admin.get(address, headers={"accept": accept})
    answer.close()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)


@pytest.mark.parametrize("address", [STUDIES, f"{STUDIES}/{UID}", "/api/v1/schema"])
def test_a_form_that_there_is_not_is_refused_by_name(admin, key, address):
    answer = admin.get(f"{address}?format=xml")
    assert answer.status_code == 400
    assert "format" in text_of(answer)


@pytest.mark.parametrize(
    "address",
    [
        "/", "/studies/{key}/", "/studies/{key}/state", "/operations/", "/models/", "/audit/",
        "/password/", "/healthz", "/readyz", "/metrics", "/api/v1/schema", STUDIES,
        f"{STUDIES}/{UID}", IMAGE,
    ],
)  # fmt: skip
def test_who_asks_for_the_head_alone_is_answered_as_who_asks_for_all(admin, key, address):
    address = address.format(key=key)
    whole, head = admin.get(address), admin.head(address)
    assert (head.status_code, whole.status_code) == (200, 200)
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    assert text_of(head) == ""
    whole.close()


def test_a_watch_that_asks_for_the_head_finds_the_login(client, db):
    assert client.head("/").headers["Location"] == "/login/?next=/"
    assert client.head("/login/?next=/").status_code == 200


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("study=A000001", "named by its key"),
        (f"study={UID}", "named by its key"),
        ("wo=rita", "by study and who, each once"),
        ("who=rita&who=ivo", "by study and who, each once"),
    ],
)
def test_who_saw_what_is_no_list_of_something_else(admin, key, query, says):
    answer = admin.get(f"/audit/?{query}")
    assert answer.status_code == 400
    assert says in text_of(answer)
    assert admin.get(f"/audit/?study=+{key}+&who=+ada+").status_code == 200


def test_a_study_of_the_century_before_last_is_found_by_its_day_and_by_its_change(admin, post):
    from web.results.models import Study

    assert post(samples.result(study_date="18991231")).status_code == 201
    Study.objects.update(changed_at="2020-01-01T00:00:00Z")
    assert [row.study_uid for row in admin.get("/?date=1899-12-31").context["page"].studies] == [
        UID
    ]
    changed = admin.get(f"{STUDIES}?changed_since=1899-12-31T00:00:00Z").json()
    assert [row["study_uid"] for row in changed["results"]] == [UID]


@pytest.mark.parametrize("range_", ["bytes=9-2", "bytes=-0", "bytes=0-1,1-2", "lines=1-2"])
def test_a_part_of_a_picture_that_makes_no_sense_is_all_of_it(admin, key, range_):
    answer = admin.get(IMAGE, headers={"range": range_})
    body = b"".join(answer.streaming_content)
    assert answer.status_code == 200
    assert body == samples.files(samples.result())[samples.result().images[0].original]


def test_an_address_of_a_thousand_words_is_refused(admin, key):
    for address in ("/", STUDIES, "/audit/"):
        assert admin.get(f"{address}?{'q=1&' * 1000}").status_code == 400


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "a/b/c", "", "application/json; charset=\xff"]
)
def test_a_body_of_another_type_is_refused_and_changes_nothing(admin, token, key, kind):
    from django.test import Client

    from web.results.models import Bulletin, Note, Report, Vote

    node = {"authorization": f"Bearer {token}"}
    for name in ("results", "bulletins", "deliveries"):
        answer = Client().generic("POST", f"/api/v1/{name}", b"\xff", kind, headers=node)
        assert answer.status_code in {400, 415}, name
        assert answer.json()["detail"]
    for address in (
        f"{STUDIES}/{UID}/feedback",
        f"/studies/{key}/feedback",
        f"/studies/{key}/note",
    ):
        assert admin.generic("POST", address, b"\xff", kind).status_code in {400, 415, 422}, address
    assert [model.objects.count() for model in (Bulletin, Note, Vote, Report)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("status", "address", "says"),
    [
        (400, f"{STUDIES}?q=%00", "The address holds a NUL. No study has one; leave it out."),
        (404, "/api/v1/nothing", "There is no such page."),
        (413, f"{STUDIES}/{UID}/feedback", "The body is too large. No page sends so much."),
    ],
)
def test_a_script_is_told_why_and_what_next_as_a_person_is(admin, status, address, says):
    body = b"x" * (65 << 10) if status == 413 else b""
    answer = admin.generic("POST" if body else "GET", address, body, "application/json")
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(says)
