"""Small files that hold a secret: readable by their owner alone, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["read_or_create", "write"]


def write(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a secret with mode 0600.

    Raises
    ------
    FileExistsError
        The file exists and ``replace`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            part.replace(path)
        else:
            os.link(part, path)  # fails where another process was first
    finally:
        part.unlink(missing_ok=True)


def read_or_create(path: Path) -> str:
    """Return the secret in ``path``; make one when there is none.

    Two processes that start together agree on one secret.
    """
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            write(path, secrets.token_urlsafe(64), replace=False)
    text = path.read_text("ascii").strip()
    if len(text) < 32:
        raise ValueError(f"{path} holds no usable secret; delete it and a new one is made")
    return text
