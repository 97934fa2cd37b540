"""Who may have signed the certificate of a server that results go to."""

from __future__ import annotations

import ssl
from pathlib import Path

from limen.errors import Unreachable

__all__ = ["authorities"]


def authorities(ca_file: Path | None, named: str) -> str | bool:
    """Return what ``requests`` takes for ``verify``; without a file it is whom this machine trusts.

    Parameters
    ----------
    named
        The setting, as people know it: the error begins with it.

    Raises
    ------
    Unreachable
        The file cannot be read, or holds no certificate.
    """
    if ca_file is None:
        return True
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise Unreachable(f"{named} {ca_file} cannot be read, or has none in it") from exc
    return str(ca_file)
