"""Free ports, for a demo and for servers under test."""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["free_ports"]

_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody uses now.

    Below those that the kernel hands out: between now and their use no connection takes them.
    """
    found: list[int] = []
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))
    while len(found) < count:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", candidates.pop()))
            found.append(int(sock.getsockname()[1]))
    return found
