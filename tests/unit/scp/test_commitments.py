"""scp.commitments: what the spool holds is vouched for, and the peer is told until it knows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel

from limen import journal
from limen.command.send import Peer, send
from limen.config import Config
from limen.errors import Unreadable
from limen.instance import NewCommitment
from limen.journal import Journal
from limen.states import WorkState
from scp.commitment_messages import Report, instances_of
from scp.commitments import Commitments
from scp.sop_classes import COMMITMENT_INSTANCE
from tests.support import wire
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set, encode, settings, write_file
from tests.unit.scp.conftest import Listening

TRANSACTION = "1.2.826.0.1.3680043.10.1.77"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
CT, MR = str(CTImageStorage), str(MRImageStorage)
KEPT = tuple((CT, f"{STUDY_UID}.1.{n}") for n in (1, 2))
ABSENT = (CT, "1.2.3.4")


def request(*pairs: tuple[str, str], transaction: str = TRANSACTION) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction
    items = []
    for sop_class, uid in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    ds.ReferencedSOPSequence = Sequence(items)
    return ds


class Inbox:
    """Takes N-EVENT-REPORTs."""

    def __init__(self, status: int = 0) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.status = status
        self.came = threading.Event()

    def __call__(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        self.came.set()
        return self.status, None

    def summary(self) -> tuple[int, list[str], list[tuple[str, int]]]:
        """Return event type, kept UIDs, and failed UIDs with their reason."""
        kind, ds = self.reports[-1]
        assert ds.TransactionUID == TRANSACTION
        kept = [i.ReferencedSOPInstanceUID for i in ds.get("ReferencedSOPSequence", [])]
        failed = [
            (i.ReferencedSOPInstanceUID, i.FailureReason) for i in ds.get("FailedSOPSequence", [])
        ]
        return kind, kept, failed


def ask(peer: Peer, inbox: Inbox, ds: Dataset, syntax: str = EXPLICIT) -> tuple[Association, int]:
    """Send an N-ACTION; return the association, still open, and the status."""
    ae = AE(ae_title="CT1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.add_requested_context(StorageCommitmentPushModel, syntax)
    handlers = [(evt.EVT_N_EVENT_REPORT, inbox)]
    assoc = ae.associate(peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=handlers)
    assert assoc.is_established
    status, _ = assoc.send_n_action(ds, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
    return assoc, status.Status


def fill(listening: Listening, folder: Path) -> None:
    for number in (1, 2):
        write_file(folder / f"{number}.dcm", data_set(number))
    assert send(sorted(folder.iterdir()), listening.peer, "CT1").sent == 2


@pytest.fixture
def filled(listen: Callable[..., Listening], tmp_path: Path) -> Listening:
    """A receiver with two instances that knows where CT1 listens (nobody does yet)."""
    listening = listen()
    fill(listening, tmp_path / "in")
    return listening


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_kept_is_reported_on_the_association_that_asked(
    listen: Callable[..., Listening], tmp_path: Path, processes: int, syntax: str
) -> None:
    filled = listen(processes=processes)
    fill(filled, tmp_path / "in")
    inbox = Inbox()
    assoc, status = ask(filled.peer, inbox, request(*KEPT), syntax)
    assert status == 0
    assert inbox.came.wait(20)
    assert inbox.summary() == (1, [uid for _, uid in KEPT], [])
    until(lambda: states(filled) == [(TRANSACTION, "done", 1)], 10, "the row")
    assoc.release()


def states(listening: Listening) -> list[tuple[str, str, int]]:
    return [
        (c.transaction_uid, c.state, c.attempts)
        for c in listening.receiver.journal.commitments.all()
    ]


def test_what_is_not_kept_is_listed_with_its_reason(filled: Listening) -> None:
    inbox = Inbox()
    wrong = (MR, KEPT[1][1])
    assoc, status = ask(filled.peer, inbox, request(KEPT[0], ABSENT, wrong))
    assert status == 0
    assert inbox.came.wait(20)
    expected = [(ABSENT[1], 0x0112), (wrong[1], 0x0119)]
    assert inbox.summary() == (2, [KEPT[0][1]], expected)
    assoc.release()


def test_the_association_goes_on_after_a_report(filled: Listening) -> None:
    inbox = Inbox()
    assoc, _ = ask(filled.peer, inbox, request(KEPT[0]))
    assert inbox.came.wait(20)
    inbox.came.clear()
    again, _ = assoc.send_n_action(
        request(KEPT[1]), 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE
    )
    assert again.Status == 0
    assert inbox.came.wait(20)
    assert inbox.summary()[1] == [KEPT[1][1]]
    assoc.release()


@pytest.fixture
def desk() -> Iterator[Callable[[int, Inbox], None]]:
    """Where the peer listens for reports."""
    servers = []

    def start(port: int, inbox: Inbox) -> None:
        ae = AE(ae_title="CT1")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, inbox)]
        servers.append(ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers))

    yield start
    for server in servers:
        server.shutdown()


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_report_goes_to_the_port_of_a_peer_that_has_hung_up_and_is_tried_until_it_is_taken(
    listen: Callable[..., Listening],
    desk: Callable[[int, Inbox], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from scp import commitments as module
    from tests.support.ports import free_ports

    monkeypatch.setattr(module, "_TICK_S", 0.1)
    (port,) = free_ports(1)
    peer = {"ae_title": "CT1", "address": "127.0.0.0/8", "port": port}
    listening = listen(peer=[peer], queue={"retry_base_s": 0.2})
    fill(listening, tmp_path / "in")
    monkeypatch.setattr(Association, "_serve_request", lambda *_: None)  # it does not listen
    assoc, status = ask(listening.peer, Inbox(), request(*KEPT))
    assert status == 0
    sock = assoc.dul.socket.socket
    assoc.abort()
    sock.close()
    monkeypatch.undo()
    monkeypatch.setattr(module, "_TICK_S", 0.1)
    until(lambda: any(n for _, _, n in states(listening)), 20, "a first attempt")
    inbox = Inbox()
    desk(port, inbox)
    assert inbox.came.wait(20)
    assert inbox.summary() == (1, [uid for _, uid in KEPT], [])
    until(lambda: states(listening)[0][1] == "done", 10, "the row")


def test_a_peer_without_a_port_that_has_hung_up_gets_its_report_once_it_has_one(
    filled: Listening,
    listen: Callable[..., Listening],
    desk: Callable[[int, Inbox], None],
) -> None:
    from tests.support.ports import free_ports

    (port,) = free_ports(1)
    filled.receiver.journal.commitments.ask(NewCommitment(TRANSACTION, "CT1", "127.0.0.1", KEPT))
    filled.receiver._commitments._answering.ring()
    until(lambda: states(filled)[0][2] == 1, 10, "an attempt")
    until(lambda: states(filled)[0][1] == "queued", 10, "the end of it")
    (row,) = filled.receiver.journal.commitments.all()
    assert "has no port; set it to where the peer listens" in row.last_error
    filled.receiver.stop()
    inbox = Inbox()
    desk(port, inbox)
    listen(peer=[{"ae_title": "CT1", "address": "127.0.0.1", "port": port}])
    assert inbox.came.wait(20)
    assert inbox.summary()[:2] == (1, [uid for _, uid in KEPT])


def test_a_request_is_answered_after_a_restart(
    listen: Callable[..., Listening], desk: Callable[[int, Inbox], None], tmp_path: Path
) -> None:
    from tests.support.ports import free_ports

    (port,) = free_ports(1)
    first = listen()
    fill(first, tmp_path / "in")
    first.receiver.stop()
    journal = Journal(first.config.journal_url)
    journal.commitments.ask(NewCommitment(TRANSACTION, "CT1", "127.0.0.1", KEPT))
    journal.close()
    inbox = Inbox()
    desk(port, inbox)
    listen(peer=[{"ae_title": "CT1", "address": "127.0.0.1", "port": port}])
    assert inbox.came.wait(20)
    assert inbox.summary()[:2] == (1, [uid for _, uid in KEPT])


@pytest.fixture
def silent_desk() -> Iterator[socket.socket]:
    """A peer that takes the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_request_that_a_stop_interrupts_is_due_for_the_next_receiver_at_once(
    listen: Callable[..., Listening], silent_desk: socket.socket, tmp_path: Path
) -> None:
    peer = {"ae_title": "CT1", "address": "127.0.0.1", "port": silent_desk.getsockname()[1]}
    listening = listen(peer=[peer])
    fill(listening, tmp_path / "in")
    commitments = listening.receiver._commitments
    listening.receiver.journal.commitments.ask(NewCommitment(TRANSACTION, "CT1", "127.0.0.1", KEPT))
    commitments._answering.ring()
    until(lambda: states(listening) == [(TRANSACTION, "running", 1)], 10, "an attempt")
    commitments.stop(timeout_s=0.1)
    assert states(listening) == [(TRANSACTION, "queued", 1)]
    successor = Commitments(listening.config, listening.receiver.journal, lambda: None, Nobody())
    claimed = listening.receiver.journal.commitments.claim(successor._owner, 30)
    assert claimed is not None
    silent_desk.close()
    until(lambda: not commitments._answering.alive, 20, "the thread that was left behind")


