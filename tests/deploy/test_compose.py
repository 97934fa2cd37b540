"""What the containers of others are given, at work: RabbitMQ, PostgreSQL, the TLS proxy.

Each is started here as its container starts it: with the file that docker-compose.yml mounts and
the secrets that prepare.sh makes. Only addresses, ports and folders are those of the test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import amqp
import psycopg
import pytest
import requests
import trustme
from kombu.exceptions import KombuError

from limen.broker import dead_letters, declare_dead_letters, make_app
from limen.config import Config, Queue
from tests.support.compose import composed, prepare
from tests.support.node import Node, until
from tests.support.ports import free_ports
from tests.support.rabbitmq import RabbitMQ, rabbitmq
from tests.support.services import REPOSITORY, answers, program, require_service

DEPLOY = REPOSITORY / "deploy"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    prepare(folder)
    return folder


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that accounts other than ours may enter."""
    with tempfile.TemporaryDirectory(prefix="limen-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def started_as(account: str, *words: object) -> list[str]:
    ids = [f"--reuid={account}", f"--regid={account}", "--clear-groups"]
    return [program("setpriv", "util-linux"), *ids, *map(str, words)]


# -- RabbitMQ --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ of the test's own, with the user of the secret."""

    server: RabbitMQ
    password: str

    @property
    def config(self) -> Config:
        url = f"amqp://limen:{self.password}@127.0.0.1:{self.server.port}/limen"
        return Config(queue=Queue(broker=url))


@pytest.fixture(scope="module")
def broker(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("rabbitmq")
    (folder / "definitions").mkdir()
    shutil.copy(DEPLOY / "rabbitmq/definitions.json", folder / "definitions/10-limen.json")
    shutil.copy(site / "secrets/rabbitmq-user.json", folder / "definitions/20-user.json")
    text = (DEPLOY / "rabbitmq/rabbitmq.conf").read_text("utf-8")
    assert "/etc/rabbitmq/definitions\n" in text
    text = text.replace("/etc/rabbitmq/definitions", str(folder / "definitions"))
    with rabbitmq(folder, text) as server:
        yield Broker(server, (site / "secrets/rabbitmq-password").read_text("ascii"))


def test_queues_of_the_definitions_are_those_that_limen_declares_under_their_policies(
    broker: Broker,
) -> None:
    app = make_app(broker.config)
    declare_dead_letters(app, broker.config)  # PRECONDITION_FAILED where they differ
    with app.connection_for_write() as connection:
        for queue in app.conf.task_queues:
            queue(connection.default_channel).declare()
    told = broker.server.control(
        "list_queues", "--vhost=limen", "--formatter=json", "name", "type", "policy"
    )
    found = {queue["name"]: (queue["type"], queue["policy"]) for queue in json.loads(told)}
    work = {queue.name: ("quorum", "limen-work") for queue in app.conf.task_queues}
    assert found == {**work, dead_letters(broker.config).name: ("quorum", "limen-dead")}


def test_the_user_of_the_secret_is_the_only_one_and_has_limens_queues_alone(
    broker: Broker,
) -> None:
    address = f"127.0.0.1:{broker.server.port}"
    with pytest.raises(amqp.AccessRefused), amqp.Connection(address):
        pass  # guest
    with (
        amqp.Connection(address, "limen", broker.password, virtual_host="limen") as connection,
        pytest.raises(amqp.AccessRefused),
    ):
        connection.channel().queue_declare("other", durable=True)


def test_a_message_that_is_given_up_is_a_dead_letter(broker: Broker) -> None:
    app = make_app(broker.config)
    app.send_task("limen.predict", args=["key", "prediction"], queue="limen.predict")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        message = until(lambda: channel.basic_get("limen.predict"), 10, "the message")
        channel.basic_reject(message.delivery_tag, requeue=False)
        dead = until(lambda: channel.basic_get("limen.dead", no_ack=True), 10, "the dead letter")
        assert dead.headers["x-first-death-queue"] == "limen.predict"


def test_a_queue_that_is_full_tells_the_publisher_and_the_work_stays_due(broker: Broker) -> None:
    definitions = json.loads((DEPLOY / "rabbitmq/definitions.json").read_text("utf-8"))
    policy = next(p for p in definitions["policies"] if p["name"] == "limen-work")
    full = json.dumps({**policy["definition"], "max-length": 1})
    broker.server.control(
        "set_policy", "--vhost=limen", "--apply-to=queues", "--priority=10", policy["name"],
        policy["pattern"], full,
    )  # fmt: skip
    app = make_app(broker.config)

    def refused() -> bool:
        try:
            app.send_task("limen.deliver", args=["key", "django"], queue="limen.deliver")
        except KombuError:  # what the dispatcher takes as: not sent, tried again
            return True
        return False

    until(refused, 20, "the refusal")


# -- PostgreSQL ------------------------------------------------------------------------------------


@pytest.fixture
def database(site: Path, place: Path) -> Iterator[int]:
    """The port of a PostgreSQL of the test's own, which has run init.sql."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    require_service(found, "postgresql is not installed")
    shutil.chown(place, "postgres", "postgres")
    (port,) = free_ports(1)
    password = (site / "secrets/postgres-password").read_text("ascii")

    def run(name: str, *words: object) -> None:
        with (place / "output").open("ab") as output:
            done = subprocess.run(
                started_as("postgres", found[-1] / name, *words), stdout=output, stderr=output,
                env={"PATH": os.environ["PATH"], "POSTGRES_PASSWORD": password}, cwd=place,
                timeout=90,
            )  # fmt: skip
        assert done.returncode == 0, (place / "output").read_text("utf-8")

    (place / "password").write_text(password, "ascii")
    shutil.chown(place / "password", "postgres")
    asked = ["--username=postgres", f"--pwfile={place}/password", "--no-sync"]
    given = composed(REPOSITORY / "docker-compose.yml")["services"]["postgres"]["environment"]
    run("initdb", f"--pgdata={place}/data", *asked, *given["POSTGRES_INITDB_ARGS"].split())
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {place} -c fsync=off"
    run("pg_ctl", f"--pgdata={place}/data", "--wait", f"--options={options}", "start")
    try:
        asked = ["--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--host={place}", f"--port={port}"]
        script = place / "10-limen.sql"
        shutil.copy(DEPLOY / "postgres/init.sql", script)
        run("psql", *asked, "--username=postgres", "--file", script)
        yield port
    finally:
        run("pg_ctl", f"--pgdata={place}/data", "--mode=immediate", "stop")


def test_the_databases_are_made_and_migrated_by_an_account_that_is_no_superuser(
    site: Path, database: int, tmp_path: Path
) -> None:
    server = f"127.0.0.1:{database}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")}
    environment |= {
        "LIMEN_NODE__DATA_DIR": str(tmp_path / "data"),
        "LIMEN_DESTINATION__DJANGO__TOKEN_FILE": str(site / "secrets/web-token"),
        "LIMEN_WEB__SECRET_KEY_FILE": str(site / "secrets/web-secret-key"),
        "PYTHONPATH": str(REPOSITORY),
    }
    for section, key, name in (
        ("JOURNAL", "URL", "journal-url"),
        ("WEB", "DATABASE_URL", "web-database-url"),
    ):
        url = (site / "secrets" / name).read_text("ascii").replace("@postgres/", f"@{server}/")
        (tmp_path / name).write_text(url, "ascii")
        environment[f"LIMEN_{section}__{key}_FILE"] = str(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "limen", "migrate"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, table in (("journal-url", "study"), ("web-database-url", "results_study")):
        url = (tmp_path / name).read_text("ascii").strip()
        with psycopg.connect(url) as db:
            db.execute(f"SELECT count(*) FROM {table}")  # type: ignore[arg-type]
            rights = "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = %s"
            assert db.execute(rights, ("limen",)).fetchone() == (False, False, False)
    password = (site / "secrets/postgres-password").read_text("ascii")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://postgres:{password}@{server}/postgres")


# -- the TLS proxy ---------------------------------------------------------------------------------


@pytest.fixture
def people(place: Path, tmp_path: Path) -> Iterator[tuple[Node, requests.Session]]:
    """A results server behind the proxy, and a browser that trusts the proxy's authority."""
    nginx = program("nginx", "nginx-light")
    (port,) = free_ports(1)
    node = Node(tmp_path / "node", LIMEN_WEB__PUBLIC_URL=f"https://localhost:{port}")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(place / "tls-certificate")
    certificate.private_key_pem.write_to_path(place / "tls-key")
    authority.cert_pem.write_to_path(tmp_path / "authority")
    text = (DEPLOY / "proxy/nginx.conf").read_text("utf-8")
    for said, meant in (
        ("/tmp/", f"{place}/"),
        ("/run/secrets", str(place)),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("http://web:8642", f"http://127.0.0.1:{node.config.web.port}"),
    ):
        assert said in text
        text = text.replace(said, meant)
    (place / "nginx.conf").write_text(text, "utf-8")
    for path in (place, *place.iterdir()):
        shutil.chown(path, 10001, 10001)
    words = started_as("10001", nginx, "-c", place / "nginx.conf", "-e", "stderr")
    tested = subprocess.run([*words, "-t"], capture_output=True, text=True, timeout=30)
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr, tested.stderr
    node.start("web")
    with (place / "output").open("wb") as output:
        proxy = subprocess.Popen([*words, "-g", "daemon off;"], stdout=output, stderr=output)
    try:
        until(lambda: answers(port), 20, "the proxy", (place / "output").read_text)
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(tmp_path / "authority")
            yield node, session
    finally:
        proxy.terminate()
        proxy.wait(20)
        node.close()


def test_people_log_in_through_tls(people: tuple[Node, requests.Session]) -> None:
    node, browser = people
    site = node.config.web_url
    assert node.login_url.startswith(f"{site}/")
    page = browser.get(node.login_url, timeout=10)
    assert page.status_code == 200
    assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token is not None
    said = {"Origin": site, "X-Forwarded-For": "10.1.1.1", "X-Forwarded-Host": "evil.example"}
    inside = browser.post(
        node.login_url, {"csrfmiddlewaretoken": token[1]}, headers=said, timeout=10
    )
    assert inside.status_code == 200, inside.text[:500]
    assert inside.url.startswith(site)
    assert all(cookie.secure for cookie in browser.cookies)
    assert browser.get(f"{site}/", timeout=10, allow_redirects=False).status_code == 200
    # Metrics are for Prometheus within; a site that is not ours may not post.
    assert browser.get(f"{site}/metrics", timeout=10).status_code == 404
    for origin, status in (("https://evil.example", 403), (site, 302)):
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', inside.text)
        assert token is not None
        out = browser.post(
            f"{site}/logout/", {"csrfmiddlewaretoken": token[1]}, headers={"Origin": origin},
            timeout=10, allow_redirects=False,
        )  # fmt: skip
        assert out.status_code == status


def test_a_node_on_another_host_posts_through_tls_by_its_token(
    people: tuple[Node, requests.Session],
) -> None:
    node, client = people
    url = f"{node.config.web_url}/api/v1/results"
    token = node.config.token_file.read_text("ascii").strip()
    for size_bytes, bearer, statuses in (
        (40 << 20, "no", {401, 403}),
        (
            2 << 20,
            token,
            {422},
        ),  # more than nginx takes as it ships; read, and found to be no result
    ):
        answer = client.post(
            url, files={"result": ("result.json", b"{}" + b" " * size_bytes, "application/json")},
            headers={"Authorization": f"Bearer {bearer}"}, timeout=60,
        )  # fmt: skip
        assert answer.status_code in statuses, answer.text[:300]
        assert answer.headers["Content-Type"] == "application/json"
