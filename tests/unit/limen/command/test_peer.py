"""limen.command.peer: exit codes of `limen send` and `limen echo`, and what people read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from limen.uids import key_of
from scp.server import Receiver
from tests.support.command import run
from tests.support.journals import paths
from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.samples import STUDY_UID, data_set, settings, write_file

Captured = pytest.CaptureFixture[str]

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings(
        "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    receiver = Receiver(settings(tmp_path_factory.mktemp("node")))
    yield receiver.start()
    receiver.stop()


def test_sending_everything_is_exit_code_0(port: int, tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "in" / "a.dcm", data_set())
    assert run("send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}") == 0
    assert "1 of 1 sent to LIMEN@127.0.0.1" in capsys.readouterr().out


def test_sending_a_part_is_exit_code_5(port: int, tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "in" / "a.dcm", data_set())
    write_file(tmp_path / "in" / "b.dcm", data_set(2, StudyInstanceUID=None))
    (tmp_path / "in" / "c.txt").write_text("x")
    assert run("send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}", "--json") == 5
    said = json.loads(capsys.readouterr().out)
    failed = str(tmp_path / "in" / "b.dcm")
    assert said.pop("seconds") > 0
    assert said.pop("bytes") == (tmp_path / "in" / "a.dcm").stat().st_size
    assert "0020,000D" in said.pop("comments")[failed].upper()
    assert said == {
        "sent": 1,
        "failed": {failed: "0xC000"},
        "skipped": [str(tmp_path / "in" / "c.txt")],
        "statuses": {"0x0000": 1, "0xC000": 1},
        "retried": 0,
        "refusals": [],
    }


def test_an_instance_that_was_not_stored_is_exit_code_5_although_nothing_else_was_sent(
    port: int, tmp_path: Path, capsys: Captured
) -> None:
    write_file(tmp_path / "in" / "b.dcm", data_set(2, StudyInstanceUID=None))
    assert run("send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}") == 5
    said = capsys.readouterr().out
    assert "0 of 1 sent" in said
    assert "peer cannot understand it" in said


def test_files_that_are_no_dicom_are_exit_code_1(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert run("send", str(tmp_path / "notes.txt"), "--to", "LIMEN@127.0.0.1:1") == 1
    assert "1 not DICOM" in capsys.readouterr().out


def test_plain_lines_tell_how_far_a_send_is(port: int, tmp_path: Path, capsys: Captured) -> None:
    for n in range(3):
        write_file(tmp_path / "in" / f"{n}.dcm", data_set(n))
    to = f"LIMEN@127.0.0.1:{port}"
    assert run("send", str(tmp_path / "in"), "--to", to, "--associations", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("of 3")] == ["1 of 3", "2 of 3", "3 of 3"]


def test_a_file_of_tls_that_cannot_be_used_is_exit_code_2(tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    (tmp_path / "ca.pem").write_text("no certificate")
    ca = ["--ca", str(tmp_path / "ca.pem")]
    assert run("send", str(tmp_path / "a.dcm"), "--to", "LIMEN@127.0.0.1:1", *ca) == 2
    assert run("echo", "LIMEN@127.0.0.1:1", *ca) == 2
    assert run("echo", "LIMEN@127.0.0.1:1", "--key", str(tmp_path / "ca.pem")) == 2
    said = capsys.readouterr().err
    assert "holds no certificates in PEM" in said
    assert "name the certificate too" in said


def test_a_file_that_is_not_there_is_exit_code_1(tmp_path: Path, capsys: Captured) -> None:
    assert run("send", str(tmp_path / "absent"), "--to", "LIMEN@127.0.0.1:1") == 1
    assert "no such file" in capsys.readouterr().err


def test_a_peer_that_refuses_is_exit_code_4(port: int, tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    assert run("send", str(tmp_path / "a.dcm"), "--to", f"OTHER@127.0.0.1:{port}") == 4
    assert run("echo", f"OTHER@127.0.0.1:{port}") == 4
    assert "called AE title" in capsys.readouterr().err


def test_a_peer_that_is_away_is_exit_code_1(tmp_path: Path, capsys: Captured) -> None:
    assert run("echo", f"LIMEN@127.0.0.1:{free_ports(1)[0]}") == 1
    assert "does not answer" in capsys.readouterr().err


def test_an_echo_that_is_answered_is_exit_code_0(port: int, capsys: Captured) -> None:
    assert run("echo", f"LIMEN@127.0.0.1:{port}") == 0
    assert "answers C-ECHO" in capsys.readouterr().out


def test_instances_that_share_their_uid_are_all_kept(tmp_path: Path, capsys: Captured) -> None:
    """A device that numbers each series from 1: 38 times Success is 38 files and 38 rows."""
    for series in (1, 2):
        for number in range(1, 20):
            ds = data_set(number, SeriesInstanceUID=f"{STUDY_UID}.{series}", SeriesNumber=series)
            if number % 2:  # else the two differ in nothing but their series
                ds.PixelData = bytes([number, series]) * 16
            write_file(tmp_path / "in" / f"{series}-{number}.dcm", ds)
    receiver = Receiver(settings(tmp_path))
    try:
        port = receiver.start()
        argv = ["send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}"]
        assert run(*argv, "--associations", "4", "--json") == 0
        assert json.loads(capsys.readouterr().out)["statuses"] == {"0x0000": 38}
        until(lambda: len(paths(receiver.journal)) == 38, 10, "every row")
        kept = [dcmread(receiver.spool.root / path) for path in paths(receiver.journal)]
        sent = [dcmread(path) for path in (tmp_path / "in").iterdir()]
        assert _contents(kept) == _contents(sent)
        assert len(_contents(sent)) == 38
        keys = [key_of(f"{STUDY_UID}.1.{number}") for number in range(1, 20)]
        stored = receiver.journal.receiving.stored(keys)
        assert [len(stored[key]) for key in keys] == [2] * 19
    finally:
        receiver.stop()


def _contents(instances: list[Dataset]) -> set[tuple[str, str, bytes]]:
    return {(str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID), ds.PixelData) for ds in instances}
