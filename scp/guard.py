"""The guard: from where one may connect, and who may open an association."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limen.config import Peer, Scp
from scp.rejections import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, Code

__all__ = ["Guard", "Refusal", "Subject"]

_SHORT_NAMES = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an association is refused; ``code`` is result, source, reason of PS3.8 9.3.4."""

    reason: str
    code: Code


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a client certificate: pairs of attribute and value (RFC 4514 names)."""

    pairs: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, certificate: Mapping[str, Any] | None) -> Subject | None:
        """Return that of ``SSLSocket.getpeercert()``; None without a certificate."""
        if not certificate:
            return None
        names = (pair for rdn in certificate.get("subject", ()) for pair in rdn)
        return cls(frozenset((_SHORT_NAMES.get(k, k).upper(), v) for k, v in names))

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Read ``"CN=ct1,O=Hospital"``, or a common name alone."""
        if "=" not in text:
            return cls(frozenset({("CN", text.strip())}))
        parts = (part.partition("=") for part in text.split(","))
        return cls(frozenset((k.strip().upper(), v.strip()) for k, _, v in parts))


@dataclass(frozen=True, slots=True)
class _Listed:
    ae_title: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    subject: Subject | None

    def matches(self, calling: str, ip: object, shown: Subject | None) -> bool:
        if calling != self.ae_title or ip not in self.network:
            return False
        return self.subject is None or (shown is not None and self.subject.pairs <= shown.pairs)


class Guard:
    """Compares peers with the settings. Pure: no socket, no clock.

    Without any ``[[scp.peer]]``, this machine alone may send, unless ``allow_any_peer``.
    """

    def __init__(self, settings: Scp) -> None:
        self._settings = settings
        self._peers = [
            _Listed(
                peer.ae_title,
                ipaddress.ip_network(peer.address, strict=False),
                Subject.parse(peer.tls_subject) if peer.tls_subject else None,
            )
            for peer in settings.peer
        ]

    def admits_address(self, address: str) -> bool:
        """Return whether anyone at ``address`` may connect; asked before a thread is spent."""
        ip = _ip(address)
        if self._settings.allow_any_peer:
            return True
        if not self._peers:
            return ip.is_loopback
        return any(ip in peer.network for peer in self._peers)

    def listed(self, calling: str, address: str) -> Peer | None:
        """Return the ``[[scp.peer]]`` that calls itself so from there, if any."""
        ip = _ip(address)
        for peer, known in zip(self._settings.peer, self._peers, strict=True):
            if known.ae_title == calling and ip in known.network:
                return peer
        return None

    def refusal(
        self, calling: str, called: str, address: str, subject: Subject | None = None
    ) -> Refusal | None:
        """Return why this association is refused, or None when it is welcome.

        ``subject`` is that of the client certificate the peer has shown, if any.
        """
        if called != self._settings.ae_title:
            return Refusal("called AE title is not ours", CALLED_AE_UNKNOWN)
        # A peer that is listed with a certificate is held to it even where anyone may send.
        named = [peer for peer in self._peers if peer.ae_title == calling and peer.subject]
        if (self._settings.allow_any_peer and not named) or not self._peers:
            return None
        ip = _ip(address)
        if any(peer.matches(calling, ip, subject) for peer in self._peers):
            return None
        if any(ip in peer.network for peer in named):
            return Refusal("the client certificate is not that of the peer", CALLING_AE_UNKNOWN)
        return Refusal("calling AE title and address are not a listed peer", CALLING_AE_UNKNOWN)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return mapped or ip
