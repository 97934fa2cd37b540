"""The token by which the results server knows this node."""

from __future__ import annotations

from pathlib import Path

from limen.errors import Unreachable

__all__ = ["read"]


def read(path: Path) -> str:
    """Return the token in a file; it is read for each use, so that it can be renewed.

    Raises
    ------
    Unreachable
        The file cannot be read, or holds no token.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise _missing(path) from exc
    if not token.isprintable() or not token:
        raise _missing(path)
    return token


def _missing(path: Path) -> Unreachable:
    return Unreachable(
        f"token file {path} cannot be read; `limen web` makes it at its start "
        "(where that runs on another host, copy the file from there)"
    )
