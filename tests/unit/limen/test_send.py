"""limen.send: C-STORE and C-ECHO against the real receiver, and against nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from limen.errors import Unreachable
from limen.send import Peer, Refused, echo, files_of, send
from limen.uids import key_of
from scp.server import Receiver
from scp.spool import examine
from tests.node import free_ports
from tests.samples import STUDY_UID, data_set, encode, settings, write_file

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
    monkeypatch.setattr("limen.send._MAX_CONTEXTS", 1)
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
