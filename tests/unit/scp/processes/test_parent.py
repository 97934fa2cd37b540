"""scp.processes.parent: several receiving processes, one acceptor, one journal."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from limen.command.send import Peer, echo, send
from limen.telemetry import METRICS
from scp.header import Identity
from scp.processes.parent import ReceivingProcesses
from tests.support.associations import associate, connect, kept_files, store
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set, encode, keep, write_file
from tests.unit.scp.conftest import Listening


@pytest.fixture
def pair(listen: Callable[..., Listening]) -> Listening:
    """A receiver with two receiving processes."""
    return listen(processes=2)


def receiving(listening: Listening) -> ReceivingProcesses:
    serving = listening.receiver._serving
    assert isinstance(serving, ReceivingProcesses)
    return serving


def pids(listening: Listening) -> list[int]:
    return [
        m._process.pid for m in receiving(listening)._processes if m._process and m.ready.is_set()
    ]


def test_associations_are_dealt_out_evenly(pair: Listening) -> None:
    associations = [associate(pair.peer) for _ in range(4)]
    assert all(a.is_established for a in associations)
    assert [len(m.numbers) for m in receiving(pair)._processes] == [2, 2]
    for association in associations:
        association.release()
    until(lambda: not pair.receiver.open_associations, 10, "the end of all")


def test_what_any_process_keeps_is_in_the_journal_and_the_study_is_complete(
    pair: Listening, tmp_path: Path
) -> None:
    folders = [tmp_path / f"in-{n}" for n in range(2)]
    for n in range(20):
        write_file(folders[n % 2] / f"{n}.dcm", data_set(n + 1))

    def push(folder: Path) -> None:
        send(sorted(folder.iterdir()), pair.peer, "CT1")

    senders = [threading.Thread(target=push, args=(folder,)) for folder in folders]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)
    until(
        lambda: (
            [(r.state, r.instances) for r in pair.receiver.journal.status.studies()]
            == [("complete", 20)]
        ),
        20,
        "the study",
    )


def test_the_same_instance_to_both_processes_at_once_is_kept_once(
    pair: Listening, tmp_path: Path
) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    outcomes: Counter[str] = Counter()

    def push() -> None:
        outcomes.update(send([tmp_path / "a.dcm"], pair.peer, "CT1").statuses)

    senders = [threading.Thread(target=push) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)
    assert outcomes == {"0x0000": 4}
    assert len(kept_files(pair.config.spool_dir)) == 1


def test_a_process_that_dies_is_replaced_and_what_it_held_is_cleaned_up(
    pair: Listening, tmp_path: Path
) -> None:
    assoc = associate(pair.peer)
    assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
    (one,) = [m for m in receiving(pair)._processes if m.numbers]
    assert one._process is not None
    before = one._process.pid
    os.kill(before, signal.SIGKILL)
    until(lambda: len(pids(pair)) == 2 and before not in pids(pair), 20, "its successor")
    until(lambda: not pair.receiver.open_associations, 10, "its associations to be forgotten")
    until(
        lambda: [r.state for r in pair.receiver.journal.status.studies()] == ["complete"],
        20,
        "the study",
    )
    assert not list((pair.config.spool_dir / "incoming").iterdir())
    echo(pair.peer, "CT1")
    assoc.abort()


def test_a_process_that_cannot_be_started_is_started_later(
    pair: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(*_: object, **__: object) -> None:
        failed.set()
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = pids(pair)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", fail)
        os.kill(before[0], signal.SIGKILL)
        assert failed.wait(10)
    until(lambda: len(pids(pair)) == 2, 20, "its successor")
    echo(pair.peer, "CT1")


def test_a_process_without_a_descriptor_left_drops_a_connection_and_takes_the_next(
    pair: Listening,
) -> None:
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids(pair)}
    for pid in limits:
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        first_free = next(n for n in itertools.count() if n not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, limits[pid][1]))
    for _ in range(2):
        with connect(pair.peer) as sock:
            assert sock.recv(100) == b""
    until(lambda: not pair.receiver.open_associations, 10, "both to be forgotten")
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    for _ in range(4):
        echo(pair.peer, "CT1")


def test_parts_of_a_process_that_died_are_removed_and_those_of_others_are_not(
    pair: Listening,
) -> None:
    incoming = pair.config.spool_dir / "incoming"
    others = incoming / "other-1.part"
    others.write_bytes(b"half")
    (incoming / "dead-1.part").write_bytes(b"half")
    receiving(pair).lost("dead", set())
    assert list(incoming.iterdir()) == [others]


def test_an_instance_that_a_process_kept_but_did_not_report_is_found(
    pair: Listening,
) -> None:
    body = encode(data_set(1))
    keep(pair.receiver.spool, Identity.of(body, ExplicitVRLittleEndian), body)
    receiving(pair).lost("dead", set())
    until(
        lambda: [r.instances for r in pair.receiver.journal.status.studies()] == [1], 10, "its row"
    )


def test_the_caps_hold_for_all_processes_together(listen: Callable[..., Listening]) -> None:
    pair = listen(processes=2, max_associations=3)
    associations = [associate(pair.peer) for _ in range(3)]
    with connect(pair.peer) as sock:
        assert sock.recv(100) == bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2])
    for association in associations:
        association.release()
    until(lambda: not pair.receiver.open_associations, 10, "room")
    echo(pair.peer, "CT1")


def test_every_answer_and_refusal_is_counted_where_the_metrics_are(pair: Listening) -> None:
    def counted() -> tuple[float, float, float]:
        reason = "called AE title is not ours"
        return (
            METRICS.instances.labels("0x0000")._value.get(),
            METRICS.instances.labels("0xC000")._value.get(),
            METRICS.rejected.labels(reason)._value.get(),
        )

    before = counted()
    assoc = associate(pair.peer)
    assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
    assert store(assoc, b"\x08\0", f"{STUDY_UID}.1.1").Status == 0xC000
    assoc.release()
    assert not associate(Peer("OTHER", pair.peer.host, pair.peer.port)).is_established
    expected = tuple(n + 1 for n in before)
    until(lambda: counted() == expected, 10, "the counts")


def test_stop_lets_an_open_association_end_first_in_its_process_too(pair: Listening) -> None:
    assoc = associate(pair.peer)
    children = pids(pair)
    stopping = threading.Thread(target=pair.receiver.stop)
    stopping.start()
    assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
    assoc.release()
    stopping.join(15)
    assert not stopping.is_alive()
    assert not [pid for pid in children if Path(f"/proc/{pid}/status").exists()]
    assert len(kept_files(pair.config.spool_dir)) == 1


def test_a_receiver_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    from tests.unit.scp.test_server import start

    process = start(tmp_path, "0", LIMEN_SCP__PROCESSES="2", LIMEN_SCP__MIN_FREE_BYTES="0")
    try:
        assert process.stderr is not None
        until(lambda: "scp.listening" in process.stderr.readline(), 30, "it to listen")
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        found = [int(pid) for task in tasks for pid in task.read_text().split()]
        assert len(found) == 2
    finally:
        process.kill()
        process.communicate(timeout=20)
    until(lambda: not any(is_running(pid) for pid in found), 20, "the processes to end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
