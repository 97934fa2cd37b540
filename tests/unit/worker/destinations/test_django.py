"""worker.destinations.django: what each answer of the results server means."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from limen.errors import LimenError, Rejected, Transient, Unreachable
from limen.result import Phase
from tests.support.ports import free_ports
from tests.support.samples import result
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


OURS, PAGE, BARE = "application/json", "text/html; charset=utf-8", ""

# status, kind of body, what it means for this result, what the operator is told
ANSWERS = [
    # It has arrived: new, or there already.
    (200, OURS, None, ""),
    (201, OURS, None, ""),
    (201, BARE, None, ""),
    # The results server says that this document is wrong: it always will.
    (400, OURS, Rejected, r"answered 400: .*images\.0\.frame"),
    (409, OURS, Rejected, "another result of this study"),
    (413, OURS, Rejected, r"answered 413: .*images\.0\.frame"),
    (422, OURS, Rejected, r"images\.0\.frame"),
    # Everything else can be put right, and the result then arrives without anybody's help.
    (204, BARE, Unreachable, "destination.django.url leads to something else"),
    (301, PAGE, Unreachable, "set destination.django.url to where results are taken"),
    (302, OURS, Unreachable, r"it sends elsewhere \(http://127\.0\.0\.1\), where the token does"),
    (307, BARE, Unreachable, "it sends elsewhere"),
    (308, BARE, Unreachable, "it sends elsewhere"),
    (304, BARE, Unreachable, "destination.django.url leads to something else"),
    (401, OURS, Unreachable, "does not know the token in .*limen web setup"),
    (403, OURS, Unreachable, "may not post results.*limen web setup"),
    (404, OURS, Unreachable, "is destination.django.url its base URL"),
    (404, PAGE, Unreachable, "is destination.django.url its base URL"),
    (405, OURS, Unreachable, "is destination.django.url its base URL"),
    (407, PAGE, Unreachable, "something in between answers"),
    (408, OURS, Unreachable, "408"),
    (410, PAGE, Unreachable, "something in between answers"),
    (429, OURS, Unreachable, "429"),
    (500, OURS, Unreachable, "answered 500: not now"),
    (502, PAGE, Unreachable, "in between does not reach it; is `limen web` running"),
    (503, OURS, Unreachable, r"cannot store now: .*images\.0\.frame"),
    (503, PAGE, Unreachable, "cannot store now: no reason given"),
    (504, PAGE, Unreachable, "in between does not reach it"),
    (507, OURS, Unreachable, "answered 507: not now"),
    # A page is never an answer of the results server.
    (200, PAGE, Unreachable, "answered 200 with a page: something in between answers"),
    (400, PAGE, Unreachable, "answered 400 with a page: something in between answers"),
    (409, PAGE, Unreachable, "answered 409 with a page: something in between answers"),
    (413, PAGE, Unreachable, "client_max_body_size"),
    (422, PAGE, Unreachable, "answered 422 with a page: something in between answers"),
]


@pytest.mark.parametrize(
    ("status", "kind", "error", "said"), ANSWERS, ids=[f"{a[0]}-{a[1][:9]}" for a in ANSWERS]
)
def test_only_what_says_that_the_document_is_wrong_is_final(
    destination: DjangoDestination,
    server: Scripted,
    parcel: Parcel,
    status: int,
    kind: str,
    error: type[LimenError] | None,
    said: str,
) -> None:
    server.status = status
    server.body = b"" if status in {204, 304} else b'{"errors": ["images.0.frame"]}'
    if kind == PAGE:
        server.body = b"<h1>Doe^Jane</h1>"
    server.headers = {"Content-Type": kind} if kind else {}
    if status in {301, 302, 307, 308}:
        server.headers["Location"] = f"{server.url}/elsewhere?name=Doe^Jane"
    if error is None:
        destination.deliver(parcel)
    else:
        with pytest.raises(error, match=said) as caught:
            destination.deliver(parcel)
        assert "s3cret" not in str(caught.value)
        assert "Doe" not in str(caught.value)
    assert server.paths == ["/api/v1/results"]  # no redirect is followed with the token


@pytest.mark.parametrize("status", [401, 413])
def test_a_refusal_that_comes_before_the_end_of_the_body_is_read(
    token: Path, parcel: Parcel, tmp_path: Path, status: int
) -> None:
    """A proxy answers and hangs up while a large result is still on its way."""
    (tmp_path / "large.png").write_bytes(bytes(32 << 20))
    large = replace(parcel, files={"large.png": tmp_path / "large.png"})

    def refuse(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        connection.shutdown(socket.SHUT_WR)

    with (
        listening(refuse) as url,
        destination_at(url, token) as destination,
        pytest.raises(LimenError, match=f"answered {status}"),
    ):
        destination.deliver(large)


def test_a_long_reason_is_cut(
    destination: DjangoDestination, server: Scripted, parcel: Parcel
) -> None:
    server.status, server.body = 422, b"x" * 10_000
    with pytest.raises(Rejected) as caught:
        destination.deliver(parcel)
    assert len(str(caught.value)) < 400


# -- no answer at all ------------------------------------------------------------------------------


@contextmanager
def listening(
    speak: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Run a server that does with each connection as told; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                try:
                    with tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
                        connection.settimeout(5)
                        speak(connection)
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def destination_at(
    url: str, token: Path, timeout_s: float = 5.0, ca_file: Path | None = None
) -> Iterator[DjangoDestination]:
    made = DjangoDestination(url, token, timeout_s, ca_file)
    yield made
    made._session.close()


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)


def answer(text: bytes) -> Callable[[socket.socket], None]:
    def speak(connection: socket.socket) -> None:
        while b"--\r\n" not in connection.recv(1 << 16):  # the end of the body
            pass
        connection.sendall(text)

    return speak


def refuse_at_once(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@pytest.mark.parametrize(
    ("speak", "said"),
    [
        (hang_up, "speaks no HTTP, or hangs up"),
        (answer(b"SSH-2.0-OpenSSH_9.2\r\n"), "speaks no HTTP"),
        (answer(CREATED.replace(b"2\r\nConn", b"9\r\nConn")), "speaks no HTTP, or hangs up"),
    ],
    ids=["hangs-up", "ssh", "half-an-answer"],
)
def test_what_is_no_answer_of_http_may_change(
    token: Path, parcel: Parcel, speak: Callable[[socket.socket], None], said: str
) -> None:
    with (
        listening(speak) as url,
        destination_at(url, token) as destination,
        pytest.raises(Unreachable, match=said),
    ):
        destination.deliver(parcel)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:{free}", r"\(ConnectionError\): is `limen web` running"),
        ("http://results.invalid:8642", "host name is not known; put destination.django.url"),
        ("http://[::1", r"\(InvalidURL\): put destination.django.url right"),
        ("http://127.0.0.1:port", r"\(InvalidURL\): put destination.django.url right"),
        ("https://.example", r"\(InvalidURL\): put destination.django.url right"),
    ],
)
def test_an_address_that_leads_nowhere_may_be_put_right(
    token: Path, parcel: Parcel, url: str, said: str
) -> None:
    with (
        destination_at(url.replace("{free}", str(free_ports(1)[0])), token) as destination,
        pytest.raises(Unreachable, match=said),
    ):
        destination.deliver(parcel)


def test_a_server_that_does_not_answer_in_time_is_unreachable(
    server: Scripted, token: Path, parcel: Parcel
) -> None:
    server.silent = threading.Event()
    with (
        destination_at(server.url, token, 0.2) as destination,
        pytest.raises(Unreachable, match=r"\(ReadTimeout\): is it overloaded"),
    ):
        destination.deliver(parcel)
    server.silent.set()


# -- TLS -------------------------------------------------------------------------------------------

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    """Who signs the certificate of a hospital's own server, and its file."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.crt")
    return made, tmp_path / "authority.crt"


