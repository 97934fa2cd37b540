"""Django for these tests alone: the other test folders see none of its settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import requests

from limen.result import Result
from tests.ports import free_ports
from tests.web import samples

ROOT = Path(__file__).resolve().parents[2]
_DATA = Path(tempfile.mkdtemp(prefix="limen-web-tests-"))


def _configure() -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")}
    ours = {
        "LIMEN_NODE__DATA_DIR": str(_DATA),
        "LIMEN_WEB__DATABASE_URL": f"sqlite:///{_DATA / 'web.db'}",
        "DJANGO_SETTINGS_MODULE": "web.settings",
    }
    with mock.patch.dict(os.environ, {**clean, **ours}, clear=True):
        import django
        from django.conf import settings

        # dictConfig closes every handler of the process, and with them streams
        # that pytest and the libraries of other tests still write to.
        settings.LOGGING_CONFIG = None
        django.setup()


_configure()


@pytest.fixture(scope="session", autouse=True)
def _no_data_left() -> Iterator[None]:
    yield
    shutil.rmtree(_DATA, ignore_errors=True)


def unavailable(what: str) -> None:
    """Skip for want of a service; fail where services are required."""
    if os.environ.get("LIMEN_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{what}, and LIMEN_REQUIRE_SERVICES=1")
    pytest.skip(what)


@pytest.fixture(autouse=True)
def _own_media(settings, tmp_path: Path) -> None:
    """Give each test its own media store and a quick password hasher."""
    settings.MEDIA_STORE = tmp_path / "media"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def reader(db):
    """An account with a password."""
    from django.contrib.auth.models import User

    return User.objects.create_user("rita", password="a reading room")


@pytest.fixture
def browser(client, reader):
    """A test client that is logged in."""
    client.force_login(reader)
    return client


@pytest.fixture
def token(db, tmp_path: Path) -> str:
    """A node's token."""
    from web.results.tokens import provide_token

    path = tmp_path / "token"
    provide_token("node-1", path)
    return path.read_text().strip()


@pytest.fixture
def post(token: str):
    """Post a document as a node does; ``bodies`` overrides its images."""
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.test import Client

    def _post(document: Result | bytes, bodies: samples.Bodies | None = None, **headers: str):
        body = document if isinstance(document, bytes) else document.to_json()
        if bodies is None:
            bodies = samples.files(document)
        parts = {n: SimpleUploadedFile(n, b, "image/png") for n, b in bodies.items()}
        parts["result"] = SimpleUploadedFile("result.json", body, "application/json")
        headers = headers or {"authorization": f"Bearer {token}"}
        return Client().post("/api/v1/results", parts, headers=headers)

    return _post


def post_to(url: str, token: str, document: Result, size: int = 16) -> requests.Response:
    """Post a document over the wire."""
    parts = [("result", ("result.json", document.to_json(), "application/json"))]
    parts += [(n, (n, b, "image/png")) for n, b in samples.files(document, size).items()]
    return requests.post(
        f"{url}/api/v1/results",
        files=parts,
        headers={"Authorization": f"Bearer {token}"},
        timeout=20,
    )


@dataclass
class Server:
    """A results server of its own, in a process of its own."""

    url: str
    token: str
    login_url: str
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of the server's commands."""
        return run_web(self.environment, *words)


def run_web(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m web``."""
    return subprocess.run(
        [sys.executable, "-m", "web", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def free_port() -> int:
    """Return a port that nothing listens on."""
    return free_ports(1)[0]


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a server that keeps everything in ``folder``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LIMEN_", "DJANGO_"))}
    return {
        **clean,
        "PYTHONPATH": str(ROOT),
        "LIMEN_NODE__DATA_DIR": str(folder),
        "LIMEN_WEB__PORT": str(free_port()),
        **more,
    }


@pytest.fixture(scope="module")
def start_server(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Start servers; they are stopped at the end of the module."""
    import json

    started: list[Server] = []

    def _start(**more: str) -> Server:
        folder = tmp_path_factory.mktemp("server")
        environment = environment_of(folder, **more)
        url = f"http://127.0.0.1:{environment['LIMEN_WEB__PORT']}"
        token_file = folder / "token"
        made = run_web(environment, "setup", "--node", "n", "--token-file", token_file, "--json")
        assert made.returncode == 0, made.stderr
        process = subprocess.Popen(
            [sys.executable, "-m", "web"], cwd=ROOT, env=environment, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        login_url = json.loads(made.stdout)["login_url"]
        server = Server(url, token_file.read_text().strip(), login_url, environment, process)
        started.append(server)
        _until_ready(server)
        return server

    yield _start
    for server in started:
        server.process.terminate()
    for server in started:
        assert server.process.wait(timeout=30) == 0


def _until_ready(server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.process.poll() is None, "the server ended"
        try:
            if requests.get(f"{server.url}/readyz", timeout=2).ok:
                return
        except requests.ConnectionError:
            pass
        server.process.poll()
    pytest.fail("the server did not come up")
