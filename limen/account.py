"""Who asks: the account of whoever sits at this host."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["at_host", "whoever"]


def whoever() -> str:
    """Return the account of whoever sits there, also behind `sudo`."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def at_host() -> str:
    """Return the same with the host, for what is decided for several hosts: ``anna@reading``."""
    return f"{whoever()}@{socket.gethostname()}"
