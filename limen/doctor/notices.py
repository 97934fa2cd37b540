"""Whom this node tells of something: whether each is there and trusted, and we have a secret."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from limen import signing
from limen.config import Hl7Destination
from limen.doctor.certificates import judge, of_peer
from limen.doctor.check import Finding, Node, failed, ok, skipped
from limen.errors import LimenError

__all__ = ["notices"]

_LOOK_S = 5.0


def notices(node: Node) -> Iterator[Finding]:
    """Look at each webhook and RIS; nothing is sent there: a message would be taken for one."""
    alarm, places = node.settings.alarm, node.settings.destination
    if not (alarm.webhook or places.webhook or places.hl7):
        yield skipped(
            "nobody is to be told: no [alarm], [[destination.webhook]] or [[destination.hl7]]"
        )
        return
    if alarm.webhook:
        assert alarm.secret_file is not None  # noqa: S101 - the settings see to it
        timeout_s = min(alarm.timeout_s, _LOOK_S)
        yield from _webhook("alarm", alarm.webhook, alarm.secret_file, alarm.ca_file, timeout_s)
    for one in places.webhook:
        timeout_s = min(one.timeout_s, _LOOK_S)
        yield from _webhook(one.name, one.url, one.secret_file, one.ca_file, timeout_s)
    for ris in places.hl7:
        yield from _hl7(ris)


def _webhook(
    name: str, url: str, secret_file: Path, ca_file: Path | None, timeout_s: float
) -> Iterator[Finding]:
    try:
        signing.secret(secret_file)
    except LimenError as exc:
        yield failed(f"{name}: {exc}", "")
    else:
        yield ok(f"{name}: its secret can be read")
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = None
    if secure:
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError:
            yield failed(f"{name}: {ca_file} cannot be read, or has no certificate", "put it right")
            return
    yield from _reach(name, parts.hostname or "", port, context, timeout_s)


def _hl7(ris: Hl7Destination) -> Iterator[Finding]:
    context = None
    if ris.tls:
        try:
            context = ssl.create_default_context(cafile=ris.ca_file)
            if ris.certificate_file is not None:
                context.load_cert_chain(ris.certificate_file, ris.key_file)
        except OSError:
            text = f"{ris.name}: ca_file, certificate_file or key_file cannot be read, or is no PEM"
            yield failed(text, "put them right, and let this account read them")
            return
    timeout_s = min(ris.timeout_s, _LOOK_S)
    yield from _reach(ris.name, ris.host, ris.port, context, timeout_s)


def _reach(
    name: str, host: str, port: int, context: ssl.SSLContext | None, timeout_s: float
) -> Iterator[Finding]:
    """Connect, and say hello where TLS is spoken."""
    where = f"{name}: {host}:{port}"
    try:
        with socket.create_connection((host, port), timeout_s) as sock:
            if context is not None:
                context.wrap_socket(sock, server_hostname=host).close()
    except ssl.SSLCertVerificationError as exc:
        yield failed(
            f"{where}: its certificate is not trusted ({exc.verify_message})",
            "name who signed it in ca_file, or put the host name right",
        )
        return
    except ssl.SSLError as exc:
        yield failed(f"{where} speaks no TLS with us ({exc.reason})", "put its address right")
        return
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        yield failed(f"{where} does not answer ({why})", "put its address right, or start it")
        return
    yield ok(f"{where} answers")
    if context is not None:
        yield judge(f"the certificate of {name}", of_peer(host, port, context, timeout_s))
