"""Attacks on the results server: the process with its shipped defaults, from the wire.

While an attack goes on, somebody with an account is answered within seconds; memory, threads and
files of the server stay within bounds; afterwards it holds what it held before.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.node import until
from tests.support.results_server import Server, document_part, log_in, post_parts, running
from tests.web import samples

SERVED_S = 5.0
"""Somebody with an account is answered within this, whatever another one does."""
GROWTH_BYTES = 200 << 20
"""Of a server that has had each kind of request once."""
THREADS = 16 + 8
DATABASE_FILES = 16 * 3 + 4
"""Each thread keeps its connection to the database."""
STUDY = samples.result()
UID = STUDY.study.study_uid


class Target:
    """The server under attack, and somebody who reads meanwhile."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.reader = requests.Session()
        login(server, self.reader)

    def serves(self) -> float:
        """Return the seconds that the worklist takes, over a new connection."""
        began = time.monotonic()
        answer = requests.get(self.url, cookies=self.reader.cookies, timeout=30)
        assert answer.status_code == 200
        return time.monotonic() - began

    def pid(self) -> int:
        """Return the process that serves."""
        first = self.server.process.pid
        (child,) = Path(f"/proc/{first}/task/{first}/children").read_text("ascii").split()
        return int(child)

    def status(self, key: str) -> int:
        """Return a number of proc(5): Threads, VmRSS (kB)."""
        text = Path(f"/proc/{self.pid()}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+)", text)[1])

    def files(self) -> int:
        """Return how many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.pid()}/fd").iterdir()))

    def log(self) -> str:
        """Return what it logged."""
        return (Path(self.server.environment["LIMEN_NODE__DATA_DIR"]) / "web.log").read_text()

    def kept(self) -> int:
        """Return the bytes in its media store and its uploads."""
        folder = Path(self.server.environment["LIMEN_NODE__DATA_DIR"]) / "web-media"
        return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def login(server: Server, session: requests.Session) -> None:
    link = json.loads(server.command("link", "admin", "--json").stdout)["login_url"]
    assert log_in(session, link).ok


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running(tmp_path_factory.mktemp("web")) as server:
        target = Target(server)
        parts = [document_part(STUDY)]
        parts += [(n, (n, b, "image/png")) for n, b in samples.files(STUDY).items()]
        assert post_parts(server.url, server.token, parts).status_code == 201
        yield target


@pytest.fixture(autouse=True)
def siege(target: Target) -> Iterator[None]:
    """See that an attack costs little, and leaves nothing."""
    target.serves()
    memory, files, pid = target.status("VmRSS"), target.files(), target.pid()
    yield
    assert target.serves() < SERVED_S
    assert target.pid() == pid, "the process that serves was replaced"
    assert target.status("Threads") <= THREADS
    assert (target.status("VmRSS") - memory) * 1024 < GROWTH_BYTES
    until(lambda: target.files() <= files + DATABASE_FILES, 20, "sockets to be closed")
    assert "Traceback" not in target.log()


def connected(target: Target, data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", target.server.port), timeout=10)
    if data:
        sock.sendall(data)
    return sock


def said(target: Target, data: bytes, timeout_s: float = 30) -> bytes:
    """Send bytes as they are and return all that is answered until the server hangs up."""
    with connected(target) as sock:
        sock.settimeout(timeout_s)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


HEAD = b"GET /login/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FORM = (
    b"POST /login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
    b"application/x-www-form-urlencoded\r\nContent-Length: 5000\r\n\r\nusername="
)


# ---- slow clients ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", HEAD, HEAD + b"X-A: b", FORM, b"\r\n\r\n"],
    ids=["nothing", "a-byte", "half-a-head", "half-a-line", "half-a-form", "empty-lines"],
)
def test_a_hundred_clients_that_stop_half_way_hold_up_nobody(target: Target, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connected(target, sent))
        assert max(target.serves() for _ in range(3)) < SERVED_S
        assert target.status("Threads") <= THREADS


def test_who_sends_a_byte_now_and_then_is_let_go(target: Target) -> None:
    """The whole of a small request has one deadline: bytes do not put it off."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(target, HEAD)) for _ in range(40)]
        ended: set[int] = set()

        def drip() -> bool:
            for n, sock in enumerate(socks):
                sock.settimeout(0.001)
                try:
                    sock.send(b"x")
                    if sock.recv(1) == b"":
                        ended.add(n)
                except TimeoutError:
                    continue
                except OSError:
                    ended.add(n)
            assert target.serves() < SERVED_S
            return len(ended) == len(socks)

        until(drip, 20, "the last of them to be let go")


