"""limen.doctor.peers: DICOM peers that reject, refuse, lack or cannot be trusted; what is told."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from limen.doctor.check import Node, Verdict
from limen.journal import Journal
from limen.selftest import AE_TITLE
from tests.support.doctor import fault, findings, node_of
from tests.support.pacs import CLASSES, pacs
from tests.support.ports import free_ports

# pynetdicom leaves the socket of a connection that was refused to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

_VERIFICATION = {"echo": "1.2.840.10008.1.1"}
_ALL = CLASSES | _VERIFICATION


def node_with(folder: Path, port: int, more: str = "", host: str = "127.0.0.1") -> Node:
    """Return a node whose one PACS is at that port."""
    return node_of(
        folder,
        f'[[destination.pacs]]\nname = "main"\nae_title = "PACS"\nhost = "{host}"\nport = {port}\n'
        f"{more}",
    )


# -- a PACS ----------------------------------------------------------------------------------------


def test_a_pacs_that_takes_everything_is_well(tmp_path: Path) -> None:
    with pacs(classes=_ALL) as there:
        found = findings(node_with(tmp_path, there.peer.port), "pacs")
    assert {f.verdict for f in found} == {Verdict.OK}, found
    assert "takes sr (explicit, implicit)" in found[0].text


def test_a_pacs_that_does_not_know_our_title_is_told_with_the_title(tmp_path: Path) -> None:
    with pacs(classes=_ALL, callers=("OTHER",)) as there:
        told = fault(node_with(tmp_path, there.peer.port), "pacs")
    assert "main: PACS at 127.0.0.1" in told
    assert "rejected LIMEN" in told
    assert "the peer lists LIMEN with this address" in told


def test_a_pacs_with_another_title_is_told(tmp_path: Path) -> None:
    with pacs(classes=_ALL, ae_title="ELSEWHERE") as there:
        told = fault(node_with(tmp_path, there.peer.port), "pacs")
    assert "Called AE title not recognised" in told
    assert "check the called AE title" in told


def test_a_pacs_that_is_away_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    assert "check host, port and firewall" in fault(node_with(tmp_path, port), "pacs")


def test_a_host_without_an_address_is_told(tmp_path: Path) -> None:
    told = fault(node_with(tmp_path, 104, host="pacs.invalid"), "pacs")
    assert "the host has no address" in told


def test_a_pacs_that_answers_no_echo_is_told(tmp_path: Path) -> None:
    with pacs(classes=CLASSES) as there:
        told = fault(node_with(tmp_path, there.peer.port), "pacs")
    assert "does not answer C-ECHO with Success" in told
    assert "look at the log of the PACS" in told


def test_a_pacs_that_takes_none_of_our_objects_is_told(tmp_path: Path) -> None:
    with pacs(classes=_VERIFICATION) as there:
        told = fault(node_with(tmp_path, there.peer.port), "pacs")
    assert "takes none of the objects" in told
    assert "set objects of this [[destination.pacs]]" in told


def test_what_a_pacs_does_not_take_is_a_warning_by_name(tmp_path: Path) -> None:
    classes = {k: v for k, v in _ALL.items() if k not in {"seg", "pm"}}
    with pacs(classes=classes) as there:
        told = fault(node_with(tmp_path, there.peer.port), "pacs", Verdict.WARNING)
    assert "it does not take seg, pm" in told


@pytest.mark.parametrize(
    ("commitment", "verdict"), [("required", Verdict.FAILED), ("ask", Verdict.OK)]
)
def test_a_pacs_that_does_not_vouch_fails_where_it_has_to(
    tmp_path: Path, commitment: str, verdict: Verdict
) -> None:
    with pacs(classes=_ALL, commitment=False) as there:
        node = node_with(tmp_path, there.peer.port, f'commitment = "{commitment}"\n')
        found = findings(node, "pacs")
    (one,) = [f for f in found if "it offers no storage commitment" in f.text]
    assert one.verdict is verdict
    assert ('set commitment = "ask"' in one.next) is (verdict is Verdict.FAILED)


def test_a_pacs_whose_reports_do_not_find_us_is_a_warning(tmp_path: Path) -> None:
    with pacs(classes=_ALL) as there:
        node = node_with(tmp_path, there.peer.port, 'calling_ae_title = "LIMEN2"\n')
        told = fault(node, "pacs", Verdict.WARNING)
    assert "we call it as LIMEN2" in told
    assert "leave calling_ae_title out" in told


def test_a_pacs_on_another_host_that_may_not_call_us_is_a_warning(tmp_path: Path) -> None:
    with pacs(classes=_ALL) as there:
        # An address that leads here, and that nobody takes for loopback.
        node = node_with(tmp_path, there.peer.port, host="127.1")
        told = fault(node, "pacs", Verdict.WARNING)
    assert "our receiver does not let it in" in told
    assert '[[scp.peer]] ae_title = "PACS"' in told


# -- TLS -------------------------------------------------------------------------------------------


@contextmanager
def secure(
    folder: Path, authority: trustme.CA, name: str = "127.0.0.1", **times: dt.datetime
) -> Iterator[Node]:
    """Run a PACS with a certificate of ``authority``; yield the node that trusts ca.pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **times).configure_cert(context)
    with pacs(classes=_ALL, tls=context) as there:
        yield node_with(folder, there.peer.port, 'tls = true\nca_file = "ca.pem"\n')


