"""Notes go to the collector over TLS: in order, all of them, whatever it does."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from limen.audit.event import Event, Kind
from limen.audit.message import Source
from limen.audit.notes import Notes
from limen.audit.sender import Sender
from limen.audit.syslog import Line, frame
from limen.config import Audit
from limen.errors import ConfigError, LimenError, Unreachable
from tests.support.audit_messages import faults_of, parse
from tests.support.collector import Collector
from tests.support.node import until

SOURCE = Source("limen", "", "node1")


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "audit", 1000)


def line(collector: Collector, folder: Path, **other: object) -> Line:
    files = {
        "ca_file": folder / "ca.pem",
        "certificate_file": folder / "client.pem",
        "key_file": folder / "client.key",
    }
    return Line("localhost", collector.port, tls=True, timeout_s=5, **{**files, **other})  # type: ignore[arg-type]


def viewed(number: int) -> Event:
    return Event(
        Kind.VIEWED, datetime.now(UTC), "web", 1, user=f"user-{number:04d}", study_uid="1.2"
    )


def fails(sender: Sender) -> bool:
    try:
        sender.round()
    except LimenError:
        return True
    return False


def users(collector: Collector) -> list[str]:
    names = []
    for message in collector.messages:
        root = parse(message.body)
        assert faults_of(root) == []
        names.append(root.find("ActiveParticipant").attrib["UserName"])  # type: ignore[union-attr]
    return names


def test_a_collector_that_is_away_and_comes_back_misses_nothing_and_has_the_order(
    collector: Collector, notes: Notes, tmp_path: Path
) -> None:
    sender = Sender(notes, lambda: line(collector, tmp_path), SOURCE)
    expected = [f"user-{n:04d}" for n in range(300)]
    for n in range(100):
        notes.add(viewed(n))
    with pytest.raises(Unreachable):
        sender.round()
    assert len(notes.waiting()) == 100
    collector.start()
    sender.round()
    for n in range(100, 200):
        notes.add(viewed(n))
    sender.round()
    until(lambda: "user-0199" in users(collector), 10, "the first two hundred")
    collector.stop()  # what has not settled is sent again
    for n in range(200, 300):
        notes.add(viewed(n))
    until(lambda: fails(sender), 10, "TCP to say that nobody is there")
    collector.start()
    sender.round()
    until(lambda: "user-0299" in users(collector), 10, "the last hundred")
    sender.close()
    assert notes.waiting() == []
    firsts = list(dict.fromkeys(users(collector)))
    assert firsts == expected
    assert collector.faults == []


def test_what_waits_when_a_process_ends_is_sent_by_the_next(
    collector: Collector, notes: Notes, tmp_path: Path
) -> None:
    for n in range(3):
        notes.add(viewed(n))
    first = Sender(notes, lambda: line(collector, tmp_path), SOURCE)
    with pytest.raises(Unreachable):
        first.round()
    second = Sender(notes, lambda: line(collector, tmp_path), SOURCE)
    collector.start()
    second.round()  # the turn is the first one's
    assert collector.messages == []
    first.close()
    second.round()
    second.close()
    assert users(collector) == ["user-0000", "user-0001", "user-0002"]
    assert notes.waiting() == []


def test_more_than_may_wait_are_dropped_counted_and_told_once_there_is_room(
    collector: Collector, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "audit", 5)
    for n in range(12):
        notes.add(viewed(n))
    kept = len(notes.waiting())
    assert 3 <= kept <= 5
    sender = Sender(notes, lambda: line(collector, tmp_path), SOURCE)
    collector.start()
    sender.round()
    sender.close()
    assert notes.waiting() == []
    sender.round()
    sender.close()
    bodies = [message.body for message in collector.messages]
    assert len(bodies) == kept + 1
    detail = parse(bodies[-1]).find(".//ParticipantObjectDetail")
    assert detail is not None
    assert notes.take_dropped() == 0


def test_a_note_is_for_the_owner_alone(notes: Notes) -> None:
    notes.add(viewed(1))
    (name,) = notes.waiting()
    assert stat.S_IMODE((notes.folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(notes.folder.stat().st_mode) == 0o700


def test_what_is_no_note_holds_up_no_other(
    collector: Collector, notes: Notes, tmp_path: Path
) -> None:
    notes.add(viewed(1))
    (notes.folder / "00000000000000000001-0000001.json").write_bytes(b"{")
    collector.start()
    sender = Sender(notes, lambda: line(collector, tmp_path), SOURCE)
    sender.round()
    sender.close()
    assert users(collector) == ["user-0001"]
    assert notes.waiting() == []


def test_a_collector_that_others_have_signed_is_not_trusted(
    collector: Collector, notes: Notes, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Collector(other)
    collector.start()
    notes.add(viewed(1))
    sender = Sender(notes, lambda: line(collector, tmp_path, ca_file=other / "ca.pem"), SOURCE)
    with pytest.raises(Unreachable, match="certificate"):
        sender.round()
    assert len(notes.waiting()) == 1
    assert collector.messages == []


def test_certificates_that_cannot_be_read_name_their_settings(
    collector: Collector, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"audit\.ca_file"):
        line(collector, tmp_path, ca_file=tmp_path / "nothing.pem")


def test_a_message_has_its_length_in_octets_and_a_header_of_rfc_5424() -> None:
    at = datetime(2026, 11, 29, 5, 6, 7, tzinfo=UTC)
    made = frame("é".encode(), at=at, host="a b", app="", pid=3, succeeded=True)
    head = b"<85>1 2026-11-29T05:06:07.000Z a_b - 3 DICOM+RFC3881 - "
    body = head + b"\xef\xbb\xbf" + "é".encode()
    assert made == b"%d " % len(body) + body
    failed = frame(b"", at=at, host="h", app="a", pid=0, succeeded=False)
    assert b"<84>1 2026-11-29T05:06:07.000Z h a - " in failed


def test_patients_are_not_named_on_an_open_wire() -> None:
    with pytest.raises(ValueError, match="tls = true"):
        Audit(host="10.1.2.3", tls=False)
    assert not Audit(host="127.0.0.1", tls=False).tls
