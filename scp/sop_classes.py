"""The SOP classes and transfer syntaxes that are accepted.

A table of our own: the lists of pydicom and pynetdicom cost 30 MB in every receiving process. A
test compares it with theirs. Left out are storage classes without a study: the media directory
(PS3.3 F) and non-patient objects (PS3.4 GG), which belong to another service class.
"""

from __future__ import annotations

from limen.config import Scp

__all__ = [
    "COMMITMENT",
    "COMMITMENT_INSTANCE",
    "STORAGE",
    "TRANSFER_SYNTAXES",
    "VERIFICATION",
    "served_by",
]

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model (PS3.4 J.3)."""
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP instance."""

_TAILS = """
    1.27 1.29 1.30 4.1.1.1 4.1.1.1.1 4.1.1.1.1.1 4.1.1.1.2 4.1.1.1.2.1 4.1.1.1.3 4.1.1.1.3.1
    4.1.1.2 4.1.1.2.1 4.1.1.2.2 4.1.1.3 4.1.1.3.1 4.1.1.4 4.1.1.4.1 4.1.1.4.2 4.1.1.4.3
    4.1.1.4.4 4.1.1.5 4.1.1.6 4.1.1.6.1 4.1.1.6.2 4.1.1.6.3 4.1.1.7 4.1.1.7.1 4.1.1.7.2
    4.1.1.7.3 4.1.1.7.4 4.1.1.8 4.1.1.9 4.1.1.9.1 4.1.1.9.1.1 4.1.1.9.1.2 4.1.1.9.1.3
    4.1.1.9.1.4 4.1.1.9.2.1 4.1.1.9.3.1 4.1.1.9.4.1 4.1.1.9.4.2 4.1.1.9.5.1 4.1.1.9.6.1
    4.1.1.9.6.2 4.1.1.9.7.1 4.1.1.9.7.2 4.1.1.9.7.3 4.1.1.9.7.4 4.1.1.9.8.1 4.1.1.9.100.1
    4.1.1.9.100.2 4.1.1.10 4.1.1.11 4.1.1.11.1 4.1.1.11.2 4.1.1.11.3 4.1.1.11.4 4.1.1.11.5
    4.1.1.11.6 4.1.1.11.7 4.1.1.11.8 4.1.1.11.9 4.1.1.11.10 4.1.1.11.11 4.1.1.11.12 4.1.1.12.1
    4.1.1.12.1.1 4.1.1.12.2 4.1.1.12.2.1 4.1.1.12.3 4.1.1.13.1.1 4.1.1.13.1.2 4.1.1.13.1.3
    4.1.1.13.1.4 4.1.1.13.1.5 4.1.1.14.1 4.1.1.14.2 4.1.1.20 4.1.1.30 4.1.1.66 4.1.1.66.1
    4.1.1.66.2 4.1.1.66.3 4.1.1.66.4 4.1.1.66.5 4.1.1.66.6 4.1.1.66.7 4.1.1.66.8 4.1.1.67
    4.1.1.68.1 4.1.1.68.2 4.1.1.77.1 4.1.1.77.1.1 4.1.1.77.1.1.1 4.1.1.77.1.2 4.1.1.77.1.2.1
    4.1.1.77.1.3 4.1.1.77.1.4 4.1.1.77.1.4.1 4.1.1.77.1.5.1 4.1.1.77.1.5.2 4.1.1.77.1.5.3
    4.1.1.77.1.5.4 4.1.1.77.1.5.5 4.1.1.77.1.5.6 4.1.1.77.1.5.7 4.1.1.77.1.5.8 4.1.1.77.1.6
    4.1.1.77.1.7 4.1.1.77.1.8 4.1.1.77.1.9 4.1.1.77.2 4.1.1.78.1 4.1.1.78.2 4.1.1.78.3
    4.1.1.78.4 4.1.1.78.5 4.1.1.78.6 4.1.1.78.7 4.1.1.78.8 4.1.1.79.1 4.1.1.80.1 4.1.1.81.1
    4.1.1.82.1 4.1.1.88.1 4.1.1.88.2 4.1.1.88.3 4.1.1.88.4 4.1.1.88.11 4.1.1.88.22 4.1.1.88.33
    4.1.1.88.34 4.1.1.88.35 4.1.1.88.40 4.1.1.88.50 4.1.1.88.59 4.1.1.88.65 4.1.1.88.67
    4.1.1.88.68 4.1.1.88.69 4.1.1.88.70 4.1.1.88.71 4.1.1.88.72 4.1.1.88.73 4.1.1.88.74
    4.1.1.88.75 4.1.1.88.76 4.1.1.88.77 4.1.1.90.1 4.1.1.91.1 4.1.1.104.1 4.1.1.104.2
    4.1.1.104.3 4.1.1.104.4 4.1.1.104.5 4.1.1.128 4.1.1.128.1 4.1.1.129 4.1.1.130 4.1.1.131
    4.1.1.200.2 4.1.1.200.8 4.1.1.481.1 4.1.1.481.2 4.1.1.481.3 4.1.1.481.4 4.1.1.481.5
    4.1.1.481.6 4.1.1.481.7 4.1.1.481.8 4.1.1.481.9 4.1.1.481.10 4.1.1.481.11 4.1.1.481.12
    4.1.1.481.13 4.1.1.481.14 4.1.1.481.15 4.1.1.481.16 4.1.1.481.17 4.1.1.481.18 4.1.1.481.19
    4.1.1.481.20 4.1.1.481.21 4.1.1.481.22 4.1.1.481.23 4.1.1.481.24 4.1.1.481.25 4.1.1.501.1
    4.1.1.501.2.1 4.1.1.501.2.2 4.1.1.501.3 4.1.1.501.4 4.1.1.501.5 4.1.1.501.6 4.1.1.601.1
    4.1.1.601.2 4.34.1 4.34.7 4.34.10
"""
STORAGE = frozenset(f"1.2.840.10008.5.1.{tail}" for tail in _TAILS.split())
"""Every storage SOP class of PS3.4 B.5 and B.6, retired ones and DICOS, DICONDE included."""

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.5",  # RLE
)
"""What is accepted for every storage SOP class. Deflated is not: it hides its size."""

_UNCOMPRESSED = frozenset(TRANSFER_SYNTAXES[:2])


def served_by(settings: Scp) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Return what a receiver serves.

    Returns
    -------
    tuple
        The abstract syntaxes with the transfer syntaxes each is taken in, and which of them are
        storage SOP classes.
    """
    storage = STORAGE | frozenset(settings.private_sop_classes)
    syntaxes = frozenset(TRANSFER_SYNTAXES)
    served = dict.fromkeys(storage, syntaxes)
    served[VERIFICATION] = served[COMMITMENT] = _UNCOMPRESSED
    return served, storage
