"""The guard: who may open an association, and how much of a peer we put up with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from limen.config import Scp

__all__ = ["Guard", "Refusal"]

# PS3.8 9.3.4, A-ASSOCIATE-RJ: (result, source, reason)
_CALLING_AE_UNKNOWN = (1, 1, 3)
_CALLED_AE_UNKNOWN = (1, 1, 7)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an association is refused; ``code`` is result, source, reason of PS3.8 9.3.4."""

    reason: str
    code: tuple[int, int, int]


class Guard:
    """Compares peers with the settings. Pure: no socket, no clock.

    Without any ``[[scp.peer]]``, this machine alone may send, unless ``allow_any_peer``.
    """

    def __init__(self, settings: Scp) -> None:
        self._settings = settings
        self._peers = [
            (peer.ae_title, ipaddress.ip_network(peer.address, strict=False))
            for peer in settings.peer
        ]

    def admits_address(self, address: str) -> bool:
        """Return whether anyone at ``address`` may connect; asked before a thread is spent."""
        ip = _ip(address)
        if self._settings.allow_any_peer:
            return True
        if not self._peers:
            return ip.is_loopback
        return any(ip in network for _, network in self._peers)

    def refusal(self, calling: str, called: str, address: str) -> Refusal | None:
        """Return why this association is refused, or None when it is welcome."""
        if called != self._settings.ae_title:
            return Refusal("called AE title is not ours", _CALLED_AE_UNKNOWN)
        if self._settings.allow_any_peer or not self._peers:
            return None
        ip = _ip(address)
        if any(calling == title and ip in network for title, network in self._peers):
            return None
        return Refusal("calling AE title and address are not a listed peer", _CALLING_AE_UNKNOWN)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return mapped or ip