def identity(
    authority: trustme.CA, name: str = "127.0.0.1", until: datetime.datetime | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=until).configure_cert(context)
    return context


def test_a_server_with_a_certificate_of_the_house_takes_results(
    token: Path, parcel: Parcel, authority: tuple[trustme.CA, Path]
) -> None:
    ca, file = authority
    with (
        listening(answer(CREATED), identity(ca)) as url,
        destination_at(url, token, ca_file=file) as destination,
    ):
        destination.deliver(parcel)


@pytest.mark.parametrize(
    ("name", "until", "knows", "said"),
    [
        ("127.0.0.1", None, False, "unable to get local issuer.*destination.django.ca_file"),
        ("other.example", None, True, "IP address mismatch.*destination.django.url right"),
        ("127.0.0.1", LONG_AGO, True, "certificate has expired"),
    ],
)
def test_a_certificate_that_is_not_trusted_may_be_put_right(
    token: Path,
    parcel: Parcel,
    authority: tuple[trustme.CA, Path],
    name: str,
    until: datetime.datetime | None,
    knows: bool,
    said: str,
) -> None:
    ca, file = authority
    with (
        listening(answer(CREATED), identity(ca, name, until)) as url,
        destination_at(url, token, ca_file=file if knows else None) as destination,
        pytest.raises(Unreachable, match=said),
    ):
        destination.deliver(parcel)


def test_a_port_without_tls_may_be_put_right(
    token: Path, parcel: Parcel, authority: tuple[trustme.CA, Path]
) -> None:
    with (
        listening(refuse_at_once) as url,
        destination_at(url.replace("http", "https"), token) as destination,
        pytest.raises(Unreachable, match="does it speak https at that port"),
    ):
        destination.deliver(parcel)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_used_may_be_put_right(
    token: Path, parcel: Parcel, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "authorities.crt"
    if content is not None:
        file.write_text(content)
    with (
        destination_at("https://127.0.0.1:1", token, ca_file=file) as destination,
        pytest.raises(Unreachable, match="destination.django.ca_file"),
    ):
        destination.deliver(parcel)


# -- what is sent ----------------------------------------------------------------------------------


def test_a_token_is_read_for_each_delivery(
    destination: DjangoDestination, server: Scripted, parcel: Parcel, token: Path
) -> None:
    destination.deliver(parcel)
    token.write_text("renewed")
    destination.deliver(parcel)
    assert server.authorizations == ["Bearer s3cret", "Bearer renewed"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"two\nlines", b"", b"\n"])
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
