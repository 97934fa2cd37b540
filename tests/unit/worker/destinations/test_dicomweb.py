"""worker.destinations.dicomweb: what each answer of a STOW-RS server means, on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from limen.dimse import Kind
from limen.errors import Unreachable, Unwelcome
from limen.scu import NOT_ACCEPTED, Answer
from tests.support.pacs import dicom_object
from tests.support.ports import free_ports
from worker.destinations.dicomweb import DicomwebWay

JSON = "application/dicom+json"


@dataclass
class Said:
    """What the server answers, and what it was sent."""

    status: int = 200
    body: Any = None
    kind: str = JSON
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[tuple[str, Said]]:
    said = Said()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.paths.append(self.path)
            said.tokens.append(self.headers["Authorization"])
            said.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            body = b"" if said.body is None else json.dumps(said.body).encode()
            self.send_response(said.status)
            self.send_header("Content-Type", said.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/dicom-web", said
        finally:
            http.shutdown()
            thread.join()


def store(url: str, folder: Path, **options: Any) -> Answer:
    way = DicomwebWay("web-pacs", url, 5, **options)
    with way.open([], ask=False) as line:
        return line.store(dicom_object("sr", folder))


def failed(reason: int) -> dict[str, Any]:
    item = {"00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def stored(warning: int = 0) -> dict[str, Any]:
    item = {"00081196": {"vr": "US", "Value": [warning]}} if warning else {}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (200, stored(), Kind.SUCCESS, "0x0000, stored"),
        (200, None, Kind.SUCCESS, "0x0000, stored"),
        (202, stored(0xB000), Kind.WARNING, "data elements were coerced"),
        (202, failed(0xA900), Kind.PERMANENT, "does not match the SOP class"),
        (409, failed(0xC000), Kind.PERMANENT, "cannot understand"),
        (409, failed(0xA700), Kind.FULL, "out of resources"),
        (409, failed(0x0110), Kind.TRANSIENT, "processing failure"),
        (409, None, Kind.PERMANENT, "answered 409"),
        (415, None, Kind.PERMANENT, "answered 415"),
        (500, None, Kind.TRANSIENT, "answered 500"),
        (507, None, Kind.FULL, "no room"),
    ],
)
def test_each_answer_means_what_the_table_says(
    server: tuple[str, Said], tmp_path: Path, status: int, body: Any, kind: Kind, told: str
) -> None:
    url, said = server
    said.status, said.body = status, body
    answer = store(url, tmp_path)
    assert answer.kind is kind
    assert told in str(answer)
    assert said.paths == ["/dicom-web/studies"]
    assert b"application/dicom" in said.bodies[0]
    assert b"Doe^Jane" in said.bodies[0]


@pytest.mark.parametrize("status", [404, 429, 502, 503, 504])
def test_what_can_be_put_right_waits(server: tuple[str, Said], tmp_path: Path, status: int) -> None:
    url, said = server
    said.status = status
    with pytest.raises(Unreachable, match=f"web-pacs answered {status}: "):
        store(url, tmp_path)
    assert len(said.paths) == 1


def test_a_page_is_no_answer_of_the_pacs(server: tuple[str, Said], tmp_path: Path) -> None:
    url, said = server
    said.kind = "text/html"
    with pytest.raises(Unreachable, match="something in between"):
        store(url, tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_one_that_does_not_let_us_in_is_not_asked_again(
    server: tuple[str, Said], tmp_path: Path, status: int
) -> None:
    url, said = server
    said.status = status
    with pytest.raises(Unwelcome, match="limen retry web-pacs"):
        store(url, tmp_path)


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match="does not answer"):
        store(f"http://127.0.0.1:{port}", tmp_path)


def test_credentials_are_read_from_their_files(server: tuple[str, Said], tmp_path: Path) -> None:
    url, said = server
    (tmp_path / "token").write_text("secret-1\n")
    store(url, tmp_path, token_file=tmp_path / "token")
    store(url, tmp_path, username="me", password_file=tmp_path / "token")
    assert said.tokens == ["Bearer secret-1", "Basic bWU6c2VjcmV0LTE="]
    with pytest.raises(Unreachable, match="cannot be read"):
        store(url, tmp_path, token_file=tmp_path / "none")


def test_there_is_no_storage_commitment_on_this_way(tmp_path: Path) -> None:
    way = DicomwebWay("web-pacs", "http://127.0.0.1:1", 5)
    with way.open([], ask=False) as line:
        assert line.ask_commitment("1.2.3", []) is NOT_ACCEPTED
        assert line.report(0) is None
