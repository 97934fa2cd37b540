"""limen.readiness: the datagram of sd_notify(3)."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest

from limen.readiness import say_ready


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
