"""limen.command.send: C-STORE and C-ECHO against the real receiver, and against nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.acse import ACSE
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.sop_class import MRImageStorage

from limen.command.send import Peer, Refused, Tls, echo, files_of, meaning, send
from limen.errors import ConfigError, Unreachable
from limen.uids import key_of
from scp.server import Receiver
from scp.spool import examine
from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.samples import STUDY_UID, data_set, encode, settings, write_file

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Receiver, Peer]]:
    receiver = Receiver(settings(tmp_path_factory.mktemp("node"), scp={"max_pdu_bytes": 4096}))
    port = receiver.start()
    yield receiver, Peer("LIMEN", "127.0.0.1", port)
    receiver.stop()


@pytest.fixture
def peer(receiver: tuple[Receiver, Peer]) -> Peer:
    return receiver[1]


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("LIMEN@127.0.0.1:11112", Peer("LIMEN", "127.0.0.1", 11112)),
        ("CT 1@node.example.org:104", Peer("CT 1", "node.example.org", 104)),
        (" PACS @h:1", Peer("PACS", "h", 1)),
        ("A@[::1]:65535", Peer("A", "::1", 65535)),
        ("A" * 16 + "@h:1", Peer("A" * 16, "h", 1)),
    ],
)
def test_a_peer_is_title_host_and_port(text: str, peer: Peer) -> None:
    assert Peer.parse(text) == peer


@pytest.mark.parametrize(
    "text",
    ["", "LIMEN", "LIMEN@h", "@h:1", "   @h:1", "A@h:0", "A@h:65536", "A@h:x", "A\\B@h:1", "A@:1"]
    + ["A" * 17 + "@h:1", "Ä@h:1", "A@h:1 ", "A@a b:1"],
)
def test_anything_else_is_no_peer(text: str) -> None:
    with pytest.raises(ValueError, match="AET@host:port"):
        Peer.parse(text)


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a"):
        write_file(tmp_path / name, data_set())
    assert [p.name for p in files_of([tmp_path / "b", tmp_path / "a"])] == ["1", "2", "a"]
    assert list(files_of([tmp_path / "absent"])) == [tmp_path / "absent"]


def test_files_arrive_bit_for_bit(
    receiver: tuple[Receiver, Peer], peer: Peer, tmp_path: Path
) -> None:
    large = data_set(2, PixelData=bytes(range(256)) * 400)  # many PDUs of 4 KiB
    sent = {
        str(ds.SOPInstanceUID): write_file(tmp_path / f"{n}.dcm", ds)
        for n, ds in enumerate([data_set(1), large])
    }
    seen: list[Path] = []
    report = send(files_of([tmp_path]), peer, "CT1", on_file=seen.append)
    assert (report.sent, report.failed, report.skipped) == (2, {}, [])
    assert report.statuses == {"0x0000": 2}
    assert len(seen) == 2
    folder = receiver[0].spool.root / key_of(STUDY_UID)
    for sop_uid, data in sent.items():
        path = folder / f"{key_of(sop_uid)}.dcm"
        assert path.read_bytes().endswith(data)
        assert examine(path).size_bytes == path.stat().st_size
        assert data == encode(data_set(1) if len(data) < 1000 else large)


def test_what_is_not_dicom_is_skipped_and_counted(peer: Peer, tmp_path: Path) -> None:
    write_file(tmp_path / "a.dcm", data_set(7))
    (tmp_path / "notes.txt").write_text("no DICOM here")
    (tmp_path / "b.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    report = send(files_of([tmp_path]), peer, "CT1")
    assert report.sent == 1
    assert sorted(p.name for p in report.skipped) == ["b.dcm", "notes.txt"]


def test_nothing_to_send_opens_no_association(tmp_path: Path) -> None:
    report = send([tmp_path / "absent"], Peer("LIMEN", "127.0.0.1", 1), "CT1")
    assert (report.sent, report.skipped) == (0, [tmp_path / "absent"])


def test_a_refused_instance_is_told_by_its_status(peer: Peer, tmp_path: Path) -> None:
    write_file(tmp_path / "a.dcm", data_set(8, StudyInstanceUID=None))
    write_file(tmp_path / "b.dcm", data_set(9))
    report = send(files_of([tmp_path]), peer, "CT1")
    assert report.failed == {tmp_path / "a.dcm": "0xC000"}
    assert report.sent == 1


def test_more_kinds_than_one_association_holds_are_sent_in_several(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limen.command.send.MAX_CONTEXTS", 1)
    write_file(tmp_path / "a.dcm", data_set(10))
    write_file(tmp_path / "b.dcm", data_set(11, SOPClassUID=MRImageStorage))
    assert send(files_of([tmp_path]), peer, "CT1").sent == 2


def test_a_wrong_called_title_is_refused(peer: Peer, tmp_path: Path) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    wrong = Peer("OTHER", peer.host, peer.port)
    with pytest.raises(Refused, match="called AE title"):
        send([tmp_path / "a.dcm"], wrong, "CT1")
    with pytest.raises(Refused):
        echo(wrong, "CT1")


def test_a_rejection_that_comes_before_the_library_looks_is_a_rejection(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then asks whether it is connected, and takes the end for that of the connection."""
    ask = ACSE.send_request

    def dawdle(acse: ACSE) -> None:
        ask(acse)
        until(
            lambda: acse.socket._ready.is_set() and not acse.socket._is_connected, 10, "the answer"
        )

    monkeypatch.setattr(ACSE, "send_request", dawdle)
    with pytest.raises(Refused, match="called AE title"):
        echo(Peer("OTHER", peer.host, peer.port), "CT1")


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    nobody = Peer("LIMEN", "127.0.0.1", free_ports(1)[0])
    with pytest.raises(Unreachable, match="does not answer"):
        send([tmp_path / "a.dcm"], nobody, "CT1")
    with pytest.raises(Unreachable):
        echo(nobody, "CT1")


