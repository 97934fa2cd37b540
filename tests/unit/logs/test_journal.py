"""logs.journal: entries of the journal of systemd, as a socket in its place receives them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from limen import telemetry
from logs import journal
from tests.support.logs import logging_put_back
from tests.support.ports import free_ports
from tests.support.services import REPOSITORY

Entry = dict[str, str]


class Journal:
    """A socket in the place of journald's; reads entries as its native protocol has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(60)
        self._socket.bind(str(path))

    def entry(self) -> Entry:
        """Return the next entry; of a field with a line end, it would be no line FIELD=value."""
        data = self._socket.recv(1 << 16).decode("utf-8")
        assert data.endswith("\n")
        return dict(line.split("=", 1) for line in data[:-1].split("\n"))

    def until(self, event: str) -> Entry:
        """Return the next entry of an event."""
        while (entry := self.entry())["LIMEN_EVENT"] != event:
            pass
        return entry

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Journal]:
    listening = Journal(tmp_path / "socket")
    yield listening
    listening.close()


@pytest.fixture
def log(listening: Journal, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(journal, "ADDRESS", str(listening.path))
    with logging_put_back(monkeypatch):
        telemetry.configure("info", "journald", "limen-scp")
        yield


@pytest.mark.usefixtures("log")
def test_each_field_is_one_of_the_entry_and_the_message_has_them_all(listening: Journal) -> None:
    structlog.get_logger("scp").warning(
        "store.refused", study="abc", association=7, reason="a\nb=c", patient_name="Doe"
    )
    assert listening.entry() == {
        "MESSAGE": r"store.refused association=7 patient_name=(withheld) "
        r"reason='a\\nb=c' study=abc",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "limen-scp",
        "LIMEN_EVENT": "store.refused",
        "LIMEN_STUDY": "abc",
        "LIMEN_ASSOCIATION": "7",
        "LIMEN_REASON": r"a\nb=c",
        "LIMEN_PATIENT_NAME": "(withheld)",
    }


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(("level", "priority"), [("info", 6), ("error", 3), ("critical", 2)])
def test_levels_are_the_priorities_of_syslog(listening: Journal, level: str, priority: int) -> None:
    getattr(structlog.get_logger("scp"), level)("study.complete")
    assert listening.entry()["PRIORITY"] == str(priority)


def test_while_the_journal_is_away_the_line_goes_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ADDRESS", str(tmp_path / "socket"))
    with logging_put_back(monkeypatch) as stderr:
        telemetry.configure("info", "journald")
        log = structlog.get_logger("scp")
        log.info("study.complete", study="abc")
        back = Journal(tmp_path / "socket")
        log.info("study.complete", study="def")
        assert back.entry()["LIMEN_STUDY"] == "def"
        back.close()
    assert stderr.getvalue() == "study.complete study=abc\n"


@pytest.mark.parametrize("module", ["scp", "web"])
def test_a_process_writes_its_entries_there_and_nothing_to_standard_error(
    module: str, listening: Journal, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    code = f"""
import sys
from logs import journal
journal.ADDRESS = {str(listening.path)!r}
from {module}.__main__ import main
sys.exit(main([]))
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")} | {
        "LIMEN_LOG__FORMAT": "journald",
        "LIMEN_NODE__DATA_DIR": str(tmp_path / "data"),
        f"LIMEN_{module.upper()}__PORT": str(port),
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        entry = listening.until(f"{module}.listening")
    finally:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("6", f"limen-{module}")
    assert entry["LIMEN_PORT"] == str(port)
    assert stderr == ""
