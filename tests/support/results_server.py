"""A results server of its own, in a process of its own, with the defaults that it ships with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from limen.result import Result
from tests.support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
# With 1024 open files.
_AS_SERVICES_BEGIN = ("sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh")


@dataclass
class Server:
    """A results server of its own, in a process of its own."""

    url: str
    token: str
    login_url: str
    environment: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.environment["LIMEN_WEB__PORT"])

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of the server's commands."""
        return run_web(self.environment, *words)


def run_web(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m web``."""
    return subprocess.run(
        [sys.executable, "-m", "web", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a server that keeps everything in ``folder``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LIMEN_", "DJANGO_"))}
    return {
        **clean,
        "PYTHONPATH": str(ROOT),
        "LIMEN_NODE__DATA_DIR": str(folder),
        "LIMEN_WEB__PORT": str(free_ports(1)[0]),
        **more,
    }


@contextmanager
def running(folder: Path, **more: str) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it."""
    environment = environment_of(folder, **more)
    token_file = folder / "token"
    made = run_web(
        environment, "setup", "--node", "n", "--token-file", str(token_file), "--json", "--link"
    )
    assert made.returncode == 0, made.stderr
    with (folder / "web.log").open("w") as log:
        process = subprocess.Popen(
            [*_AS_SERVICES_BEGIN, sys.executable, "-m", "web"],
            cwd=ROOT, env=environment, text=True, stderr=log,
        )  # fmt: skip
    server = Server(
        f"http://127.0.0.1:{environment['LIMEN_WEB__PORT']}",
        token_file.read_text().strip(),
        json.loads(made.stdout)["login_url"],
        environment,
        process,
    )
    try:
        _until_ready(server)
        yield server
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _until_ready(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, "the server ended"
        try:
            if requests.get(f"{server.url}/readyz", timeout=2).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            pass
    pytest.fail("the server did not come up")


def log_in(session: requests.Session, link: str) -> requests.Response:
    """Log in by a link, as a person does: open it, and press its button."""
    page = session.get(link, timeout=10)
    if page.status_code != 200:
        return page
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert found
    form = {"csrfmiddlewaretoken": found[1]}
    return session.post(link, form, headers={"Referer": link}, timeout=10)


def post_parts(url: str, token: str, parts: list[tuple[str, object]]) -> requests.Response:
    """Post parts as a node does."""
    return requests.post(
        f"{url}/api/v1/results",
        files=parts,
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )


def document_part(document: Result | bytes) -> tuple[str, object]:
    """Return the part with the result document."""
    body = document if isinstance(document, bytes) else document.to_json()
    return "result", ("result.json", body, "application/json")
