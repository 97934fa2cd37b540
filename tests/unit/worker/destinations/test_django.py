"""worker.destinations.django: what each answer of the results server means."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from limen.errors import LimenError, Rejected, Transient, Unreachable
from limen.result import Phase
from tests.node import free_ports
from tests.samples import result
from worker.destinations import Parcel
from worker.destinations.django import DjangoDestination


@dataclass
class Scripted:
    """A results server that answers as it is told, and remembers what it got."""

    status: int = 201
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    silent: threading.Event | None = None
    paths: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    parts: list[list[Message]] = field(default_factory=list)
    url: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                message = message_from_bytes(kind + self.rfile.read(length))
                script.paths.append(self.path)
                script.authorizations.append(self.headers["Authorization"])
                script.parts.append(message.get_payload())  # type: ignore[arg-type]
                if script.silent is not None:
                    script.silent.wait(10)
                    return
                self.send_response(script.status)
                for name, value in script.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(script.body)))
                self.end_headers()
                self.wfile.write(script.body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Scripted]:
    script = Scripted()
    http = ThreadingHTTPServer(("127.0.0.1", 0), script.handler())
    script.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield script
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


@pytest.fixture
def destination(server: Scripted, token: Path) -> Iterator[DjangoDestination]:
    destination = DjangoDestination(server.url, token, 5.0)
    yield destination
    destination._session.close()


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    names = ("a-1.png", "a-1-overlay.png")
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    files = {name: tmp_path / name for name in names}
    return Parcel("ab" * 16, 1, Phase.PREDICTION, result().to_json(), files, ())


def test_document_and_images_go_as_named_parts_of_one_post(
    destination: DjangoDestination, server: Scripted, parcel: Parcel
) -> None:
    destination.deliver(parcel)
    assert server.paths == ["/api/v1/results"]
    assert server.authorizations == ["Bearer s3cret"]
    (parts,) = server.parts
    found = {
        str(p.get_param("name", header="Content-Disposition")): (
            p.get_filename(),
            p.get_content_type(),
            p.get_payload(decode=True),
        )
        for p in parts
    }
    assert found == {
        "result": ("result.json", "application/json", parcel.document),
        "a-1.png": ("a-1.png", "image/png", b"a-1.png"),
        "a-1-overlay.png": ("a-1-overlay.png", "image/png", b"a-1-overlay.png"),
    }


@pytest.mark.parametrize("status", [200, 201])
def test_new_and_there_already_are_both_done(
    destination: DjangoDestination, server: Scripted, parcel: Parcel, status: int
) -> None:
    server.status = status
    destination.deliver(parcel)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (409, Rejected, "another result of this study"),
        (422, Rejected, "images.0.frame"),
        (400, Rejected, "400"),
        (413, Rejected, "413"),
        (401, Unreachable, "token"),
        (403, Unreachable, "token"),
        (408, Unreachable, "408"),
        (429, Unreachable, "429"),
        (500, Unreachable, "500"),
        (502, Unreachable, "502"),
        (503, Unreachable, "503"),
    ],
)
def test_every_other_answer_is_final_or_may_change(
    destination: DjangoDestination,
    server: Scripted,
    parcel: Parcel,
    status: int,
    error: type[LimenError],
    said: str,
) -> None:
    server.status, server.body = status, b'{"errors": ["images.0.frame"]}'
    with pytest.raises(error, match=said) as caught:
        destination.deliver(parcel)
    assert "s3cret" not in str(caught.value)


def test_a_page_of_a_proxy_is_not_repeated(
    destination: DjangoDestination, server: Scripted, parcel: Parcel
) -> None:
    server.status, server.body = 404, b"<h1>Doe^Jane</h1>"
    server.headers = {"Content-Type": "text/html"}
    with pytest.raises(Rejected, match="no reason given"):
        destination.deliver(parcel)


def test_a_long_reason_is_cut(
    destination: DjangoDestination, server: Scripted, parcel: Parcel
) -> None:
    server.status, server.body = 422, b"x" * 10_000
    with pytest.raises(Rejected) as caught:
        destination.deliver(parcel)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_token(
    destination: DjangoDestination, server: Scripted, parcel: Parcel, status: int
) -> None:
    server.status = status
    server.headers = {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(LimenError, match=str(status)):
        destination.deliver(parcel)
    assert server.paths == ["/api/v1/results"]


def test_a_server_that_does_not_answer_in_time_is_unreachable(
    server: Scripted, token: Path, parcel: Parcel
) -> None:
    server.silent = threading.Event()
    destination = DjangoDestination(server.url, token, 0.2)
    with pytest.raises(Unreachable, match="ReadTimeout"):
        destination.deliver(parcel)
    server.silent.set()
    destination._session.close()


def test_a_server_that_is_not_there_is_unreachable(token: Path, parcel: Parcel) -> None:
    destination = DjangoDestination(f"http://127.0.0.1:{free_ports(1)[0]}", token, 1.0)
    with pytest.raises(Unreachable, match="does not answer"):
        destination.deliver(parcel)
    destination._session.close()


def test_a_token_is_read_for_each_delivery(
    destination: DjangoDestination, server: Scripted, parcel: Parcel, token: Path
) -> None:
    destination.deliver(parcel)
    token.write_text("renewed")
    destination.deliver(parcel)
    assert server.authorizations == ["Bearer s3cret", "Bearer renewed"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"two\nlines"])
def test_a_token_that_cannot_be_used_may_be_put_right(
    destination: DjangoDestination, parcel: Parcel, token: Path, content: bytes | None
) -> None:
    token.unlink()
    if content is not None:
        token.write_bytes(content)
    with pytest.raises(Unreachable) as caught:
        destination.deliver(parcel)
    assert "lines" not in str(caught.value)


def test_an_image_that_cannot_be_read_may_come_back(
    destination: DjangoDestination, server: Scripted, parcel: Parcel
) -> None:
    parcel.files["a-1.png"].unlink()
    with pytest.raises(Transient):
        destination.deliver(parcel)
    assert server.paths == []


def test_a_study_of_many_images_needs_no_file_handle_for_each(
    destination: DjangoDestination, server: Scripted, parcel: Parcel, tmp_path: Path
) -> None:
    import resource

    many = {f"{n}.png": tmp_path / "a-1.png" for n in range(300)}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        destination.deliver(Parcel(parcel.study_key, 1, parcel.phase, parcel.document, many, ()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(server.parts[0]) == 301


def test_no_proxy_of_the_environment_stands_between(
    destination: DjangoDestination, parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    destination.deliver(parcel)
