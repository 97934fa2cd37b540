"""A RabbitMQ of a test's own: its node, port and folder; ended by pid."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.services import answers, program, require_service

__all__ = ["RabbitMQ", "rabbitmq"]

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_START_S = 120.0


@dataclass(frozen=True)
class RabbitMQ:
    """A running server."""

    port: int
    environment: dict[str, str]

    def log(self) -> str:
        """Return what it has logged."""
        folder = Path(self.environment["RABBITMQ_LOG_BASE"])
        return "".join(path.read_text("utf-8", "replace") for path in folder.glob("*.log"))

    def control(self, *words: str) -> str:
        """Return what rabbitmqctl prints."""
        done = subprocess.run(
            [PROGRAMS / "rabbitmqctl", "--quiet", *words],
            env=self.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def rabbitmq(folder: Path, settings: str = "", address: str = "127.0.0.1") -> Iterator[RabbitMQ]:
    """Start a server with some settings (rabbitmq.conf); skip where it is not installed.

    Parameters
    ----------
    address
        Where it listens besides loopback, where that is another.
    """
    require_service((PROGRAMS / "rabbitmq-server").exists(), "rabbitmq-server is not installed")
    port, distribution, names = free_ports(3)
    (folder / "rabbitmq.conf").write_text(
        f"{settings}"
        + "".join(
            f"listeners.tcp.{n} = {one}:{port}\n"
            for n, one in enumerate(dict.fromkeys(("127.0.0.1", address)), start=1)
        ),
        "utf-8",
    )
    (folder / "plugins").write_text("[].", "utf-8")
    # Of two Erlang systems that start at the same moment, each makes one, readable by all at first.
    cookie = folder / ".erlang.cookie"
    cookie.touch(0o600)
    cookie.write_text("LIMEN", "ascii")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"limen-test-{port}@localhost",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_DIST_PORT": str(distribution),
        # Erlang would start a name server for the whole host, which outlives everybody.
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    output = folder / "output"
    with ExitStack() as stack:
        told = stack.enter_context(output.open("wb"))
        for words, where in (
            ([program("epmd", "erlang-base")], names),
            ([PROGRAMS / "rabbitmq-server"], port),
        ):
            server = subprocess.Popen(words, env=environment, cwd=folder, stdout=told, stderr=told)
            stack.callback(server.wait, 60)
            stack.callback(server.terminate)
            until(lambda where=where: answers(where), _START_S, str(words[0]), output.read_text)
        yield RabbitMQ(port, environment)
