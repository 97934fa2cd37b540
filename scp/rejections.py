"""Why associations are rejected, by result, source and reason of A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CALLED_AE_UNKNOWN",
    "CALLING_AE_UNKNOWN",
    "LIMIT_EXCEEDED",
    "NO_SUCH_CONTEXT",
    "NO_SUCH_VERSION",
    "REJECTIONS",
    "Code",
]

Code = tuple[int, int, int]

CALLED_AE_UNKNOWN: Final[Code] = (1, 1, 7)
CALLING_AE_UNKNOWN: Final[Code] = (1, 1, 3)
NO_SUCH_CONTEXT: Final[Code] = (1, 1, 2)
NO_SUCH_VERSION: Final[Code] = (1, 2, 2)
LIMIT_EXCEEDED: Final[Code] = (2, 3, 2)

REJECTIONS: Final = (
    (CALLED_AE_UNKNOWN, "the called AE title is not that of this node"),
    (
        CALLING_AE_UNKNOWN,
        "the calling AE title, the address and the client certificate are not those of a listed "
        "peer",
    ),
    (NO_SUCH_CONTEXT, "the application context is not that of DICOM"),
    (NO_SUCH_VERSION, "the protocol version is not 1"),
    (LIMIT_EXCEEDED, "as many associations as allowed are open, or as many of this address"),
)
"""Code, and when."""