def test_a_host_that_has_no_address_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        echo(Peer("LIMEN", "nowhere.invalid", 104), "CT1")


def test_a_port_that_speaks_no_dicom_is_not_a_success() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer("LIMEN", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises((Unreachable, Refused)):
            echo(peer, "CT1", timeout_s=0.3)


def test_a_peer_that_takes_no_such_class_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    ae = AE(ae_title="PACS")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        with pytest.raises(Refused, match="presentation context"):
            send([tmp_path / "a.dcm"], Peer("PACS", "127.0.0.1", server.server_address[1]), "CT1")
    finally:
        server.shutdown()


def test_an_echo_is_answered(peer: Peer) -> None:
    echo(peer, "CT1")


# -- against a peer with a will of its own ---------------------------------------------------------


class Pacs:
    """A pynetdicom acceptor that answers C-STORE as a test says, and counts."""

    def __init__(self, answer: Callable[[int], int | Dataset]) -> None:
        self._answer = answer
        self.meeting = threading.Barrier(1)
        self._counting = threading.Lock()
        self.requests = 0
        self.open = self.most_open = 0
        self.message_ids: list[int] = []

    def store(self, event: evt.Event) -> int | Dataset:
        with self._counting:
            self.requests += 1
            self.message_ids.append(event.request.MessageID)
            return self._answer(self.requests)

    def established(self, _: evt.Event) -> None:
        self.meeting.wait()
        with self._counting:
            self.open += 1
            self.most_open = max(self.open, self.most_open)

    def ended(self, _: evt.Event) -> None:
        with self._counting:
            self.open -= 1


@contextmanager
def pacs(
    answer: Callable[[int], int | Dataset] = lambda _: 0x0000,
    most: int = 10,
    contexts: list[Any] = AllStoragePresentationContexts,
    **more: Any,
) -> Iterator[tuple[Pacs, Peer]]:
    behaviour = Pacs(answer)
    ae = AE(ae_title="PACS")
    ae.supported_contexts = contexts
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.maximum_associations = most
    handlers = [
        (evt.EVT_C_STORE, behaviour.store),
        (evt.EVT_ESTABLISHED, behaviour.established),
        (evt.EVT_RELEASED, behaviour.ended),
        (evt.EVT_ABORTED, behaviour.ended),
    ]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, **more)
    try:
        yield behaviour, Peer("PACS", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def write_many(folder: Path, count: int) -> list[Path]:
    for n in range(count):
        write_file(folder / f"{n:03d}.dcm", data_set(n))
    return sorted(folder.iterdir())


def test_several_associations_share_the_files(tmp_path: Path) -> None:
    files = write_many(tmp_path, 40)
    seen: list[Path] = []
    with pacs() as (behaviour, peer):
        behaviour.meeting = threading.Barrier(4, timeout=20)  # all of them, or none goes on
        report = send(files, peer, "CT1", on_file=seen.append, associations=4)
    assert (report.sent, report.failed, report.refusals) == (40, {}, [])
    assert (behaviour.requests, behaviour.most_open) == (40, 4)
    assert not behaviour.meeting.broken
    assert sorted(seen) == files


def test_associations_over_the_limit_of_the_peer_are_told_and_the_others_send_all(
    tmp_path: Path,
) -> None:
    files = write_many(tmp_path, 30)
    with pacs(most=2) as (behaviour, peer):
        # pynetdicom counts those that it is about to reject too: it may reject all six at once.
        report = send(files, peer, "CT1", associations=6, retries=4, retry_wait_s=0.2)
    assert report.sent == 30
    assert behaviour.most_open <= 2
    assert [r for r in report.refusals if "Local limit exceeded" not in r] == []


def test_an_instance_that_finds_no_room_is_tried_again(tmp_path: Path) -> None:
    files = write_many(tmp_path, 3)
    with pacs(lambda n: 0xA700 if n in {1, 2, 4} else 0x0000) as (behaviour, peer):
        report = send(files, peer, "CT1", retries=2, retry_wait_s=0.01)
    assert (report.sent, report.failed, report.retried) == (3, {}, 3)
    assert behaviour.requests == 6


def test_tries_end_and_the_last_status_counts(tmp_path: Path) -> None:
    files = write_many(tmp_path, 1)
    with pacs(lambda n: 0xA700 if n == 1 else 0xA701) as (behaviour, peer):
        report = send(files, peer, "CT1", retries=1, retry_wait_s=0.01)
    assert report.failed == {files[0]: "0xA701"}
    assert behaviour.requests == 2


def test_what_can_never_pass_is_not_tried_again_and_its_comment_is_kept(tmp_path: Path) -> None:
    files = write_many(tmp_path, 2)
    refusal = Dataset()
    refusal.Status = 0xC000
    refusal.ErrorComment = "no such thing"
    with pacs(lambda n: refusal if n == 1 else 0x0000) as (behaviour, peer):
        report = send(files, peer, "CT1", retries=3, retry_wait_s=0.01)
    assert report.failed == {files[0]: "0xC000"}
    assert report.comments == {files[0]: "no such thing"}
    assert (behaviour.requests, report.retried) == (2, 0)


def test_a_warning_is_a_stored_instance(tmp_path: Path) -> None:
    files = write_many(tmp_path, 1)
    with pacs(lambda _: 0xB000) as (_behaviour, peer):
        report = send(files, peer, "CT1")
    assert (report.sent, report.failed, report.statuses) == (1, {}, {"0xB000": 1})


def test_message_ids_differ_within_an_association(tmp_path: Path) -> None:
    files = write_many(tmp_path, 5)
    with pacs() as (behaviour, peer):
        send(files, peer, "CT1")
    assert behaviour.message_ids == [1, 2, 3, 4, 5]


def test_an_answer_is_not_lost_where_the_thread_of_the_library_looks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_many(tmp_path, 2)
    look = DIMSEServiceProvider.get_msg

    def late(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        if block:  # whoever sent asks for the answer: on a busy machine the other one asked before
            until(provider.msg_queue.qsize, 10, "the answer")
            look(provider)
        return look(provider, block)

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", late)
    with pacs() as (_, peer):
        report = send(files, peer, "CT1", timeout_s=1)
    assert report.statuses == {"0x0000": 2}


class Hasty:
    """Answers the n-th C-STORE of its life by an abort."""

    def __init__(self, *numbers: int) -> None:
        self._numbers, self._seen = set(numbers), 0

    def __call__(self, event: evt.Event) -> int:
        self._seen += 1
        if self._seen in self._numbers:
            event.assoc.abort()
        return 0x0000


@contextmanager
def hasty(*numbers: int) -> Iterator[Peer]:
    ae = AE(ae_title="PACS")
    ae.supported_contexts = AllStoragePresentationContexts
    handlers = [(evt.EVT_C_STORE, Hasty(*numbers))]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer("PACS", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def test_an_association_that_is_aborted_fails_what_it_did_not_store(tmp_path: Path) -> None:
    files = write_many(tmp_path, 5)
    with hasty(3) as peer:
        report = send(files, peer, "CT1", timeout_s=5)
    assert report.sent == 2
    assert set(report.failed) == set(files[2:])
    assert set(report.failed.values()) <= {
        "no answer",
        "association lost",
        "not sent (BrokenPipeError)",
    }


def test_a_new_association_sends_what_an_aborted_one_did_not(tmp_path: Path) -> None:
    files = write_many(tmp_path, 5)
    with hasty(3, 5) as peer:
        report = send(files, peer, "CT1", timeout_s=5, retries=2, retry_wait_s=0.01)
    assert (report.sent, report.failed) == (5, {})
    assert report.retried == 3 + 2


def test_more_than_128_kinds_go_over_several_associations(tmp_path: Path) -> None:
    contexts = AllStoragePresentationContexts[:130]
    for n, context in enumerate(contexts):
        write_file(tmp_path / f"{n:03d}", data_set(n, SOPClassUID=context.abstract_syntax))
    with pacs() as (behaviour, peer):
        report = send(files_of([tmp_path]), peer, "CT1")
    assert (report.sent, report.failed) == (130, {})
    assert behaviour.message_ids.count(1) == 2


def test_a_peer_that_has_no_room_for_an_association_is_asked_again(tmp_path: Path) -> None:
    files = write_many(tmp_path, 1)
    with pacs(most=1) as (behaviour, peer):
        holder = AE()
        holder.add_requested_context("1.2.840.10008.1.1")
        held = holder.associate(peer.host, peer.port, ae_title="PACS")
        with pytest.raises(Refused, match="try again later") as refused:
            send(files, peer, "CT1")
        assert refused.value.transient
        timer = threading.Timer(0.3, held.release)
        timer.start()
        report = send(files, peer, "CT1", retries=5, retry_wait_s=0.2)
        timer.join()
    assert (report.sent, behaviour.requests) == (1, 1)


def test_a_rejection_for_good_is_not_tried_again(peer: Peer, tmp_path: Path) -> None:
    files = write_many(tmp_path, 1)
    with pytest.raises(Refused, match="Called AE title not recognised"):
        send(files, Peer("OTHER", peer.host, peer.port), "CT1", retries=8, retry_wait_s=60)


@pytest.mark.parametrize(
    ("status", "text"),
    [("0x0000", "stored"), ("0xA700", "peer is out of resources"), ("association lost", "")]
    + [("0xA901", "data set does not match the SOP class"), ("0xC123", "peer cannot understand it")]
    + [("0x9999", "an answer that the standard does not know")],
)
def test_a_status_has_a_meaning(status: str, text: str) -> None:
    assert meaning(status) == text


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[Peer]:
    """A peer that speaks TLS and asks for a certificate."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    # TLS 1.3 tells a client that its certificate is missing only after the handshake.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pacs(ssl_context=context) as (_, peer):
        yield peer


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> Tls:
    ours = authority.issue_cert("sender.example.org")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    return Tls(tmp_path / "ca.pem", tmp_path / "ours.pem")


def test_instances_and_echoes_go_over_tls(secure: Peer, tls: Tls, tmp_path: Path) -> None:
    assert echo(secure, "CT1", tls=tls) > 0
    files = write_many(tmp_path / "in", 3)
    assert send(files, secure, "CT1", associations=2, tls=tls).sent == 3


def test_a_peer_whom_nobody_we_trust_has_signed_is_not_spoken_to(
    secure: Peer, tls: Tls, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(Unreachable, match="TLS handshake failed.*certificate"):
        echo(secure, "CT1", tls=Tls(tmp_path / "other.pem", tls.certificate_file))


def test_a_peer_that_asks_for_our_certificate_is_told_of(secure: Peer, tls: Tls) -> None:
    with pytest.raises(Unreachable, match="--cert"):
        echo(secure, "CT1", tls=Tls(tls.ca_file))


def test_plain_dicom_to_a_peer_that_wants_tls_says_so(secure: Peer) -> None:
    with pytest.raises((Unreachable, Refused), match="TLS"):
        echo(secure, "CT1", timeout_s=3)


def test_a_key_that_is_not_the_certificates_is_a_fault_of_the_settings(
    authority: trustme.CA, secure: Peer, tls: Tls, tmp_path: Path
) -> None:
    authority.issue_cert("a.example.org").private_key_pem.write_to_path(tmp_path / "other.key")
    with pytest.raises(ConfigError, match="not a certificate and its key"):
        echo(secure, "CT1", tls=Tls(tls.ca_file, tls.certificate_file, tmp_path / "other.key"))