def test_a_request_is_not_answered_before_it_is_known_where_it_came_from(
    filled: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CT1 has no port: a report that misses the association goes nowhere."""
    commitments = filled.receiver._commitments
    real = journal.commitments.Commitments.ask
    answered = threading.Event()

    def ask_slowly(self: journal.commitments.Commitments, asked: NewCommitment) -> str:
        key = real(self, asked)
        commitments._answering.ring()
        answered.wait(1)  # nobody may have claimed it when this is over
        return key

    settle = journal.commitments.Commitments.settle

    def settled(*args: Any) -> bool:
        answered.set()
        return settle(*args)

    monkeypatch.setattr(journal.commitments.Commitments, "ask", ask_slowly)
    monkeypatch.setattr(journal.commitments.Commitments, "settle", settled)
    inbox = Inbox()
    assoc, status = ask(filled.peer, inbox, request(*KEPT))
    assert status == 0
    assert inbox.came.wait(10)
    until(lambda: states(filled) == [(TRANSACTION, "done", 1)], 10, "the row")
    assoc.release()


def test_a_report_waits_for_an_association_that_is_in_the_middle_of_a_message(
    listen: Callable[..., Listening], tmp_path: Path
) -> None:
    """CT1 has no port: the association that asked is the only way to it."""
    filled = listen(processes=2)
    fill(filled, tmp_path / "in")
    contexts = (wire.Context(3), wire.Context(5, str(StorageCommitmentPushModel), (IMPLICIT,)))
    body = encode(data_set(3), IMPLICIT)
    whole = wire.message(3, wire.store_rq(f"{STUDY_UID}.1.3"), body)
    asked = wire.message(
        5,
        wire.command(
            {
                0x00000003: wire.ui(str(StorageCommitmentPushModel)),
                0x00000100: wire.us(0x0130),
                0x00000110: wire.us(1),
                0x00000800: wire.us(1),
                0x00001001: wire.ui(COMMITMENT_INSTANCE),
                0x00001008: wire.us(1),
            }
        ),
        encode(request(*KEPT), IMPLICIT),
    )
    with wire.RawPeer(filled.peer.port) as peer:
        peer.open(wire.associate(contexts, calling="CT1"))
        peer.send(asked + whole[:-20])
        assert peer.answer().status == 0
        until(lambda: states(filled) == [(TRANSACTION, "queued", 1)], 30, "a first attempt")
        (row,) = filled.receiver.journal.commitments.all()
        assert "in the middle of a message" in row.last_error
        peer.send(whole[-20:])
        assert peer.answer().status == 0
        assert peer.answer().number(0x00000100) == 0x0100  # N-EVENT-REPORT-RQ


@pytest.mark.parametrize(
    ("instance", "action", "ds", "status"),
    [
        ("1.2.3", 1, request(*KEPT), 0x0112),
        (COMMITMENT_INSTANCE, 2, request(*KEPT), 0x0123),
        (COMMITMENT_INSTANCE, 1, request(), 0x0115),
        (COMMITMENT_INSTANCE, 1, request(*KEPT, transaction=""), 0x0115),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    listening: Listening, instance: str, action: int, ds: Dataset, status: int
) -> None:
    ae = AE(ae_title="CT1")
    ae.add_requested_context(StorageCommitmentPushModel)
    assoc = ae.associate(listening.peer.host, listening.peer.port, ae_title="LIMEN")
    answer, _ = assoc.send_n_action(ds, action, StorageCommitmentPushModel, instance)
    assert f"0x{answer.Status:04X}" == f"0x{status:04X}"
    assert listening.receiver.journal.commitments.all() == []
    assoc.release()


def test_a_journal_that_is_away_is_a_processing_failure(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limen.errors import Unreachable

    def away(*_: object) -> None:
        raise Unreachable("the journal is away")

    monkeypatch.setattr(journal.commitments.Commitments, "ask", away)
    assoc, status = ask(listening.peer, Inbox(), request(*KEPT))
    assert status == 0x0110
    assoc.release()


# -- what is vouched for -----------------------------------------------------------------------


class Nobody:
    """Reaches nobody."""

    def report(self, association: int, report: Report) -> bool:
        return False


@pytest.fixture
def vouching(filled: Listening) -> Commitments:
    config: Config = filled.config
    return Commitments(config, filled.receiver.journal, filled.receiver._assembler.flush, Nobody())


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), 0x0112),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), 0x0110),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), 0x0110),
        (lambda path: path.write_bytes(b"?" * path.stat().st_size), 0x0110),
    ],
)
def test_a_file_that_is_gone_or_altered_is_not_vouched_for(
    filled: Listening, vouching: Commitments, harm: Callable[[Path], Any], reason: int
) -> None:
    from limen.uids import key_of

    harm(filled.config.spool_dir / key_of(STUDY_UID) / f"{key_of(KEPT[0][1])}.dcm")
    report = vouching.examine(NewCommitment(TRANSACTION, "CT1", "127.0.0.1", KEPT))
    assert report.kept == (KEPT[1],)
    assert report.failed == ((*KEPT[0], reason),)


def test_a_report_for_more_than_a_thousand_instances_is_whole(vouching: Commitments) -> None:
    many = tuple((CT, f"1.2.3.{n}") for n in range(1200))
    report = vouching.examine(NewCommitment(TRANSACTION, "CT1", "::1", (*many, *KEPT)))
    assert report.kept == KEPT
    assert {reason for _, _, reason in report.failed} == {0x0112}
    assert len(report.failed) == 1200


# -- data sets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_request_is_read_in_every_form_of_a_sequence(syntax: str, undefined: bool) -> None:
    ds = request(*KEPT, ABSENT)
    ds["ReferencedSOPSequence"].is_undefined_length = undefined
    for item in ds.ReferencedSOPSequence:
        item.is_undefined_length_sequence_item = undefined
    assert instances_of(encode(ds, syntax), syntax) == (TRANSACTION, (*KEPT, ABSENT))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_request_cut_anywhere_is_refused(syntax: str) -> None:
    body = encode(request(*KEPT), syntax)
    for length in range(len(body)):
        with pytest.raises(Unreadable):
            instances_of(body[:length], syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_report_is_what_pydicom_reads(syntax: str) -> None:
    from io import BytesIO

    from pydicom.filereader import read_dataset

    report = Report(TRANSACTION, KEPT, ((MR, "1.2.3", 0x0112),))
    ds = read_dataset(
        BytesIO(report.encode(syntax)), syntax == ImplicitVRLittleEndian, is_little_endian=True
    )
    assert ds.TransactionUID == TRANSACTION
    assert [i.ReferencedSOPInstanceUID for i in ds.ReferencedSOPSequence] == [u for _, u in KEPT]
    assert ds.FailedSOPSequence[0].FailureReason == 0x0112
    assert report.event_type == 2
    assert encode(ds, syntax) == report.encode(syntax)


def test_the_same_transaction_again_is_answered_again(tmp_path: Path) -> None:
    journal = Journal(settings(tmp_path).journal_url)
    journal.migrate()
    asked = NewCommitment(TRANSACTION, "CT1", "::1", KEPT)
    journal.commitments.ask(asked)
    first = journal.commitments.claim("a", 60)
    assert first is not None
    assert first.asked == asked
    assert journal.commitments.claim("b", 60) is None
    journal.commitments.ask(NewCommitment(TRANSACTION, "CT1", "::1", (ABSENT,)))
    assert not journal.commitments.settle(first.key, "a", WorkState.DONE)
    second = journal.commitments.claim("b", 60)
    assert second is not None
    assert second.asked.instances == (ABSENT,)
    assert journal.commitments.settle(second.key, "b", WorkState.DONE)
    journal.close()
