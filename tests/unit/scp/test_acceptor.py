"""scp.acceptor: what a flood of connections leaves in the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from structlog.testing import capture_logs

from tests.support.associations import connect
from tests.support.node import until
from tests.unit.scp.conftest import Listening


def test_connections_over_the_cap_are_counted_in_a_line_a_second(
    listen: Callable[..., Listening],
) -> None:
    listening = listen(max_associations=1)
    began = time.monotonic()
    with capture_logs() as logs, ExitStack() as opened:
        opened.enter_context(connect(listening.peer))
        until(lambda: listening.receiver.open_associations == 1, 10, "the first to be let in")
        for _ in range(40):
            opened.enter_context(connect(listening.peer))
        until(lambda: sum(x["count"] for x in logs if "count" in x) == 40, 15, "all to be told")
    told = [x for x in logs if x["event"] == "connection.refused"]
    assert len(told) <= time.monotonic() - began + 1
    assert {(x["reason"], x["address"], x["log_level"]) for x in told} == {
        ("too many associations", "127.0.0.1", "warning")
    }
