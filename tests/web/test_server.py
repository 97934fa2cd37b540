"""The process: commands, exit codes, a real server on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import psycopg
import pytest
import requests

from tests.support.results_server import log_in
from tests.web import samples
from tests.web.conftest import (
    ROOT,
    Server,
    environment_of,
    post_to,
    run_web,
    unavailable,
)

POSTGRES = ("postgresql://postgres@127.0.0.1:5432", "postgresql://root@127.0.0.1:5432")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a database of our own; it is dropped afterwards."""
    name = f"limen_web_test_{os.getpid()}"
    for base in POSTGRES:
        try:
            connection = psycopg.connect(f"{base}/postgres", autocommit=True, connect_timeout=3)
        except psycopg.OperationalError:
            continue
        with connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        yield f"{base}/{name}"
        with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        return
    unavailable("no PostgreSQL answers at 127.0.0.1:5432")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request, start_server) -> Server:
    if request.param == "sqlite":
        return start_server()
    return start_server(LIMEN_WEB__DATABASE_URL=request.getfixturevalue("postgres"))


def test_a_server_stores_shows_and_keeps_a_result(server):
    for document in samples.pair(patient_name="Kim^Heejung=金^熙中=김^희중\x00"):
        assert post_to(server.url, server.token, document).status_code == 201
        assert post_to(server.url, server.token, document).status_code == 200
        changed = samples.renamed(document, accession="other")
        assert post_to(server.url, server.token, changed).status_code == 409
    session = requests.Session()
    assert log_in(session, server.login_url).url.endswith("/password/")
    text = session.get(f"{server.url}/", timeout=10).text
    assert "Kim, Heejung" in text
    assert "金 熙中" in text
    again = requests.get(server.login_url, timeout=10)
    assert again.status_code == 410


ADDRESSES = [
    "/?modality={}&q={}&outcome={}&after={}",
    "/login/?next={}",
    "/studies/{}/",
    "/login/{}/",
    "/api/v1/studies?modality={}&outcome={}&q={}&page={}&page_size={}",
    "/api/v1/studies/1.2.3?revision={}",
]
# What a client may say that its text is written in: with these, "\\ud800" is half of a pair.
CHARSETS = ["utf-8", "raw_unicode_escape", "unicode_escape", "utf-16"]


def logged_in(server) -> requests.Session:
    session = requests.Session()
    link = server.command("link", "admin", "--create", "--json").stdout
    log_in(session, json.loads(link)["login_url"])
    session.headers["X-CSRFToken"] = session.cookies["limen_csrf"]
    session.headers["Referer"] = server.url
    return session


def test_no_character_of_an_address_is_a_fault_of_the_server(server):
    """PostgreSQL keeps no NUL; UTF-8 has no half of a surrogate pair."""
    session = logged_in(server)
    faults = []
    for address in ADDRESSES:
        for text in ("a%00b", "%5Cud800", "%ED%A0%80", "%FF"):
            url = server.url + address.replace("{}", text)
            for charset in CHARSETS:
                answer = session.get(
                    url, headers={"Content-Type": f"text/plain; charset={charset}"}, timeout=10
                )
                if answer.status_code >= 500:
                    faults.append((address, text, charset))
    assert faults == []


def test_no_cookie_is_a_fault_of_the_server(server):
    for name in ("limen_session", "limen_csrf", "limen_theme"):
        for value in ("\\000" * 32, "x" * 32, "\\777", "a\\000" + "b" * 30):
            cookie = f'{name}="{value}"'
            answer = requests.get(
                f"{server.url}/", headers={"Cookie": cookie}, timeout=10, allow_redirects=False
            )
            assert answer.status_code == 302, cookie


