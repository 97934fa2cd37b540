"""A connection that was let in, on its way from the acceptor to the process that serves it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

__all__ = ["Connection"]


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that was let in.

    Attributes
    ----------
    number
        Unique in this run of the receiver.
    address
        Of the peer.
    secure
        Whether it came to the TLS port.
    """

    number: int
    sock: socket.socket
    address: str
    secure: bool
