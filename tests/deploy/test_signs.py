"""What each process tells the supervisor that started it: ready, alive, stopping."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.services import answers

WATCHDOG_S = 4


class Service:
    """A process as systemd would start it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.scp_port, self.web_port = free_ports(2)
        self._said: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)
        self._log = folder / "log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")}
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "limen", name],
                env={
                    **kept,
                    "LIMEN_NODE__DATA_DIR": str(folder / "data"),
                    "LIMEN_SCP__PORT": str(self.scp_port),
                    "LIMEN_WEB__PORT": str(self.web_port),
                    "NOTIFY_SOCKET": str(folder / "notify"),
                    "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000),
                },
                cwd=folder, stdout=out, stderr=out,
            )  # fmt: skip

    def heard(self) -> list[bytes]:
        """Return everything that was said so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._said.append(self._socket.recv(100))
        return self._said

    def wait_for(self, text: bytes, count: int = 1) -> None:
        """Wait until something was said so often."""
        until(lambda: self.heard().count(text) >= count, 90, text.decode(), self._log.read_text)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._socket.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Service] = []

    def _start(name: str) -> Service:
        started.append(Service(name, tmp_path))
        return started[-1]

    yield _start
    for service in started:
        service.close()


@pytest.mark.parametrize("name", ["scp", "worker", "web"])
def test_a_service_says_when_it_is_ready_that_it_lives_and_that_it_stops(start, name) -> None:
    service = start(name)
    service.wait_for(b"READY=1")
    if name != "worker":
        assert answers(service.scp_port if name == "scp" else service.web_port)
    service.wait_for(b"WATCHDOG=1", 2)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(40) == 0
    assert service.heard()[0] == b"READY=1"
    assert service.heard().count(b"READY=1") == 1
    assert b"STOPPING=1" in service.heard()


def test_a_results_server_whose_serving_process_stands_still_is_silent(start) -> None:
    service = start("web")
    service.wait_for(b"READY=1")
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text()
    serving = int(children.split()[0])
    os.kill(serving, signal.SIGSTOP)
    try:
        service.heard()
        before = len(service.heard())
        with pytest.raises(AssertionError, match="waited"):
            until(lambda: len(service.heard()) > before + 1, WATCHDOG_S, "a sign of life")
        assert service.process.poll() is None, "the process that systemd knows lives on"
    finally:
        os.kill(serving, signal.SIGCONT)