def test_a_kept_connection_is_no_way_around_the_deadline(target: Target) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(target, whole)) for _ in range(40)]
        for sock in socks:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(HEAD)
        assert max(target.serves() for _ in range(3)) < SERVED_S


def test_what_is_sent_behind_a_request_is_no_way_around_it_either(target: Target) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(target, whole + HEAD))
        assert max(target.serves() for _ in range(3)) < SERVED_S


def test_large_bodies_that_stop_hold_up_nobody_without_a_token(target: Target) -> None:
    slow = (
        b"POST /api/v1/results HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer guess\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000\r\n\r\n--x"
    )
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(target, slow)) for _ in range(60)]
        assert max(target.serves() for _ in range(3)) < SERVED_S
        assert all(s.recv(20).startswith((b"HTTP/1.1 401", b"HTTP/1.1 429")) for s in socks)


def test_a_thousand_connections_are_within_bounds(target: Target) -> None:
    """The oldest that has said nothing makes room; who asks at once is answered."""
    with contextlib.ExitStack() as stack:
        for _ in range(900):
            stack.enter_context(connected(target))
        assert max(target.serves() for _ in range(3)) < SERVED_S
        assert target.files() < 700


def test_who_never_reads_the_answers_holds_up_nobody(target: Target) -> None:
    asked = b"GET /static/results/app.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", target.server.port))
            sock.sendall(asked)
        assert max(target.serves() for _ in range(3)) < SERVED_S


# ---- large requests --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (HEAD + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n", {431}),
        (HEAD + b"X-A: b\r\n" * 2000 + b"\r\n", {431, 400}),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {414, 400, 431}),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: " + b"a=b; " * 3000 + b"\r\n\r\n",
         {431, 400}),
        (b"x" * 1_000_000, {431, 400}),
    ],
    ids=["one-header", "many-headers", "address", "cookies", "no-head-at-all"],
)  # fmt: skip
def test_a_head_that_is_too_large_is_refused(
    target: Target, request_: bytes, expected: set[int]
) -> None:
    found = statuses(said(target, request_))
    assert found == [] or set(found) <= expected


