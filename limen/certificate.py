"""Our certificates, and when one ends: for the receiver, for alarms and for ``limen doctor``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from limen.config import Config, Hl7Destination, PacsDestination

__all__ = ["ends_at", "ours"]


def ours(config: Config) -> dict[str, Path]:
    """Return the files of our certificates, by section, or by the destination that is shown it."""
    shown: list[PacsDestination | Hl7Destination] = [
        *config.destination.pacs,
        *config.destination.hl7,
    ]
    found: dict[str, Path | None] = {
        "scp.tls": config.scp.tls.certificate_file if config.scp.tls.port else None,
        "audit": config.audit.certificate_file if config.audit.host else None,
        **{entry.name: entry.certificate_file for entry in shown if entry.tls},
    }
    return {name: path for name, path in found.items() if path is not None}


def ends_at(path: Path) -> datetime:
    """Return when the first certificate of a PEM file ends, UTC.

    Raises
    ------
    ImportError
        The package ``cryptography`` is not installed.
    OSError
        The file cannot be read.
    ValueError
        It holds no certificate in PEM.
    """
    from cryptography import x509  # noqa: PLC0415 - 8 MB that only who has certificates pays

    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
