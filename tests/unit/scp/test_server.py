"""scp.server: start, transfer syntaxes, completion, restart, and the ends of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts

from limen.command.send import Peer, send
from limen.errors import AnotherSpool, LimenError, LostJournal
from limen.journal import Journal
from limen.uids import key_of
from scp.server import CannotBind, Receiver
from scp.sop_classes import TRANSFER_SYNTAXES
from tests.support.associations import associate, kept_files, store
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set, new_instance, settings, write_file
from tests.support.services import REPOSITORY
from tests.support.webhooks import secret_file, webhooks
from tests.unit.scp.conftest import Listening


def studies(listening: Listening) -> list[tuple[int, str, int]]:
    return [(r.revision, r.state, r.instances) for r in listening.receiver.journal.status.studies()]


def test_a_study_is_complete_soon_after_the_association_ends(
    listening: Listening, tmp_path: Path
) -> None:
    for number in range(1, 4):
        write_file(tmp_path / "in" / f"{number}.dcm", data_set(number))
    send(sorted((tmp_path / "in").iterdir()), listening.peer, "CT1")
    until(lambda: studies(listening) == [(1, "complete", 3)], 10, "the study")
    queue = listening.config.data_dir / "queue" / "messages"
    until(lambda: list(queue.glob("*.limen.predict.msg")), 10, "the message")


def test_an_aborted_association_counts_as_ended(listening: Listening) -> None:
    assoc = associate(listening.peer)
    assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
    assoc.abort()
    until(lambda: studies(listening) == [(1, "complete", 1)], 10, "the study")


def test_a_broken_connection_counts_as_ended(listening: Listening) -> None:
    assoc = associate(listening.peer)
    assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
    assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: studies(listening) == [(1, "complete", 1)], 10, "the study")
    assoc.abort()
    assoc.dul.socket.socket.close()


def test_an_instance_without_a_row_is_found_at_the_next_start(
    listen: Callable[..., Listening], tmp_path: Path
) -> None:
    first = listen(release_quiet_s=60.0, quiet_s=60.0)
    write_file(tmp_path / "a.dcm", data_set())
    send([tmp_path / "a.dcm"], first.peer, "CT1")
    first.receiver.stop()
    (first.config.data_dir / "journal.db").unlink()
    second = listen(quiet_s=0.2)
    until(lambda: studies(second) == [(1, "complete", 1)], 10, "the study")


def test_an_address_in_use_is_told_by_name(listening: Listening, tmp_path: Path) -> None:
    config = settings(tmp_path / "other", scp={"port": listening.peer.port})
    receiver = Receiver(config)
    with pytest.raises(CannotBind, match=f"127.0.0.1:{listening.peer.port}"):
        receiver.start()
    receiver.stop()


def test_stop_lets_an_open_association_end_first(listening: Listening) -> None:
    assoc = associate(listening.peer)
    stopping = threading.Thread(target=listening.receiver.stop)
    stopping.start()
    until(lambda: not connects(listening.peer), 10, "the port to close")
    assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
    assoc.release()
    stopping.join(10)
    assert not stopping.is_alive()
    assert len(kept_files(listening.config.spool_dir)) == 1


def connects(peer: Peer) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((peer.host, peer.port)) == 0


def accepted(listening: Listening, syntax: str) -> bool:
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CTImageStorage, syntax)
    assoc = ae.associate(listening.peer.host, listening.peer.port, ae_title="LIMEN")
    established = bool(assoc.is_established)
    if established:
        assoc.release()
    return established


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_syntaxes_are_accepted(listening: Listening, syntax: str) -> None:
    assert accepted(listening, syntax)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_syntaxes_that_hide_their_size_or_are_retired_are_not(
    listening: Listening, syntax: str
) -> None:
    assert not accepted(listening, syntax)


def test_every_storage_class_is_accepted(listening: Listening) -> None:
    classes = [c.abstract_syntax for c in AllStoragePresentationContexts]
    for start in range(0, len(classes), 128):
        ae = AE(ae_title="CT1")
        wanted = classes[start : start + 128]
        for sop_class in wanted:
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        assoc = ae.associate(listening.peer.host, listening.peer.port, ae_title="LIMEN")
        assert {c.abstract_syntax for c in assoc.accepted_contexts} == set(wanted)
        assoc.release()


def test_explicit_little_endian_is_preferred() -> None:
    assert TRANSFER_SYNTAXES[0] == ExplicitVRLittleEndian
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES)


def test_cannot_bind_is_an_error_of_ours() -> None:
    assert issubclass(CannotBind, LimenError)


# -- python -m scp ---------------------------------------------------------------------------------


def start(tmp_path: Path, *words: str, **overrides: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")}
    env |= {"LIMEN_NODE__DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "scp", *words],
        cwd=tmp_path,
        env=env | overrides,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_says_when_it_is_ready_serves_its_metrics_and_ends_on_sigterm(
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(30)
        process = start(
            tmp_path,
            *("0", "-aet", "NODE"),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            LIMEN_METRICS__SCP_PORT=str(port),
        )
        try:
            assert notify.recv(100) == b"READY=1"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                assert b"limen_tls_certificate_expiry_seconds" in answer.read()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert "scp.listening" in said
    assert "NODE" in said


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        ({"LIMEN_SCP__PORT": "x"}, 2, "scp.port"),
        ({"LIMEN_SCP__HOST": "0.0.0.0"}, 2, "allow_any_peer"),
        ({"LIMEN_JOURNAL__URL": "postgresql://limen:hunter2@127.0.0.1:1/x"}, 1, "journal"),
    ],
)
def test_a_process_that_cannot_start_says_why(
    tmp_path: Path, overrides: dict[str, str], code: int, said: str
) -> None:
    process = start(tmp_path, **overrides)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in error
    assert "Traceback" not in error
    assert "hunter2" not in error


def test_an_empty_journal_beside_results_is_no_new_node(tmp_path: Path) -> None:
    (tmp_path / "data" / "results" / key_of(STUDY_UID)).mkdir(parents=True)
    receiver = Receiver(settings(tmp_path))
    with pytest.raises(LostJournal, match="limen doctor --repair"):
        receiver.start()
    receiver.stop()


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_receiver_does_not_start_where_it_cannot_see_what_another_has_just_kept(
    tmp_path: Path, is_shared: bool
) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    journal.migrate()
    kept = new_instance(at=datetime.now(UTC))
    journal.receiving.record([kept], "another:11112")
    journal.close()
    if is_shared:
        file = tmp_path / "data" / "spool" / kept.path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    receiver = Receiver(settings(tmp_path, journal={"url": f"sqlite:///{tmp_path}/journal.db"}))
    try:
        if is_shared:
            assert receiver.start()
        else:
            with pytest.raises(AnotherSpool, match=r"share node\.data_dir; mount it here"):
                receiver.start()
    finally:
        receiver.stop()


def test_a_damaged_journal_is_told_with_what_to_do_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "data" / "journal.db"
    journal = Journal(f"sqlite:///{file}")
    journal.migrate()
    journal.close()
    damaged = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(damaged)
    process = start(tmp_path, LIMEN_NODE__DATA_DIR=str(file.parent))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "`limen doctor --repair` rebuilds it" in error
    assert "Traceback" not in error
    assert file.read_bytes() == damaged


def test_a_metrics_port_in_use_is_told_by_name(listening: Listening, tmp_path: Path) -> None:
    process = start(tmp_path, "0", LIMEN_METRICS__SCP_PORT=str(listening.peer.port))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "metrics.scp_port" in error
    assert "Traceback" not in error


def test_a_port_in_use_is_exit_code_3(listening: Listening, tmp_path: Path) -> None:
    process = start(tmp_path, str(listening.peer.port))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "LIMEN_SCP__PORT" in error


def test_a_webhook_is_told_that_nothing_works_and_one_that_hangs_holds_nothing_up(
    tmp_path: Path,
) -> None:
    with webhooks() as server:
        alarm = {"webhook": server.url, "secret_file": secret_file(tmp_path), "after_s": 0}
        config = settings(tmp_path, alarm=alarm)
        receiver = Receiver(config)
        receiver.start()
        try:
            until(lambda: server.took, 10, "the alarm")
            assert server.took[0][1]["data"]["kind"] == "missing"
        finally:
            receiver.stop()
        server.silent = threading.Event()
        (config.data_dir / "alarms-told.json").unlink()
        receiver = Receiver(config)
        peer = Peer(config.scp.ae_title, "127.0.0.1", receiver.start())
        try:
            until(lambda: len(server.asked) == 2, 10, "the webhook to be asked")
            assoc = associate(peer)
            assert store(assoc, data_set(), f"{STUDY_UID}.1.1").Status == 0
            assoc.release()
        finally:
            server.silent.set()
            receiver.stop()
