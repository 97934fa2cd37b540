"""UIDs: what is accepted, how a received UID becomes a key, and UIDs of our own.

Received text never reaches a path, a message or a log: keys stand in for it.
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["KEY_LENGTH", "UID_LENGTH", "UID_PATTERN", "derived_uid", "is_uid", "key_of"]

KEY_LENGTH = 32
# PS3.5 9.1 also forbids leading zeros in a component. Devices in the field break that
# rule, and nothing here depends on it, so only the alphabet and the length are held to.
UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"
UID_LENGTH = 64
_UID = re.compile(UID_PATTERN)


def is_uid(text: str) -> bool:
    """Return whether ``text`` has the form of a UID (PS3.5 9.1): digits, dots, at most 64."""
    return len(text) <= UID_LENGTH and _UID.fullmatch(text) is not None


def key_of(uid: str) -> str:
    """Return the key of a study or instance: 32 hex digits of the SHA-256 of its UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:KEY_LENGTH]


def derived_uid(*parts: str) -> str:
    """Return the UID of something Limen creates: the same parts give the same UID.

    A UUID-derived UID (PS3.5 B.2): ``2.25.`` and 128 bits of the SHA-256 of the parts.
    """
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
