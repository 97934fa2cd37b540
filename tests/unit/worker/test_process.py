"""worker.process: how a worker starts, or says why it does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from limen.errors import LimenError
from tests.samples import settings
from worker.process import run


def test_a_metrics_port_in_use_is_told_by_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = settings(tmp_path, metrics={"worker_port": taken.getsockname()[1]})
        with pytest.raises(LimenError, match="metrics.worker_port"):
            run(config)
