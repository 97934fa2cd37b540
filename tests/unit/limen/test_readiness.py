"""limen.readiness: the datagram of sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from limen.readiness import Sign, Watchdog, say_ready, say_stopping


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_one_datagram_to_the_socket_of_the_supervisor(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"\0limen-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        say_ready()
        assert listener.recv(100) == b"READY=1"


def test_without_a_supervisor_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    say_ready()


def test_a_supervisor_that_is_gone_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    say_ready()


def test_a_supervisor_that_never_reads_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"READY=1", str(tmp_path / "notify"))
        began = time.monotonic()
        say_ready()
        assert time.monotonic() - began < 20


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A supervisor that gives a process four seconds between two signs of life."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "4000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield listener


def heard(listener: socket.socket) -> list[bytes]:
    said = []
    with contextlib.suppress(BlockingIOError):
        while True:
            said.append(listener.recv(100))
    return said


def test_life_is_told_while_every_part_is_heard_of_and_no_longer(
    supervisor: socket.socket,
) -> None:
    silent = {"acceptor": 0.0, "assembler": 0.0}
    watchdog = Watchdog({name: lambda name=name: silent[name] for name in silent})
    watchdog.look()
    assert heard(supervisor) == [b"WATCHDOG=1"]
    silent["assembler"] = 2.1
    watchdog.look()
    assert heard(supervisor) == []
    silent["assembler"] = 0.0
    watchdog.look()
    assert heard(supervisor) == [b"WATCHDOG=1"]


def test_a_part_that_is_asked_and_does_not_answer_is_silent(supervisor: socket.socket) -> None:
    sign = Sign()
    asked: list[bool] = []
    watchdog = Watchdog({"threads": lambda: sign.silent_s() + 3}, lambda: asked.append(True))
    watchdog.look()
    assert (asked, heard(supervisor)) == ([True], [])


def test_a_supervisor_that_waits_for_no_sign_gets_none(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")  # meant for another process
    watchdog = Watchdog({})
    watchdog.look()
    assert (watchdog.every_s, heard(supervisor)) == (None, [])
    say_stopping()
    assert heard(supervisor) == [b"STOPPING=1"]
