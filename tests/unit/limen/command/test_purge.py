"""limen.command.purge: where it may be called."""

from __future__ import annotations

import pytest

from limen.journal import Journal
from tests.support.command import run

pytestmark = pytest.mark.usefixtures("quiet", "kept")


def test_a_host_without_the_spool_purges_nothing(
    kept: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("purge") == 1
    assert "on the host of the receiver" in capsys.readouterr().err
