"""TLS for the second port: BCP 195 (RFC 9325), DICOM's "BCP 195 RFC 8996, 9325" profile (PS3.15 B).

TLS 1.3, and 1.2 with ephemeral keys and authenticated encryption; nothing older or weaker. The
files are looked at before each handshake: a renewed certificate is in use without a restart.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from limen.config import Tls
from limen.errors import ConfigError

__all__ = ["Credentials"]

log = structlog.get_logger("scp.tls")

_CIPHERS_OF_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CLIENT = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_UTC_TIME, _EXPLICIT_0 = 0x17, 0xA0

_Stamp = tuple[tuple[int, int], ...]


class Credentials:
    """Certificate, key and authorities, read again when their files change. Shared by threads.

    Raises
    ------
    ConfigError
        The files cannot be used; when a later change cannot be, the credentials before it stay.
    """

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Return the context of the next handshake."""
        stamp = self._look()
        if stamp == self._stamp:
            return self._context
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._read()
                    log.info("tls.reloaded", path=str(self._settings.certificate_file))
                except ConfigError as exc:
                    log.error("tls.reload_failed", error=exc)
        return self._context

    def expires_at(self) -> datetime:
        """Return when the certificate on the disk ends.

        Raises
        ------
        ConfigError
            It cannot be read.
        """
        path = self._settings.certificate_file
        assert path is not None  # noqa: S101 - the settings hold an open port to it
        try:
            pem = path.read_text("ascii")
            first = pem[: pem.index("-----END CERTIFICATE-----") + 25]
            return _not_after(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :]))
        except (OSError, ValueError, IndexError) as exc:
            raise ConfigError(f"{path} holds no certificate that can be read") from exc

    def _files(self) -> list[Path]:
        s = self._settings
        return [p for p in (s.certificate_file, s.key_file, s.ca_file) if p is not None]

    def _look(self) -> _Stamp:
        stamp = []
        for path in self._files():
            try:
                found = path.stat()
                stamp.append((found.st_mtime_ns, found.st_ino))
            except OSError:  # being replaced
                stamp.append((0, 0))
        return tuple(stamp)

    def _read(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS_OF_1_2)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.verify_mode = _CLIENT[settings.client_certificate]
        try:
            assert settings.certificate_file is not None  # noqa: S101 - checked by the settings
            context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
            if settings.ca_file is not None:
                context.load_verify_locations(settings.ca_file)
        except (OSError, ValueError) as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else exc.__class__.__name__
            raise ConfigError(
                f"the files of [scp.tls] cannot be used ({reason}): certificate_file "
                f"{settings.certificate_file}, key_file {settings.key_file}, ca_file "
                f"{settings.ca_file}; they have to be PEM, readable, the key without a "
                "passphrase and that of the certificate"
            ) from exc
        return context


def _not_after(der: bytes) -> datetime:
    """Return the end of validity of an X.509 certificate (RFC 5280 4.1)."""
    _, certificate = next(_values(der))
    _, body = next(_values(certificate))
    fields = [(kind, value) for kind, value in _values(body) if kind != _EXPLICIT_0]
    validity = fields[3][1]  # behind serial number, signature, issuer
    kind, text = list(_values(validity))[1]
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)


def _values(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, value) of the DER elements in ``der``."""
    at = 0
    while at < len(der):
        kind, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        yield kind, der[at : at + length]
        at += length
