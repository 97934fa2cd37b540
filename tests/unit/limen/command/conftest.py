"""What commands are run with: quiet logs, an empty folder, a journal of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from limen import telemetry
from limen.command import begin
from limen.journal import Journal
from tests.support.samples import Clock


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The commands leave the logging of the tests alone, and find an empty folder."""
    monkeypatch.setattr(telemetry, "configure", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture
def kept(sqlite_journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal that the commands open, at the time of the test's clock."""
    monkeypatch.setenv("LIMEN_JOURNAL__URL", sqlite_journal.url)
    monkeypatch.setattr(begin, "Journal", lambda url: Journal(url, clock))
    return sqlite_journal
