"""limen.webhook: a signed POST, and what each answer of who is called means."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme

from limen import signing
from limen.errors import Rejected, Unreachable, Unwelcome
from limen.webhook import Webhook
from tests.support.ports import free_ports
from tests.support.webhooks import KEY, SECRET, Receiver, secret_file, webhooks


@pytest.fixture
def server() -> Iterator[Receiver]:
    with webhooks() as receiver:
        yield receiver


def hook(url: str, folder: Path, ca_file: Path | None = None, timeout_s: float = 5.0) -> Webhook:
    return Webhook("hook", url, secret_file(folder), ca_file, timeout_s)


def test_signatures_are_those_of_the_reference_library_of_the_specification(tmp_path: Path) -> None:
    # standardwebhooks 1.1.0 of PyPI, Webhook(SECRET).sign(...).
    assert signing.headers(KEY, "alarm_1", 1767322000, '{"text":"ä"}'.encode()) == {
        "webhook-id": "alarm_1",
        "webhook-timestamp": "1767322000",
        "webhook-signature": "v1,opHQUL8k7QCL2ww9hte6puV1ClLC1oxSQa124dKz3YM=",
    }
    assert signing.secret(secret_file(tmp_path)) == KEY
    assert signing.secret(secret_file(tmp_path, SECRET.removeprefix("whsec_"))) == KEY


@pytest.mark.parametrize("text", ["", "whsec_", "hunter2", "whsec_aHVudGVyMg==", "whsec_ä"])
def test_a_secret_that_is_none_is_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(Unreachable, match="openssl rand -base64 32") as caught:
        signing.secret(secret_file(tmp_path, text))
    assert "hunter2" not in str(caught.value)
    assert "aHVudGVyMg" not in str(caught.value)


def test_what_is_sent_is_what_was_given_and_is_signed(server: Receiver, tmp_path: Path) -> None:
    hook(server.url, tmp_path).post("m-1", b'{"a":1}')
    assert server.took == [("m-1", {"a": 1})]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, Unreachable),
        (307, Unreachable),
        (400, Rejected),
        (401, Unwelcome),
        (403, Unwelcome),
        (404, Unreachable),
        (408, Unreachable),
        (409, Rejected),
        (410, Unreachable),
        (413, Rejected),
        (422, Rejected),
        (429, Unreachable),
        (500, Unreachable),
        (503, Unreachable),
    ],
)
def test_each_answer_says_whether_to_ask_again(
    server: Receiver, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    server.status = status
    server.headers = {"Location": server.url}
    with pytest.raises(kind) as caught:
        hook(server.url, tmp_path).post("m-1", b"{}")
    assert type(caught.value) is kind
    assert str(status) in str(caught.value)
    assert "t0ken" not in str(caught.value)
    assert server.asked == ["m-1"]  # a redirect is not followed


def test_a_page_is_no_answer_of_who_is_called(server: Receiver, tmp_path: Path) -> None:
    server.status, server.headers = 400, {"Content-Type": "text/html"}
    with pytest.raises(Unreachable, match="with a page"):
        hook(server.url, tmp_path).post("m-1", b"{}")


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [("120", 120, 120), ("9" * 30, 3600, 3600), ("-5", 0, 0), ("soon", 0, 0), ("", 0, 0)],
)
def test_who_asks_to_wait_is_waited_for_an_hour_at_most(
    server: Receiver, tmp_path: Path, value: str, least_s: float, most_s: float
) -> None:
    server.status, server.headers = 429, {"Retry-After": value}
    with pytest.raises(Unreachable) as caught:
        hook(server.url, tmp_path).post("m-1", b"{}")
    assert least_s <= caught.value.wait_s <= most_s


def test_a_time_to_wait_for_may_be_a_date(server: Receiver, tmp_path: Path) -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    server.status, server.headers = 503, {"Retry-After": format_datetime(later, usegmt=True)}
    with pytest.raises(Unreachable) as caught:
        hook(server.url, tmp_path).post("m-1", b"{}")
    assert 60 < caught.value.wait_s <= 90


def test_nobody_there_and_nobody_who_answers_are_asked_again(
    server: Receiver, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match="does not answer"):
        hook(f"http://127.0.0.1:{port}/", tmp_path).post("m-1", b"{}")
    server.silent = threading.Event()
    with pytest.raises(Unreachable, match="does not answer"):
        hook(server.url, tmp_path, timeout_s=0.3).post("m-1", b"{}")


def test_only_a_certificate_of_those_who_are_named_will_do(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("127.0.0.1").configure_cert(context)
    for name, authority in (("ours", ours), ("theirs", theirs)):
        authority.cert_pem.write_to_path(tmp_path / name)
    with webhooks(context) as server:
        hook(server.url, tmp_path, tmp_path / "ours").post("m-1", b"{}")
        for other in (tmp_path / "theirs", None):
            with pytest.raises(Unreachable, match="not trusted"):
                hook(server.url, tmp_path, other).post("m-2", b"{}")
        assert server.asked == ["m-1"]
