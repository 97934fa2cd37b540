"""worker.tools.destinations: buckets and DICOMweb servers that refuse or are none; what is told.

The bucket is on the emulator of Google Cloud Storage; what stands before it answers what we are
denied as Google does for an account without that right.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server

from limen.doctor.check import Node, Verdict
from tests.support.doctor import findings, node_of
from tests.support.orthanc import Orthanc
from tests.support.ports import free_ports
from worker.tools import destinations

BUCKET = "limen-archive"

# Google's library leaves sockets to the garbage collector, and asks for another one of its own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:Please install grpcio-status:ImportWarning",
)


Look = Callable[[Node], tuple[bool, str]]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Look:
    """Ask as the doctor does, within this process: whether the one destination is well, and why."""

    def ask(node: Node) -> tuple[bool, str]:
        monkeypatch.setenv("LIMEN_CONFIG", str(node.file))
        assert destinations.main() == 0
        (said,) = json.loads(capsys.readouterr().out)
        return said["ok"], said["text"]

    return ask


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


# -- a bucket --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    (port,) = free_ports(1)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    waiting = threading.Event()
    while server._api._httpd is None and not waiting.wait(0.02):
        pass
    yield f"http://127.0.0.1:{port}"
    server.stop()


def denying(emulator: str, methods: Collection[str]) -> type[BaseHTTPRequestHandler]:
    """Return what lets all requests through to the emulator but those by these methods."""

    class Handler(BaseHTTPRequestHandler):
        def handle_it(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command in methods and "/o" in self.path:
                why = {"error": {"code": 403, "message": "does not have storage.objects access"}}
                self.answer(403, "application/json", json.dumps(why).encode())
                return
            passed = {k: v for k, v in self.headers.items() if k.lower() not in _OWN}
            request = urllib.request.Request(
                emulator + self.path, data=body or None, headers=passed, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as said:
                    self.answer(said.status, said.headers["Content-Type"], said.read(), said)
            except urllib.error.HTTPError as exc:
                with exc:
                    self.answer(exc.code, exc.headers["Content-Type"], exc.read())

        def answer(self, status: int, kind: str | None, body: bytes, said: object = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind or "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in getattr(getattr(said, "headers", None), "items", list)():
                if name.lower().startswith("x-goog"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = handle_it

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


_OWN = frozenset({"host", "content-length", "connection", "accept-encoding"})


def with_bucket(folder: Path, bucket: str = BUCKET, more: str = "") -> Node:
    return node_of(folder, f'[destination.archive]\nbucket = "{bucket}"\n{more}')


@pytest.mark.parametrize(
    ("denied", "well", "why"),
    [
        ("", True, "written and read, removed again"),
        ("DELETE", True, "stays, as this node may remove nothing"),
        ("POST", False, "answered 403"),
        ("GET", False, "answered 403"),
    ],
)
def test_what_an_account_may_not_do_in_a_bucket_is_told(
    tmp_path: Path,
    look: Look,
    emulator: str,
    monkeypatch: pytest.MonkeyPatch,
    denied: str,
    well: bool,
    why: str,
) -> None:
    with serving(denying(emulator, {denied})) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        said, text = look(with_bucket(tmp_path))
    assert (said, why in text) == (well, True), text


def test_a_bucket_that_is_not_there_is_told(
    tmp_path: Path, look: Look, emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    well, text = look(with_bucket(tmp_path, "no-such-bucket"))
    assert not well
    assert "bucket no-such-bucket answered 404" in text


def test_a_bucket_that_nobody_answers_for_is_told(
    tmp_path: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_ports(1)[0]}")
    well, text = look(with_bucket(tmp_path))
    assert not well
    assert "does the way out lead to it?" in text


def test_credentials_that_are_none_are_told(tmp_path: Path, look: Look) -> None:
    (tmp_path / "account.json").write_text("{}")
    well, text = look(with_bucket(tmp_path, more='credentials_file = "account.json"\n'))
    assert not well
    assert "destination.archive.credentials_file" in text


# -- a DICOMweb server -----------------------------------------------------------------------------


def speaking(get: int, post: int, kind: str) -> type[BaseHTTPRequestHandler]:
    """Return what answers a GET and a POST with these statuses, and a body of this kind."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int) -> None:
            body = b"<h1>Sign in</h1>" if kind == "text/html" else b"[]"
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(get)

        def do_POST(self) -> None:
            self.answer(post)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def node_with(folder: Path, url: str, more: str = "") -> Node:
    return node_of(
        folder,
        "[destination.archive]\nenabled = false\n"
        f'[[destination.dicomweb]]\nname = "web-pacs"\nurl = "{url}/dicom-web"\n{more}',
    )


JSON = "application/dicom+json"


@pytest.mark.parametrize(
    ("get", "post", "kind", "why"),
    [
        (401, 401, JSON, "answers 401: it rejects us"),
        (403, 403, JSON, "answers 403: it rejects us"),
        (404, 404, JSON, "nothing takes objects there"),
        (404, 405, JSON, "nothing takes objects there"),
        (404, 401, JSON, "answers 401: it rejects us"),
        (503, 503, JSON, "answers 503"),
        (200, 200, "text/html", "answers with a page"),
        (404, 404, "text/html", "nothing takes objects there"),
    ],
)
def test_a_dicomweb_server_that_is_none_or_refuses_is_told_why(
    tmp_path: Path, look: Look, get: int, post: int, kind: str, why: str
) -> None:
    with serving(speaking(get, post, kind)) as url:
        well, text = look(node_with(tmp_path, url))
    assert not well
    assert "web-pacs" in text
    assert why in text


def test_a_dicomweb_server_that_only_takes_objects_is_well(tmp_path: Path, look: Look) -> None:
    with serving(speaking(404, 400, JSON)) as url:
        assert look(node_with(tmp_path, url))[0]


def test_a_dicomweb_server_that_is_away_and_a_token_that_is_not_there_are_told(
    tmp_path: Path, look: Look
) -> None:
    (port,) = free_ports(1)
    assert "does not answer" in look(node_with(tmp_path, f"http://127.0.0.1:{port}"))[1]
    with serving(speaking(200, 200, JSON)) as url:
        well, text = look(node_with(tmp_path, url, 'token_file = "nowhere"\n'))
    assert (well, f"{tmp_path}/nowhere cannot be read" in text) == (False, True)


def test_orthanc_without_objects_is_well_and_another_address_of_it_is_not(
    tmp_path: Path, look: Look
) -> None:
    with Orthanc(tmp_path / "orthanc", dicomweb=True) as orthanc:
        assert look(node_with(tmp_path, orthanc.url))[0]
        assert "nothing takes objects there" in look(node_with(tmp_path, f"{orthanc.url}/a"))[1]


def test_the_doctor_tells_of_all_of_them_side_by_side(
    tmp_path: Path, emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    with serving(speaking(401, 401, JSON)) as url:
        text = f'[[destination.dicomweb]]\nname = "web-pacs"\nurl = "{url}"\n'
        bucket, dicomweb = findings(with_bucket(tmp_path, "no-such-bucket", text), "archive")
    assert {bucket.verdict, dicomweb.verdict} == {Verdict.FAILED}
    assert "answered 404" in bucket.text
    assert "put its credentials right" in dicomweb.text