def test_no_character_of_a_vote_is_a_fault_of_the_server(server):
    document = samples.result(77)
    assert post_to(server.url, server.token, document).status_code in {200, 201}
    session = logged_in(server)
    uid = document.study.study_uid
    study = session.get(f"{server.url}/api/v1/studies/{uid}", timeout=10).json()
    for text in ("\x00", "\ud800", "a\x00b", "\udfffx"):
        for body in ({"verdict": "agree", "note": text}, {"verdict": text}, {text: text}):
            answer = session.post(
                f"{server.url}/api/v1/studies/{uid}/feedback", json=body, timeout=10
            )
            assert answer.status_code == 422, body
    for charset in CHARSETS:
        for field in ("verdict", "note", "revision"):
            fields = {"verdict": "agree", "revision": "1"} | {field: "\\ud800\\x00\x00"}
            answer = session.post(
                f"{server.url}/studies/{study['key']}/feedback",
                data=form(fields),
                headers={"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"},
                timeout=10,
            )
            assert answer.status_code < 500, (charset, field)


def form(fields: dict[str, str]) -> bytes:
    """Return fields as a multipart form with the boundary ``b``."""
    parts = (
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return "".join(parts).encode() + b"--b--\r\n"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_no_character_of_a_login_is_a_fault_of_the_server(server, kind):
    session = requests.Session()
    session.get(f"{server.url}/login/", timeout=10)
    text = "\\ud800\\x00\x00"
    fields = {"csrfmiddlewaretoken": session.cookies["limen_csrf"]}
    fields |= {"username": text, "password": text, "next": f"/{text}"}
    for charset in CHARSETS:
        answer = session.post(
            f"{server.url}/login/",
            data=form(fields) if kind.startswith("multipart") else urlencode(fields).encode(),
            headers={
                "Content-Type": f"{kind}; boundary=b; charset={charset}",
                "Referer": server.url,
            },
            timeout=10,
            allow_redirects=False,
        )
        assert answer.status_code < 500, charset


def test_of_many_equal_posts_at_once_exactly_one_creates(server):
    document = samples.result(50)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: post_to(server.url, server.token, document).status_code, range(8))
        )
    assert sorted(answers) == [200] * 7 + [201]


def test_posts_of_many_studies_at_once_are_all_kept(server):
    documents = [d for n in range(60, 72) for d in samples.pair(n, slices=2)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda d: post_to(server.url, server.token, d).status_code, documents)
        )
    assert answers == [201] * len(documents)
    made = server.command("token", "new", "reads-all", "--json")
    found = requests.get(
        f"{server.url}/api/v1/studies?page_size=500",
        headers={"Authorization": f"Bearer {json.loads(made.stdout)['token']}"},
        timeout=10,
    ).json()["results"]
    ours = [s for s in found if s["accession"] in {f"A{n:06d}" for n in range(60, 72)}]
    assert {s["phase"] for s in ours} == {"explanation"}
    assert len(ours) == 12


def test_a_large_body_with_a_wrong_token_gets_its_answer(server):
    answer = requests.post(
        f"{server.url}/api/v1/results",
        files={"result": ("result.json", b"x" * (6 << 20), "application/json")},
        headers={"Authorization": "Bearer wrong"},
        timeout=20,
    )
    assert answer.status_code == 401


def test_a_body_without_a_length_is_refused(server):
    answer = requests.post(
        f"{server.url}/api/v1/results",
        data=iter([b"x"]),
        headers={"Authorization": f"Bearer {server.token}"},
        timeout=20,
    )
    assert answer.status_code == 411


