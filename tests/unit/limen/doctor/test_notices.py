"""limen.doctor.notices: whom we tell of something, broken one way at a time; nothing is sent."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from limen.doctor.check import Finding, Verdict
from limen.doctor.notices import notices
from tests.support.doctor import node_of
from tests.support.mllp import receiver
from tests.support.ports import free_ports
from tests.support.webhooks import Receiver, secret_file, webhooks

CA = trustme.CA()


def look(folder: Path, url: str, **keys: Any) -> list[Finding]:
    CA.cert_pem.write_to_path(folder / "ca")
    alarm = {"webhook": url, "secret_file": secret_file(folder), "ca_file": folder / "ca", **keys}
    text = "".join(f'{key} = "{value}"\n' for key, value in alarm.items())
    return list(notices(node_of(folder, f"[alarm]\n{text}")))


def served(**certificate: Any) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1", **certificate).configure_cert(context)
    return webhooks(context)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with served() as receiver:
        yield receiver


def told(found: list[Finding], verdict: Verdict) -> list[str]:
    return [one.text for one in found if one.verdict is verdict]


def test_a_webhook_that_is_well_is_well_and_gets_no_message(
    tmp_path: Path, server: Receiver
) -> None:
    found = look(tmp_path, server.url)
    assert {one.verdict for one in found} == {Verdict.OK}
    assert server.asked == []
    assert "t0ken" not in str(found)


def test_without_a_webhook_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    (found,) = notices(node_of(tmp_path))
    assert found.verdict is Verdict.SKIPPED


def test_nobody_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (text,) = told(look(tmp_path, f"https://127.0.0.1:{port}/"), Verdict.FAILED)
    assert f"127.0.0.1:{port} does not answer" in text


def test_no_secret(tmp_path: Path, server: Receiver) -> None:
    found = look(tmp_path, server.url, secret_file=tmp_path / "absent")
    (text,) = told(found, Verdict.FAILED)
    assert "openssl rand" in text
    assert len(told(found, Verdict.OK)) == 2  # it is there all the same


def test_another_authority(tmp_path: Path, server: Receiver) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other")
    (text,) = told(look(tmp_path, server.url, ca_file=tmp_path / "other"), Verdict.FAILED)
    assert "is not trusted" in text


def test_no_tls_there(tmp_path: Path) -> None:
    with webhooks() as plain:
        (text,) = told(look(tmp_path, plain.url.replace("http:", "https:")), Verdict.FAILED)
    assert "speaks no TLS" in text


def test_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    with served(not_after=datetime.now(UTC) + timedelta(days=10)) as server:
        (text,) = told(look(tmp_path, server.url), Verdict.WARNING)
    assert "expires in" in text


def test_a_ris_is_looked_at_and_told_nothing(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    CA.cert_pem.write_to_path(tmp_path / "ca")
    with receiver(context) as ris:
        text = '[[destination.hl7]]\nname = "ris"\nhost = "127.0.0.1"\ntls = true\n'
        text += f'port = {ris.port}\nca_file = "{tmp_path}/ca"\n'
        assert {one.verdict for one in notices(node_of(tmp_path, text))} == {Verdict.OK}
        absent = f'{text}certificate_file = "{tmp_path}/absent"\n'
        (fault,) = told(list(notices(node_of(tmp_path, absent))), Verdict.FAILED)
        assert "cannot be read, or is no PEM" in fault
    (text,) = told(list(notices(node_of(tmp_path, text))), Verdict.FAILED)
    assert "does not answer" in text
    assert ris.came == []
