"""Django for these tests alone: the other test folders see none of its settings."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
import requests

from limen.result import Result
from tests.support.ports import free_ports
from tests.support.results_server import ROOT, Server, environment_of, run_web, running
from tests.web import samples

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


__all__ = ["ROOT", "Server", "environment_of", "free_port", "post_to", "run_web"]


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


@pytest.fixture(autouse=True)
def _no_view_remembered() -> None:
    """Let a view be noted anew in each test: the process remembers it for ten minutes."""
    from web.results import trail

    trail._seen.clear()


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


def free_port() -> int:
    """Return a port that nothing listens on."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def start_server(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Start servers; they are stopped at the end of the module."""
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(running(tmp_path_factory.mktemp("server"), **more))
