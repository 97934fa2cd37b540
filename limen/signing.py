"""Signatures of webhooks, as the Standard Webhooks specification 1.0 has them (HMAC-SHA256).

Whoever is called verifies with the library of their language, or in five lines (docs/notify.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from limen.errors import Unreachable

__all__ = ["headers", "secret"]

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64


def secret(path: Path) -> bytes:
    """Return the key in a file; it is read for each use, so that it can be renewed.

    Returns
    -------
    bytes
        24 to 64 of them: what base64 says after ``whsec_``, which may be left out.

    Raises
    ------
    Unreachable
        The file cannot be read, or holds no such key. What it holds is not repeated.
    """
    try:
        text = path.read_text("ascii").strip().removeprefix(_PREFIX)
        key = base64.b64decode(text, validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error) as exc:
        raise _missing(path) from exc
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise _missing(path)
    return key


def headers(key: bytes, message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that say which message this is, when it was sent, and that we sent it.

    Parameters
    ----------
    message_id
        The same for each try of the same message; no dot in it.
    at_s
        Of this try, in Unix time.
    """
    signed = b".".join((message_id.encode("ascii"), str(at_s).encode("ascii"), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode('ascii')}",
    }


def _missing(path: Path) -> Unreachable:
    return Unreachable(
        f"secret file {path} cannot be read, or does not hold whsec_ and the base64 of 24 to 64 "
        f"bytes; `(printf whsec_; openssl rand -base64 32) > {path}` makes one, and who is called "
        "needs the same"
    )
