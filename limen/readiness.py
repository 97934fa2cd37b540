"""Telling a supervisor that a process is ready: the datagram of sd_notify(3).

systemd units of ``Type=notify`` and ``limen up`` listen for the same message.
"""

from __future__ import annotations

import os
import socket

__all__ = ["say_ready"]


def say_ready() -> None:
    """Send ``READY=1`` to the socket named by ``NOTIFY_SOCKET``, if anyone listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # abstract name space
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"READY=1", address)
        except OSError:
            return  # a supervisor that is gone is no reason to stop
