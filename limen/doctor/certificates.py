"""Certificates: when ours and those of others end."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from limen.certificate import ends_at, ours
from limen.doctor.check import Finding, Node, failed, ok, skipped, warning

__all__ = ["certificates", "judge", "of_peer", "of_server"]

_DAY_S = 86400.0
_SOON_S = 30 * _DAY_S


def certificates(node: Node) -> Iterator[Finding]:
    """Look at our own: of the TLS port, of the audit trail, and what we show to destinations."""
    found = ours(node.settings)
    if not found:
        yield skipped("no certificate of ours is configured")
    elif find_spec("cryptography") is None:
        yield skipped("certificates are looked at where the receiver is installed")
    else:
        for name, path in found.items():
            yield _of_file(f"the certificate of {name}", path)


def judge(whose: str, ends_s: float | None) -> Finding:
    """Say how long a certificate is still good.

    Parameters
    ----------
    ends_s
        Unix time; None: it was not seen.
    """
    if ends_s is None:
        return skipped(f"{whose} was not seen")
    left_s = ends_s - time.time()
    on = time.strftime("%Y-%m-%d", time.gmtime(ends_s))
    if left_s <= 0:
        return failed(f"{whose} has expired on {on}", "renew it")
    if left_s < _SOON_S:
        return warning(f"{whose} expires in {left_s / _DAY_S:.0f} days, on {on}", "renew it")
    return ok(f"{whose} is good until {on}")


def of_peer(host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> float | None:
    """Return when the certificate of a server ends, in Unix time; None when it shows none."""
    try:
        with (
            socket.create_connection((host, port), timeout_s) as sock,
            context.wrap_socket(sock, server_hostname=host) as secure,
        ):
            shown = secure.getpeercert() or {}
    except OSError:
        return None
    ends = shown.get("notAfter")
    return float(ssl.cert_time_to_seconds(ends)) if isinstance(ends, str) else None


def of_server(url: str, context: ssl.SSLContext, timeout_s: float) -> float | None:
    """Return when the certificate behind a URL ends, in Unix time."""
    parts = urlsplit(url)
    return of_peer(parts.hostname or "", parts.port or 443, context, timeout_s)


def _of_file(name: str, path: Path) -> Finding:
    try:
        ends = ends_at(path)
    except (OSError, ValueError):
        return failed(
            f"{name}, {path}, cannot be read, or is none in PEM",
            "put the file right, and let the account that Limen runs as read it",
        )
    return judge(name, ends.timestamp())
