"""A node on several hosts: the receiver's on one, workers without its folders on others."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from limen.command.supervisor import Supervisor
from tests.support.hosts import Hosts, hosts
from tests.support.node import Node
from tests.support.postgresql import PostgreSQL, postgresql
from tests.support.rabbitmq import rabbitmq

__all__ = ["FIRST", "Services", "Site", "services"]

FIRST = "first"
"""The host of the receiver, of RabbitMQ and of PostgreSQL."""


@dataclass(frozen=True)
class Services:
    """The hosts, and what runs on the first of them."""

    network: Hosts
    broker_url: str
    database: PostgreSQL


class Site:
    """A node on the first host, and a worker that predicts and explains on each of some others.

    Parameters
    ----------
    others
        What the settings of each other host have besides, by its name.
    quick, overrides
        As of ``Node``, for all hosts: where the archive is, at least.
    """

    def __init__(
        self,
        on: Services,
        folder: Path,
        database: str,
        others: Mapping[str, Mapping[str, str]],
        *,
        quick: bool = True,
        **overrides: str,
    ) -> None:
        self._network = on.network
        self.node = Node(
            folder / FIRST,
            quick=quick,
            LIMEN_QUEUE__BROKER=on.broker_url,
            LIMEN_QUEUE__PREFIX=database,
            LIMEN_JOURNAL__URL=on.database.url(database),
            LIMEN_WORKER__SOURCE="archive",
            LIMEN_WORKER__LANES='["deliver"]',
            **overrides,
        )
        self.data = {name: folder / name / "data" for name in others}
        self._environments = {
            name: self.node.env
            | {
                "LIMEN_NODE__DATA_DIR": str(self.data[name]),
                "LIMEN_WORKER__LANES": '["predict", "explain"]',
            }
            | dict(more)
            for name, more in others.items()
        }
        self._logs = {name: folder / name / "logs" for name in others}
        self._workers: dict[str, Supervisor] = {}

    def start(self, name: str) -> None:
        """Start the worker of a host, there."""
        self._workers[name] = Supervisor(self._environments[name], self._logs[name])
        with self._network.inside(name):
            self._workers[name].start(("worker",))

    def end(self, names: Iterable[str] = ()) -> None:
        """End workers at once, all by default: one of them may have an hour to go."""
        for name in list(names or self._workers):
            worker = self._workers.pop(name)
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid("worker"), signal.SIGKILL)
            worker.stop()

    def close(self) -> None:
        """End everything."""
        self.end()
        self.node.close()

    def logs(self, name: str) -> str:
        """Return what a worker logged."""
        return (self._logs[name] / "worker.log").read_text("utf-8", "replace")


@contextmanager
def services(
    folder: Path, *others: str, databases: Iterable[str] = ("limen",)
) -> Iterator[Services]:
    """Make hosts, and start what they share; this thread is on the first until the end."""
    with ExitStack() as stack:
        network = stack.enter_context(hosts(FIRST, *others))
        stack.enter_context(network.inside(FIRST))
        address = network.address(FIRST)
        (folder / "rabbitmq").mkdir(parents=True)
        remote = "loopback_users = none\n"
        broker = stack.enter_context(rabbitmq(folder / "rabbitmq", remote, address))
        database = stack.enter_context(postgresql(*databases, address=address))
        url = f"amqp://guest:guest@{address}:{broker.port}//"
        yield Services(network, url, database)
