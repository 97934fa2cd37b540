"""When a certificate ends: for the receiver, for alarms and for ``limen doctor``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

__all__ = ["ends_at"]


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
