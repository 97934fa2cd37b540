"""The process: commands, exit codes, a real server on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import requests

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
    assert session.get(server.login_url, timeout=10).url.endswith("/password/")
    text = session.get(f"{server.url}/", timeout=10).text
    assert "Kim, Heejung" in text
    assert "金 熙中" in text
    again = requests.get(server.login_url, timeout=10)
    assert again.status_code == 410


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
    found = requests.get(
        f"{server.url}/api/v1/studies?page_size=500",
        headers={"Authorization": f"Bearer {server.token}"},
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
    assert answer.status_code in {400, 415}


def test_a_host_that_is_not_ours_is_refused(server):
    answer = requests.get(f"{server.url}/login/", headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 400


def test_setup_a_second_time_changes_nothing_and_says_how_to_log_in(server, tmp_path):
    folder = server.environment["LIMEN_NODE__DATA_DIR"]
    words = ("setup", "--node", "n", "--token-file", f"{folder}/token", "--json")
    again = json.loads(server.command(*words).stdout)
    assert again["token_file"] == f"{folder}/token"
    assert again["login_url"].startswith(f"{server.url}/login/")
    assert post_to(server.url, server.token, samples.result(90)).status_code in {200, 201}


def test_link_prints_a_fresh_link_for_an_account_that_exists(server):
    made = server.command("link", "admin", "--json")
    url = json.loads(made.stdout)["login_url"]
    assert requests.get(url, timeout=10, allow_redirects=False).status_code == 302
    unknown = server.command("link", "nobody")
    assert unknown.returncode == 1
    assert "--create" in unknown.stderr
    assert server.command("link", "rosa", "--create").returncode == 0


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
    assert "log in once" in first.stdout
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
    assert "listens on" in first
    # The socket listens since before the line was written: the request waits in it.
    token = (tmp_path / "t").read_text().strip()
    assert post_to(url, token, samples.result(patient_name="Secret^Name")).status_code == 201
    process.send_signal(number)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "Secret" not in first + rest
    assert samples.study().study_uid not in first + rest