@pytest.mark.parametrize("path", ["/login/", "/logout/", "/password/", "/api/v1/deliveries"])
def test_a_body_that_no_page_sends_is_refused_before_it_is_read(target: Target, path: str) -> None:
    """A form with files would go to the disk of the server before anybody is asked who sent it."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 400000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    ).encode()
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"z" * 100_000
    kept = target.kept()
    assert statuses(said(target, head + part)) == [413]
    assert target.kept() == kept


def test_a_body_in_chunks_is_refused_everywhere(target: Target) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    for path in (b"/login/", b"/api/v1/results", b"/api/v1/deliveries"):
        answer = said(target, b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + chunked)
        assert statuses(answer) == [411]


DEEP = b"[" * 30_000 + b"]" * 30_000


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b'{"schema": ' + DEEP + b"}",
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"schema": ' + b"9" * 60_000 + b"}",
        b'{"schema": 1e999999}',
        b'{"schema": -1E400, "x": 1e-999999}',
        b'{"schema": "' + b"\\ud800" * 5000 + b'"}',
        b'{"' + b"k" * 60_000 + b'": 1}',
        b"{" + b",".join(b'"k%d": 1' % n for n in range(5000)) + b"}",
    ],
    ids=["deep", "deep-field", "deep-objects", "digits", "huge", "minus", "surrogates", "key",
         "keys"],
)  # fmt: skip
def test_json_that_is_made_to_hurt_is_refused_in_a_moment(target: Target, body: bytes) -> None:
    began = time.monotonic()
    result = post_parts(target.url, target.server.token, [document_part(body)])
    assert result.status_code == 422
    told = requests.post(
        f"{target.url}/api/v1/deliveries",
        data=body,
        headers={
            "Authorization": f"Bearer {target.server.token}",
            "Content-Type": "application/json",
        },
        timeout=30,
    )
    assert told.status_code in {400, 422}
    assert len(result.content) + len(told.content) < 40_000
    assert time.monotonic() - began < 10


def _png(columns: int, rows: int, data: bytes, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra
        + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )  # fmt: skip


BOMB = zlib.compress(b"\0" * (300 << 20), 9)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (_png(2**31 - 1, 2**31 - 1, b""), 422),
        (_png(100_000, 100_000, b""), 422),
        (_png(0, 5, b""), 422),
        (b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffIHDR" + b"\0" * 40, 422),
        # Nobody here unpacks it: it is kept as it is, and a browser stops at the size it states.
        (_png(16, 16, BOMB), 201),
    ],
    ids=["dimensions", "pixels", "empty", "chunk-length", "deflated"],
)
def test_a_png_that_is_made_to_burst_is_never_unpacked(
    target: Target, image: bytes, expected: int
) -> None:
    document = samples.result(50)
    parts = [document_part(document)]
    parts += [(name, (name, image, "image/png")) for name in samples.files(document)]
    memory = target.status("VmRSS")
    assert post_parts(target.url, target.server.token, parts).status_code == expected
    assert (target.status("VmRSS") - memory) < 100_000


def _multipart(target: Target, body: bytes) -> int:
    return requests.post(
        f"{target.url}/api/v1/results",
        data=body,
        headers={
            "Authorization": f"Bearer {target.server.token}",
            "Content-Type": "multipart/form-data; boundary=x",
        },
        timeout=60,
    ).status_code


PART = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\nz\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"".join(PART % b"n%d" % n for n in range(25_000)) + b"--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nz\r\n" * 25_000 + b"--x--\r\n",
        PART % (b"n" * 900_000) + b"--x--\r\n",
        b"--x\r\n" + b"X-Header: a\r\n" * 50_000 + b"\r\nz\r\n--x--\r\n",
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n" + b"--y\r\n" * 20_000,
        b"--x" * 300_000,
        PART % b"../../../../tmp/evil" + b"--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="result"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\n" + b"!" * 100_000 + b"\r\n--x--\r\n",
    ],
    ids=["files", "fields", "name", "headers", "nested", "boundaries", "path", "base64"],
)
def test_a_multipart_body_that_is_made_to_hurt_is_refused(target: Target, body: bytes) -> None:
    kept = target.kept()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_multipart, target, body)
        assert target.serves() < SERVED_S
        assert sending.result() in {400, 413, 422}
    assert target.kept() == kept
    assert not Path("/tmp/evil").exists()


def test_a_large_study_is_no_attack(target: Target) -> None:
    """Each image of a large result is a file while it comes: more than 1024 may be open."""
    image = samples.png(samples.head(0, 1, 64))
    document = json.loads(samples.result(51).to_json())
    first = document["images"][0]
    document["images"] = [
        {**first, "sop_uid": f"1.2.3.{n}", "original": f"o{n}.png", "explanation": None}
        for n in range(1500)
    ]
    parts = [document_part(json.dumps(document).encode())]
    parts += [(f"o{n}.png", (f"o{n}.png", image, "image/png")) for n in range(1500)]
    assert post_parts(target.url, target.server.token, parts).status_code == 201


def test_a_packed_body_is_not_unpacked(target: Target) -> None:
    body = gzip.compress(b"[" * (50 << 20))
    for path in ("/api/v1/deliveries", "/login/"):
        answer = requests.post(
            f"{target.url}{path}",
            data=body[:60_000],
            headers={
                "Authorization": f"Bearer {target.server.token}",
                "Content-Encoding": "gzip",
                "Content-Type": "application/json",
            },
            timeout=30,
        )
        assert answer.status_code in {400, 403, 422}


def test_many_logins_at_once_cost_bounded_memory_and_hold_up_nobody(target: Target) -> None:
    """Argon2 takes 100 MiB for each password that is looked at."""
    session = requests.Session()
    session.get(f"{target.url}/login/", timeout=10)
    form = {"csrfmiddlewaretoken": session.cookies["limen_csrf"], "password": "x" * 20}
    memory = target.status("VmRSS")

    def attempt(n: int) -> int:
        return requests.post(
            f"{target.url}/login/",
            data={**form, "username": f"u{n}"},
            cookies=session.cookies,
            timeout=60,
        ).status_code

    with ThreadPoolExecutor(40) as pool:
        trying = [pool.submit(attempt, n) for n in range(80)]
        assert target.serves() < SERVED_S
        assert {t.result() for t in trying} <= {200, 429}
    assert (target.status("VmRSS") - memory) * 1024 < 300 << 20


# ---- names, addresses, cookies ----------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1@evil.example", "127.0.0.1:80:80", "[::1", "a b", "x/../y"]
)
def test_a_host_that_is_not_ours_is_never_repeated(target: Target, host: str) -> None:
    answer = said(
        target, f"GET /login/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    )
    assert statuses(answer) == [400]
    assert b"evil" not in answer


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: gopher", "X-Forwarded-Port: 1",
        "X-Forwarded-Prefix: //evil.example", "Forwarded: host=evil.example",
        "X-Original-URL: /metrics", "X-Rewrite-URL: /metrics", "X-HTTP-Method-Override: DELETE",
        "SCRIPT_NAME: //evil.example", "PATH_INFO: /metrics", "Script-Name: //evil.example",
        "X_FORWARDED_HOST: evil.example", "REMOTE_USER: admin", "Remote-User: admin",
    ],
)  # fmt: skip
def test_a_header_of_a_proxy_that_is_none_changes_nothing(target: Target, header: str) -> None:
    answer = said(
        target,
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{header}\r\n\r\n".encode(),
    )
    assert b"evil" not in answer
    assert statuses(answer) == [302]
    assert b"Location: /login/?next=/\r\n" in answer


@pytest.mark.parametrize(
    "next_",
    [
        "https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example",
        "///evil.example", "/%09/evil.example", "\t//evil.example", "javascript:alert(1)",
        "http:evil.example", "/login/../..//evil.example", "\r\nSet-Cookie: a=b",
        "/\r\nSet-Cookie:a=b", "//127.0.0.1@evil.example", "data:text/html,x",
    ],
)  # fmt: skip
def test_a_login_leads_to_a_place_of_this_server(target: Target, next_: str) -> None:
    for answer in (
        target.reader.get(
            f"{target.url}/login/", params={"next": next_}, timeout=10, allow_redirects=False
        ),
    ):
        assert answer.status_code == 302
        place = answer.headers["Location"]
        assert re.match(r"/(?![/\\])", place), place
        assert "a=b" not in answer.cookies.get_dict().values()
        assert "Set-Cookie" not in answer.headers or "a=b" not in answer.headers["Set-Cookie"]


def test_a_session_is_made_new_at_login_and_ends_at_logout(target: Target) -> None:
    session = requests.Session()
    session.cookies.set("limen_session", "chosenbyanattacker0123456789abcd", domain="127.0.0.1")
    login(target.server, session)
    mine = [c.value for c in session.cookies if c.name == "limen_session"]
    assert "chosenbyanattacker0123456789abcd" not in mine[-1:]
    stolen = {"limen_session": mine[-1]}
    assert requests.get(target.url, cookies=stolen, timeout=10).url == f"{target.url}/"
    form = {"csrfmiddlewaretoken": session.cookies["limen_csrf"]}
    session.post(f"{target.url}/logout/", form, timeout=10)
    assert "/login/" in requests.get(target.url, cookies=stolen, timeout=10).url


def test_cookies_are_for_this_server_and_no_script(target: Target) -> None:
    session = requests.Session()
    login(target.server, session)
    flags = {c.name: c for c in session.cookies}
    for name in ("limen_session", "limen_csrf"):
        assert "HttpOnly" in flags[name]._rest
        assert flags[name]._rest["SameSite"] == "Lax"
    assert not flags["limen_session"].domain_specified


def test_cookies_travel_by_tls_alone_where_the_address_says_https(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("https")
    with running(folder, LIMEN_WEB__PUBLIC_URL="https://limen.example") as server:
        page = requests.get(f"{server.url}/login/", timeout=10)
        assert "Secure" in page.headers["Set-Cookie"]


def test_every_changing_page_refuses_a_form_of_another_place(target: Target) -> None:
    key = target.reader.get(f"{target.url}/api/v1/studies/{UID}", timeout=10).json()["key"]
    for path in (
        "/login/", "/logout/", "/password/", f"/studies/{key}/feedback",
        f"/api/v1/studies/{UID}/feedback",
    ):  # fmt: skip
        for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            answer = requests.post(
                f"{target.url}{path}",
                data={"verdict": "agree", "revision": "1", "csrfmiddlewaretoken": "x" * 32},
                headers=headers,
                cookies=target.reader.cookies,
                timeout=10,
                allow_redirects=False,
            )
            assert answer.status_code == 403, path


@pytest.mark.parametrize(
    "path",
    [
        "/static/../web.db", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/results/..%2f..%2fx",
        "/static//etc/passwd", "/studies/{key}/images/../../../etc/passwd",
        "/studies/{key}/images/%2e%2e%2f%2e%2e%2fsecrets%2fweb-secret-key",
        "/api/v1/studies/..%2f..%2fx/images/1.2/original", "/web-media/", "/.env", "/admin/",
        "/static/", "/media/",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_what_is_served(target: Target, path: str) -> None:
    key = target.reader.get(f"{target.url}/api/v1/studies/{UID}", timeout=10).json()["key"]
    cookie = "; ".join(f"{c.name}={c.value}" for c in target.reader.cookies)
    answer = said(
        target,
        f"GET {path.format(key=key)} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n"
        "Connection: close\r\n\r\n".encode(),
    )
    assert statuses(answer) in ([404], [400])


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "GeT"]
)
def test_a_method_that_means_nothing_changes_nothing(target: Target, method: str) -> None:
    for path in ("/", "/login/", "/logout/", "/api/v1/results", f"/api/v1/studies/{UID}"):
        answer = said(
            target,
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
            f"Authorization: Bearer {target.server.token}\r\nConnection: close\r\n\r\n".encode(),
        )
        assert statuses(answer)[0] in {302, 400, 403, 405, 501}
        assert b"Bearer" not in answer.replace(b"WWW-Authenticate: Bearer", b"")


def test_a_get_changes_nothing(target: Target) -> None:
    for path in ("/logout/", f"/api/v1/studies/{UID}/feedback", "/api/v1/results"):
        answer = target.reader.get(f"{target.url}{path}", timeout=10, allow_redirects=False)
        assert answer.status_code in {403, 405}


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n", b"Content-Length: +5\r\n", b"Content-Length: 0x5\r\n",
        b"Content-Length: -1\r\n", b"Content-Length : 5\r\n", b"Content-Length: 5\n",
        b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"X: a\rContent-Length: 5\r\n", b" Content-Length: 5\r\n",
        b"X: a\r\n Content-Length: 5\r\n",
    ],
)  # fmt: skip
def test_one_request_is_never_taken_for_two(target: Target, head: bytes) -> None:
    """Where the ends of a message can be read in two ways it is refused, and nothing follows."""
    behind = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = said(target, b"POST /login/ HTTP/1.1\r\nHost: 127.0.0.1\r\n" + head + b"\r\n" + behind)
    found = statuses(answer)
    assert len(found) <= 1
    assert b'"ok"' not in answer
    assert all(400 <= code <= 501 for code in found)


def test_ranges_multiply_nothing(target: Target) -> None:
    key = target.reader.get(f"{target.url}/api/v1/studies/{UID}", timeout=10).json()["key"]
    ranges = "bytes=" + ",".join(f"{n}-" for n in range(700))
    for path in ("/static/results/app.css", f"/studies/{key}/"):
        answer = target.reader.get(f"{target.url}{path}", headers={"Range": ranges}, timeout=10)
        assert len(answer.content) < 200_000
        assert "multipart/byteranges" not in answer.headers["Content-Type"]


def test_what_names_a_patient_is_kept_by_no_cache_and_shown_in_no_frame(target: Target) -> None:
    key = target.reader.get(f"{target.url}/api/v1/studies/{UID}", timeout=10).json()["key"]
    for path in ("/", f"/studies/{key}/", "/api/v1/studies", f"/api/v1/studies/{UID}", "/audit/"):
        headers = target.reader.get(f"{target.url}{path}", timeout=10).headers
        assert headers["Cache-Control"] == "private, no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
    assert "gunicorn" not in str(headers).lower() or "/" not in headers.get("Server", "")


# ---- login links -----------------------------------------------------------------------------


def link_of(target: Target) -> str:
    return str(json.loads(target.server.command("link", "admin", "--json").stdout)["login_url"])


def test_a_login_link_is_not_used_up_by_who_only_looks_at_it(target: Target) -> None:
    """Scanners of mail and previews of chats open every link; none of them sends a form."""
    link = link_of(target)
    for method in ("GET", "HEAD", "OPTIONS"):
        looked = requests.request(method, link, timeout=10, allow_redirects=False)
        assert "limen_session" not in looked.cookies
    session = requests.Session()
    session.get(link, timeout=10)
    form = {"csrfmiddlewaretoken": session.cookies["limen_csrf"]}
    first = session.post(link, form, timeout=10, allow_redirects=False)
    assert first.status_code == 302
    assert session.post(link, form, timeout=10, allow_redirects=False).status_code in {302, 403}
    other = requests.Session()
    assert other.get(link, timeout=10).status_code == 410
    assert "limen_session" not in other.cookies
