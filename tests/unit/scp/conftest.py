"""A receiver on a port of its own, with its real journal, spool and broker folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limen.command.send import Peer
from limen.config import Config
from scp.server import Receiver
from tests.support.samples import settings


@dataclass(frozen=True)
class Listening:
    """A receiver that listens, and where."""

    receiver: Receiver
    config: Config
    peer: Peer


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    """Start receivers with other ``[scp]`` settings; stopped afterwards."""
    started: list[Receiver] = []

    def start(
        folder: Path = tmp_path, queue: dict[str, Any] | None = None, **scp: Any
    ) -> Listening:
        config = settings(folder, scp=scp, queue=queue or {})
        receiver = Receiver(config)
        started.append(receiver)
        port = receiver.start()
        return Listening(receiver, config, Peer(config.scp.ae_title, "127.0.0.1", port))

    yield start
    for receiver in started:
        receiver.stop()


@pytest.fixture
def listening(listen: Callable[..., Listening]) -> Listening:
    """A receiver with the settings of every test."""
    return listen()