def in_days(days: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=days, hours=1)


@pytest.fixture
def trusted(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


def test_a_pacs_whose_certificate_is_good_is_well_and_says_until_when(
    tmp_path: Path, trusted: trustme.CA
) -> None:
    with secure(tmp_path, trusted, not_after=in_days(90)) as node:
        found = findings(node, "pacs")
    assert {f.verdict for f in found} == {Verdict.OK}, found
    assert "the certificate of the PACS is good until" in found[-1].text


def test_a_pacs_whose_certificate_ends_soon_is_a_warning(
    tmp_path: Path, trusted: trustme.CA
) -> None:
    with secure(tmp_path, trusted, not_after=in_days(9)) as node:
        assert "expires in 9 days" in fault(node, "pacs", Verdict.WARNING)


def test_a_pacs_whose_certificate_has_expired_is_told(tmp_path: Path, trusted: trustme.CA) -> None:
    times = {"not_before": in_days(-20), "not_after": in_days(-2)}
    with secure(tmp_path, trusted, **times) as node:
        told = fault(node, "pacs")
    assert "certificate has expired" in told


def test_a_pacs_whose_certificate_another_has_signed_is_told(
    tmp_path: Path, trusted: trustme.CA
) -> None:
    with secure(tmp_path, trustme.CA()) as node:
        told = fault(node, "pacs")
    assert "certificate" in told
    assert "its ca_file" in told


def test_a_pacs_that_shows_the_certificate_of_another_host_is_told(
    tmp_path: Path, trusted: trustme.CA
) -> None:
    with secure(tmp_path, trusted, "pacs.example.org") as node:
        assert "127.0.0.1" in fault(node, "pacs")


def test_a_pacs_without_tls_where_it_is_asked_for_is_told(
    tmp_path: Path, trusted: trustme.CA
) -> None:
    with pacs(classes=_ALL) as there:
        node = node_with(tmp_path, there.peer.port, 'tls = true\nca_file = "ca.pem"\n')
        told = fault(node, "pacs")
    assert "it speaks no TLS on that port" in told


def test_a_pacs_that_wants_tls_is_told(tmp_path: Path, trusted: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusted.issue_cert("127.0.0.1").configure_cert(context)
    with pacs(classes=_ALL, tls=context) as there:
        assert "TLS" in fault(node_with(tmp_path, there.peer.port), "pacs")


def test_files_of_tls_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    node = node_with(tmp_path, 104, 'tls = true\nca_file = "ca.pem"\n')
    assert "holds no certificates in PEM" in fault(node, "pacs")


# -- our receiver, and those that send -------------------------------------------------------------


@contextmanager
def listening(title: str, callers: tuple[str, ...] = ()) -> Iterator[int]:
    """Run what answers C-ECHO; yield its port."""
    with pacs(classes=_ALL, ae_title=title, callers=callers) as there:
        yield there.peer.port


def test_another_program_on_the_port_of_the_receiver_is_told(tmp_path: Path) -> None:
    with listening("ORTHANC") as port:
        told = fault(node_of(tmp_path, f"[scp]\nport = {port}\n"), "receiver")
    assert "Called AE title not recognised" in told


def test_a_receiver_that_lets_in_listed_senders_alone_is_a_warning(tmp_path: Path) -> None:
    with listening("LIMEN", callers=("CT1",)) as port:
        told = fault(node_of(tmp_path, f"[scp]\nport = {port}\n"), "receiver", Verdict.WARNING)
    assert f'ae_title = "{AE_TITLE}"' in told


def with_sender(folder: Path, port: int) -> Node:
    text = f'[[scp.peer]]\nae_title = "CT1"\naddress = "127.0.0.1"\nport = {port}\n'
    node = node_of(folder, f"[destination.django]\nenabled = false\n{text}")
    journal = Journal(node.settings.journal_url)
    journal.migrate()
    journal.close()
    return node


def test_a_device_that_is_switched_off_is_a_warning_and_no_failure(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    told = fault(with_sender(tmp_path, port), "senders", Verdict.WARNING)
    assert "has sent nothing lately" in told
    assert "reports of storage commitment cannot be sent to it" in told


def test_a_device_that_rejects_us_is_a_warning(tmp_path: Path) -> None:
    with listening("CT1", callers=("OTHER",)) as port:
        assert "rejected LIMEN" in fault(with_sender(tmp_path, port), "senders", Verdict.WARNING)


def test_a_device_that_answers_is_well(tmp_path: Path) -> None:
    with listening("CT1") as port:
        (found,) = findings(with_sender(tmp_path, port), "senders")
    assert found.verdict is Verdict.OK
