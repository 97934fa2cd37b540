"""scp.tls: who may speak, with what, and certificates that are renewed under way."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from limen.config import Tls
from limen.errors import ConfigError
from limen.telemetry import METRICS
from scp.guard import Guard, Subject
from scp.tls import Credentials
from tests.support.associations import associate_rq, connect, is_dropped
from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.samples import data_set, settings, write_file
from tests.support.services import program
from tests.unit.scp.conftest import Listening


@dataclass(frozen=True)
class Papers:
    """An authority, the receiver's certificate and that of one client."""

    folder: Path
    ca: trustme.CA

    def write(self, name: str, cert: trustme.LeafCert) -> None:
        cert.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
        chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems)
        (self.folder / f"{name}.crt").write_bytes(chain)

    def settings(self, **more: Any) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {
            "port": port,
            "certificate_file": self.folder / "limen.crt",
            "key_file": self.folder / "limen.key",
            "ca_file": self.folder / "ca.crt",
        } | more

    def client(self, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if certificate:
            context.load_cert_chain(self.folder / "ct1.crt", self.folder / "ct1.key")
        return context


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    folder = tmp_path / "tls"
    folder.mkdir()
    found = Papers(folder, trustme.CA())
    found.ca.cert_pem.write_to_path(str(folder / "ca.crt"))
    found.write("limen", found.ca.issue_cert("127.0.0.1"))
    found.write("ct1", found.ca.issue_cert("ct1.example.org", common_name="ct1"))
    return found


def echoes(port: int, context: ssl.SSLContext, calling: str = "CT1") -> bool:
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 10
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", port, ae_title="LIMEN", tls_args=(context, "127.0.0.1"))
    if not assoc.is_established:
        return False
    status = assoc.send_c_echo()
    assoc.release()
    return bool(status.Status == 0)


def handshake(port: int, context: ssl.SSLContext) -> str | None:
    """Return the version that is agreed on."""
    with connect_to(port) as sock, context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
        return tls.version()


def connect_to(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def test_an_association_over_tls_works_and_so_does_the_plain_port(
    listen: Callable[..., Listening], papers: Papers
) -> None:
    tls = papers.settings()
    listening = listen(tls=tls)
    assert listening.receiver.tls_port == tls["port"]
    assert echoes(tls["port"], papers.client(certificate=False))
    with connect(listening.peer) as sock:
        sock.sendall(associate_rq())
        assert sock.recv(10)[0] == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_dcmtk_stores_over_tls(
    listen: Callable[..., Listening], papers: Papers, tmp_path: Path, processes: int
) -> None:
    storescu = program("storescu", "dcmtk")
    tls = papers.settings(client_certificate="required")
    listening = listen(tls=tls, processes=processes)
    write_file(tmp_path / "in.dcm", data_set(1, PixelData=os.urandom(300_000)))
    subprocess.run(
        [storescu, "-aec", "LIMEN", "+tls", papers.folder / "ct1.key", papers.folder / "ct1.crt"]
        + ["+cf", papers.folder / "ca.crt", "127.0.0.1", str(tls["port"]), tmp_path / "in.dcm"],
        check=True,
        timeout=30,
    )
    assert len(list(listening.config.spool_dir.glob("*/*.dcm"))) == 1


def test_tls_1_3_is_preferred_and_what_is_older_than_1_2_is_refused(
    listen: Callable[..., Listening], papers: Papers
) -> None:
    tls = papers.settings()
    listen(tls=tls)
    context = papers.client(certificate=False)
    assert handshake(tls["port"], context) == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(tls["port"], context) == "TLSv1.2"
    context.set_ciphers("AES256-SHA:ECDHE-RSA-AES256-SHA:AES128-GCM-SHA256@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(tls["port"], context)


@pytest.mark.parametrize(
    ("asked", "shown", "welcome"),
    [
        ("none", False, True),
        ("optional", False, True),
        ("optional", True, True),
        ("required", True, True),
        ("required", False, False),
    ],
)
def test_a_client_certificate_is_asked_for_as_the_settings_say(
    listen: Callable[..., Listening], papers: Papers, asked: str, shown: bool, welcome: bool
) -> None:
    tls = papers.settings(client_certificate=asked)
    listen(tls=tls)
    with connect_to(tls["port"]) as sock:
        context = papers.client(certificate=shown)
        assert opens(sock, context) is welcome


def opens(sock: socket.socket, context: ssl.SSLContext) -> bool:
    """Whether an association is accepted; under TLS 1.3 a refusal comes after the handshake."""
    try:
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
            tls.sendall(associate_rq())
            return tls.recv(10)[:1] == b"\x02"
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_certificate_of_another_authority_is_refused(
    listen: Callable[..., Listening], papers: Papers
) -> None:
    tls = papers.settings(client_certificate="required")
    listen(tls=tls)
    papers.write("ct1", trustme.CA().issue_cert("ct1.example.org", common_name="ct1"))
    with connect_to(tls["port"]) as sock:
        assert not opens(sock, papers.client())


def test_a_peer_with_a_subject_is_welcome_with_its_certificate_only(
    listen: Callable[..., Listening], papers: Papers
) -> None:
    tls = papers.settings(client_certificate="optional")
    peer = {"ae_title": "CT1", "address": "127.0.0.1", "tls_subject": "CN=ct1"}
    listening = listen(tls=tls, peer=[peer])
    with connect_to(tls["port"]) as sock:
        assert opens(sock, papers.client())
    with connect_to(tls["port"]) as sock:
        assert not opens(sock, papers.client(certificate=False))
    with connect(listening.peer) as sock:
        sock.sendall(associate_rq())
        assert sock.recv(10) == bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 3])


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\0", associate_rq()])
def test_who_stalls_or_speaks_no_tls_is_dropped_and_keeps_nobody_waiting(
    listen: Callable[..., Listening], papers: Papers, said: bytes
) -> None:
    tls = papers.settings()
    listen(tls=tls, handshake_timeout_s=1.0)
    with connect_to(tls["port"]) as silent:
        silent.sendall(said)
        assert echoes(tls["port"], papers.client(certificate=False))
        assert is_dropped(silent)


def test_a_renewed_certificate_is_used_without_a_restart(
    listen: Callable[..., Listening], papers: Papers
) -> None:
    tls = papers.settings()
    listen(tls=tls)

    def serial() -> Any:
        context = papers.client(certificate=False)
        with (
            connect_to(tls["port"]) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as wrapped,
        ):
            return (wrapped.getpeercert() or {})["serialNumber"]

    before = serial()
    papers.write("limen", papers.ca.issue_cert("127.0.0.1"))
    assert serial() != before


def test_a_renewal_that_cannot_be_used_leaves_the_certificate_before_it(papers: Papers) -> None:
    credentials = Credentials(Tls(**papers.settings()))
    before = credentials.context()
    (papers.folder / "limen.key").write_text("half a key")
    assert credentials.context() is before
    papers.write("limen", papers.ca.issue_cert("127.0.0.1"))
    assert credentials.context() is not before


@pytest.mark.parametrize("harm", ["absent", "no PEM", "another key"])
def test_files_that_cannot_be_used_are_told_at_the_start(papers: Papers, harm: str) -> None:
    key = papers.folder / "limen.key"
    if harm == "absent":
        key.unlink()
    elif harm == "no PEM":
        key.write_text("x")
    else:
        shutil.copy(papers.folder / "ct1.key", key)
    with pytest.raises(ConfigError, match=r"\[scp.tls\]"):
        Credentials(Tls(**papers.settings()))


def test_the_end_of_the_certificate_is_in_the_metrics(
    listen: Callable[..., Listening], papers: Papers
) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=20)
    papers.write("limen", papers.ca.issue_cert("127.0.0.1", not_after=ends))
    assert Credentials(Tls(**papers.settings())).expires_at() == ends
    listening = listen(tls=papers.settings())
    until(lambda: METRICS.certificate_expiry._value.get() == ends.timestamp(), 10, "the metric")
    assert listening.receiver.tls_port


# -- subjects --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "welcome"),
    [
        ("CN=ct1", True),
        ("ct1", True),
        ("cn=ct1, O=Hospital", True),
        ("O=Hospital", True),
        ("CN=ct2", False),
        ("CN=ct1,O=Elsewhere", False),
        ("CN=CT1", False),
    ],
)
def test_a_subject_has_to_hold_every_pair_that_is_listed(
    tmp_path: Path, listed: str, welcome: bool
) -> None:
    shown = Subject.of({"subject": ((("commonName", "ct1"),), (("organizationName", "Hospital"),))})
    tls = {"port": 1, "certificate_file": "c", "key_file": "k", "ca_file": "a"}
    scp = settings(
        tmp_path,
        scp={
            "peer": [{"ae_title": "CT1", "address": "::1", "tls_subject": listed}],
            "tls": tls | {"client_certificate": "required"},
        },
    ).scp
    assert (Guard(scp).refusal("CT1", "LIMEN", "::1", shown) is None) is welcome
    assert Guard(scp).refusal("CT1", "LIMEN", "::1", None) is not None
