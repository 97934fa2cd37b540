"""What the tests need around them, and what to do when it is not there."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def require_service(present: object, reason: str) -> None:
    """Skip with ``reason`` when a service is absent; fail when services are required."""
    if present:
        return
    if os.environ.get("LIMEN_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason} (LIMEN_REQUIRE_SERVICES=1)")
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """Return the path of a program, or skip."""
    path = shutil.which(name)
    require_service(path, f"{name} is not installed (Debian package {package})")
    return str(path)


def answers(port: int) -> bool:
    """Return whether anything listens on a loopback port."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def shared_data(name: str) -> Path:
    """Return a folder of the data set that lies beside the checkout, or skip."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the test data {name} does not lie beside this checkout")
    return folder
