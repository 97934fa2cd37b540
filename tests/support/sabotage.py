"""What can be done to a node: ``limen up`` with RabbitMQ and PostgreSQL of its own, and faults.

Timers are as they ship. A proxy stands before each server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import Node, until
from tests.support.ports import free_ports
from tests.support.postgresql import PostgreSQL, postgresql
from tests.support.proxy import BOTH, FROM_SERVER, Proxy
from tests.support.rabbitmq import RabbitMQ, rabbitmq
from tests.support.wire import RawPeer, message, store_rq

__all__ = ["Fault", "Sabotage", "descendants", "running"]

Fault = Callable[[], AbstractContextManager[None]]
"""Begins a fault, and mends it at the end; what is killed or reset is over at once."""


@dataclass(frozen=True)
class Sabotage:
    """A node, what is around it, and the faults that can be made."""

    node: Node
    up: int
    broker: RabbitMQ
    database: PostgreSQL
    to_broker: Proxy
    to_database: Proxy
    to_results_server: Proxy

    def processes(self) -> dict[str, int]:
        """Return the process ids of the children of ``limen up``, by name."""
        found = {}
        for pid in _children(self.up):
            with suppress(OSError, ValueError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                found[words[words.index(b"-m") + 1].decode()] = pid
        return found

    @contextmanager
    def worker_killed(self) -> Iterator[None]:
        """SIGKILL the worker."""
        os.kill(self.processes()["worker"], signal.SIGKILL)
        yield

    @contextmanager
    def receiver_killed(self) -> Iterator[None]:
        """SIGKILL the receiver."""
        os.kill(self.processes()["scp"], signal.SIGKILL)
        yield

    @contextmanager
    def broker_connections_reset(self) -> Iterator[None]:
        """Reset every connection to RabbitMQ."""
        self.to_broker.cut()
        yield

    @contextmanager
    def broker_silent(self) -> Iterator[None]:
        """Let nothing through to or from RabbitMQ."""
        with self.to_broker.held(*BOTH):
            yield

    @contextmanager
    def broker_answers_nothing(self) -> Iterator[None]:
        """Let nothing through from RabbitMQ."""
        with self.to_broker.held(FROM_SERVER):
            yield

    @contextmanager
    def broker_stopped(self) -> Iterator[None]:
        """Stop RabbitMQ."""
        self.broker.control("stop_app")
        try:
            yield
        finally:
            self.broker.control("start_app")

    @contextmanager
    def database_connections_reset(self) -> Iterator[None]:
        """Reset every connection to PostgreSQL."""
        self.to_database.cut()
        yield

    @contextmanager
    def database_killed(self) -> Iterator[None]:
        """Let PostgreSQL crash."""
        self.database.kill()
        try:
            yield
        finally:
            self.database.start()

    @contextmanager
    def archive_away(self) -> Iterator[None]:
        """Put a file where the folder of the archive was: nothing can be written into it."""
        archive = self.node.config.archive_dir
        aside = archive.with_name("unmounted")
        archive.rename(aside)
        archive.touch()
        try:
            yield
        finally:
            archive.unlink()
            aside.rename(archive)

    @contextmanager
    def results_server_away(self) -> Iterator[None]:
        """Reset every connection to the results server."""
        with self.to_results_server.away():
            yield

    @contextmanager
    def results_server_stands_still(self) -> Iterator[None]:
        """SIGSTOP the results server: it accepts connections, and says nothing."""
        tree = list(descendants(self.processes()["web"]))
        for one in tree:
            os.kill(one, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in tree:
                os.kill(one, signal.SIGCONT)

    @contextmanager
    def sender_aborts(self) -> Iterator[None]:
        """Break associations off in the middle of an instance."""
        for _ in range(5):
            with RawPeer(self.node.config.scp.port) as peer:
                peer.open()
                peer.send(message(3, store_rq("1.2.3.4"), bytes(1 << 20))[:500_000])
        yield


def descendants(pid: int) -> Iterator[int]:
    """Yield a process, its children and theirs."""
    tree = [pid]
    for one in tree:
        yield one
        tree += _children(one)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text("ascii").split())
    return found


@contextmanager
def running(folder: Path, **overrides: str) -> Iterator[Sabotage]:
    """Run ``limen up`` with everything around it.

    Parameters
    ----------
    overrides
        As of ``Node``.
    """
    with ExitStack() as stack:
        for name in ("node", "rabbitmq"):
            (folder / name).mkdir()
        broker = stack.enter_context(rabbitmq(folder / "rabbitmq"))
        database = stack.enter_context(postgresql("journal", "web"))
        (web_port,) = free_ports(1)
        to_broker, to_database, to_results_server = (
            stack.enter_context(Proxy(port)) for port in (broker.port, database.port, web_port)
        )
        at = f"postgresql://postgres@127.0.0.1:{to_database.port}"
        node = Node(
            folder / "node",
            quick=False,
            LIMEN_QUEUE__BROKER=f"amqp://guest:guest@127.0.0.1:{to_broker.port}//",
            LIMEN_JOURNAL__URL=f"{at}/journal",
            LIMEN_WEB__DATABASE_URL=f"{at}/web",
            LIMEN_WEB__PORT=str(web_port),
            LIMEN_DESTINATION__DJANGO__URL=f"http://127.0.0.1:{to_results_server.port}",
            **overrides,
        )
        stack.callback(node.close)
        logs = node.folder / "logs"
        logs.mkdir()
        with (logs / "up.log").open("wb") as output:
            words = [sys.executable, "-m", "limen", "up"]
            up = subprocess.Popen(words, env=node.env, cwd=folder, stdout=output, stderr=output)
        try:
            until(lambda: "Limen is up" in node.logs(), 120, "limen up", node.logs)
            yield Sabotage(
                node, up.pid, broker, database, to_broker, to_database, to_results_server
            )
            assert up.poll() is None, "limen up has ended"
        finally:
            up.terminate()
            up.wait(60)
