"""TLS for the second port: BCP 195 (RFC 9325), DICOM's "BCP 195 RFC 8996, 9325" profile (PS3.15 B).

TLS 1.3, and 1.2 with ephemeral keys and authenticated encryption; nothing older or weaker. The
files are looked at before each handshake: a renewed certificate is in use without a restart.
"""

from __future__ import annotations

import ssl
import threading
from datetime import datetime
from pathlib import Path

import structlog

from limen.certificate import ends_at
from limen.config import Tls
from limen.errors import ConfigError

__all__ = ["CIPHERS_OF_1_2", "Credentials"]

log = structlog.get_logger("scp.tls")

CIPHERS_OF_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CLIENT = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}

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
            return ends_at(path)
        except (OSError, ValueError) as exc:
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
        context.set_ciphers(CIPHERS_OF_1_2)
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
