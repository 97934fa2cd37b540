"""I5, I10: a results server that is back gets at once what piled up, in the order people need."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from limen.command.supervisor import set_up_web
from limen.uids import key_of
from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until

# What the shipped settings say; a node under test is more hasty.
SHIPPED = {
    "LIMEN_QUEUE__RETRY_BASE_S": "2",
    "LIMEN_SCP__QUIET_S": "5",
    "LIMEN_SCP__RELEASE_QUIET_S": "1",
}
QUICK = {"LIMEN_EXPLAIN__MAX_EXPLAINED": "1"}  # what is explained is of no matter here
BLEEDING, OTHERS = 4, 32
PILE = 2 * BLEEDING + OTHERS
AWAY_S = 35.0  # the waits of a delivery have doubled four times by then
ALL_AFTER_FIRST_S = 20.0  # idle it is 5; without the circuit it was 30 to 120
OVERTAKEN = 8
"""Places that one may come late: two slots, what was just asking, messages that were out before. In
any order it would be about thirty."""


class Arrival(NamedTuple):
    """A delivery that arrived, as the worker logged it."""

    at: datetime
    study_key: str
    phase: str


class LostProxy(BaseHTTPRequestHandler):
    """What a proxy says whose way to the results server is lost."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(404, "<h1>No such page</h1>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def lost_proxy(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), LostProxy) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            http.shutdown()
            thread.join()


def arrivals(node: Node) -> list[Arrival]:
    """What arrived at the results server, in order."""
    lines = re.findall(
        r"^(\S+) .*study\.delivered.* delivery=(\w+)-1-(prediction|explanation)-django\b",
        re.sub(r"\x1b\[\d*m", "", node.logs()),
        re.MULTILINE,
    )
    return [Arrival(datetime.fromisoformat(at), key, phase) for at, key, phase in lines]


def waiting(node: Node) -> int:
    """How much waits for the results server, or is on its way."""
    lane = node.journal.status.queues().get("django")
    return 0 if lane is None else lane.queued + lane.running


def overtaken(order: list[bool]) -> int:
    """How far behind its place the last of those stands that should have come first."""
    ahead = sum(order)
    return max((n for n, first in enumerate(order) if first), default=0) + 1 - ahead


def test_all_that_piled_up_arrives_at_once_positives_first(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    node = Node(own_folder, **SHIPPED, **QUICK)
    bleeding: set[str] = set()

    def sent(name: str, number: int, *, count: int | None = None) -> str:
        files = sorted(Path(phantoms[name].folder).glob("*.dcm"))[:count]
        uid, copies = copy_study(files, tmp_path / f"{name}-{number}")
        assert node.send(copies).sent == len(copies)
        return key_of(uid)

    try:
        set_up_web(node.config, node.env)
        node.start("scp", "worker")
        began = time.monotonic()
        with lost_proxy(node.config.web.port):
            for n in range(OTHERS):
                sent("mr-not-routed", n, count=1)
                if n % (OTHERS // BLEEDING) == 0:
                    bleeding.add(sent("subdural", n))
        until(lambda: waiting(node) == PILE, 150, f"{PILE} deliveries to wait", node.tell)
        until(lambda: time.monotonic() - began > AWAY_S, AWAY_S + 1, "the waits to grow")
        assert not arrivals(node)
        assert node.supervisor is not None
        node.supervisor.start(("web",))
        back = datetime.now(UTC)
        until(lambda: len(arrivals(node)) == PILE, 60, "every delivery to arrive", node.tell)
        done = arrivals(node)
    finally:
        node.close()
    first_s, last_s = ((done[n].at - back).total_seconds() for n in (0, -1))
    told = f"first {first_s:.1f} s after it was back, last {last_s:.1f} s"
    print(told)  # noqa: T201 - `pytest -s` is how to measure it
    assert first_s < node.config.queue.probe_s + 5, told
    assert last_s - max(first_s, 0.0) < ALL_AFTER_FIRST_S, told
    predictions = [a for a in done if a.phase == "prediction"]
    assert overtaken([a.study_key in bleeding for a in predictions]) <= OVERTAKEN, done
    assert overtaken([a.phase == "prediction" for a in done]) <= OVERTAKEN, done