def test_a_host_that_is_not_ours_is_refused(server):
    answer = requests.get(f"{server.url}/login/", headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 400


def test_setup_a_second_time_changes_nothing_and_makes_no_second_link(server):
    folder = server.environment["LIMEN_NODE__DATA_DIR"]
    words = ("setup", "--node", "n", "--token-file", f"{folder}/token", "--json", "--link")
    again = json.loads(server.command(*words).stdout)
    assert again["token_file"] == f"{folder}/token"
    assert again["login_url"] is None
    if again["unused"]:  # until another test has set the password
        assert "limen web link admin" in server.command(*words[:-2]).stdout
    assert post_to(server.url, server.token, samples.result(90)).status_code in {200, 201}


def test_link_prints_a_fresh_link_for_an_account_that_exists(server):
    made = server.command("link", "admin", "--json")
    url = json.loads(made.stdout)["login_url"]
    assert log_in(requests.Session(), url).ok
    unknown = server.command("link", "nobody")
    assert unknown.returncode == 1
    assert "--create" in unknown.stderr
    assert server.command("link", "rosa", "--create").returncode == 0
    assert server.command("link", "rosa", "--role", "integrator").returncode == 0
    assert server.command("link", "rosa", "--role", "owner").returncode == 2


def test_a_link_into_a_server_that_never_was_is_refused_and_makes_no_folder(tmp_path):
    folder = tmp_path / "elsewhere"
    done = run_web(environment_of(folder), "link", "admin", "--create")
    assert (done.returncode, done.stdout) == (2, "")
    assert "`limen web`" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("words", [("link", "admin"), ("setup", "--node", "n"), ()])
def test_a_database_of_a_newer_version_is_left_alone_in_one_sentence(tmp_path, words):
    environment = environment_of(tmp_path)
    token = ("--token-file", str(tmp_path / "token"))
    assert run_web(environment, "setup", "--node", "n", *token).returncode == 0
    with sqlite3.connect(tmp_path / "web.db") as db:
        db.execute(
            "insert into django_migrations (app, name, applied) "
            "values ('results', '0999_later', current_timestamp)"
        )
    db.close()
    done = run_web(environment, *words, *(token if words[:1] == ("setup",) else ()))
    assert done.returncode == 2
    assert done.stderr.startswith("web: the database of the results server was written by a newer")
    assert len(done.stderr.strip().splitlines()) == 1


def test_secrets_are_readable_by_their_owner_alone(server):
    folder = server.environment["LIMEN_NODE__DATA_DIR"]
    for name in ("token", "secrets/web-secret-key"):
        assert stat.S_IMODE(os.stat(f"{folder}/{name}").st_mode) == 0o600


def test_a_token_that_the_database_lost_is_registered_again(tmp_path):
    environment = environment_of(tmp_path)
    token = tmp_path / "sub" / "token"
    words = ("setup", "--node", "n", "--token-file", str(token))
    first = run_web(environment, *words)
    assert first.returncode == 0, first.stderr
    assert "/login/" not in first.stdout, "a link in the output of a service"
    assert "limen web link admin" in first.stdout
    kept = token.read_text()
    for file in tmp_path.glob("web.db*"):
        file.unlink()
    assert run_web(environment, *words).returncode == 0
    assert token.read_text() == kept


def test_a_taken_port_ends_with_3(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_web(environment_of(tmp_path, LIMEN_WEB__PORT=port))
    assert ended.returncode == 3
    assert "LIMEN_WEB__PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMEN_WEB_PORT", "8043"),  # one underscore: it would change nothing
        ("LIMEN_WEB__PROT", "8043"),
        ("LIMEN_WEB__PORT", "many"),
        ("LIMEN_WEB__PORT", "70000"),
        ("LIMEN_WEB__PUBLIC_URL", "limen.example"),
        ("LIMEN_WEB__DATABASE_URL", "oracle://x"),
        ("LIMEN_WEB__DATABASE_URL", "nonsense"),
        ("LIMEN_LOG__LEVEL", "loud"),
    ],
)
def test_a_setting_that_cannot_be_used_ends_with_2_and_is_named(tmp_path, name, value):
    ended = run_web(environment_of(tmp_path, **{name: value}))
    assert ended.returncode == 2
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_usage_ends_with_2(tmp_path):
    assert run_web(environment_of(tmp_path), "setup").returncode == 2


def test_a_database_that_does_not_answer_ends_with_1(tmp_path):
    url = "postgresql://nobody@127.0.0.1:1/none"
    ended = run_web(environment_of(tmp_path, LIMEN_WEB__DATABASE_URL=url))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0_and_the_log_holds_no_phi(tmp_path, number):
    environment = environment_of(tmp_path)
    made = run_web(environment, "setup", "--node", "n", "--token-file", str(tmp_path / "t"))
    assert made.returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "web"], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{environment['LIMEN_WEB__PORT']}"
    first = process.stderr.readline()
    assert "web.listening" in first
    # The socket listens since before the line was written: the request waits in it.
    token = (tmp_path / "t").read_text().strip()
    assert post_to(url, token, samples.result(patient_name="Secret^Name")).status_code == 201
    process.send_signal(number)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "Secret" not in first + rest
    assert samples.study().study_uid not in first + rest
