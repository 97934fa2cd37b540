"""The media store: files under the SHA-256 of their bytes, on disk before they are referred to.

A file is written beside its place, forced to disk and then renamed, and only
after that does a transaction mention it. A failure in between leaves a file that
nothing refers to, which is harmless and is used when the same bytes come again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.utils import timezone

__all__ = ["digest", "drop", "is_there", "open_image", "store", "sweep"]

# No upload takes this long; another server may share the folder.
LEFT_BEHIND_S = 24 * 3600


def _place(sha256: str) -> Path:
    return Path(settings.MEDIA_STORE) / sha256[:2] / sha256


def digest(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 of a file that comes in pieces."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()


def store(sha256: str, chunks: Iterable[bytes]) -> None:
    """Keep a file; when this returns, it outlives a power failure."""
    place = _place(sha256)
    try:
        os.utime(place)  # it is wanted again: ``drop`` leaves it alone
    except FileNotFoundError:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = place.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as stream:
                stream.writelines(chunks)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    # Also when the file was there: whoever renamed it may not have come this far yet.
    for folder in (place.parent, place.parent.parent):
        _sync_folder(folder)


def is_there(sha256: str) -> bool:
    """Tell whether a file is kept."""
    return _place(sha256).is_file()


def drop(sha256: str) -> None:
    """Delete a file that nothing refers to, unless somebody has just come with the same bytes."""
    place = _place(sha256)
    oldest = (timezone.now() - timedelta(seconds=LEFT_BEHIND_S)).timestamp()
    with contextlib.suppress(FileNotFoundError):
        if place.stat().st_mtime < oldest:
            place.unlink()


def sweep() -> None:
    """Delete what uploads left behind that a crash or a power failure ended."""
    oldest = (timezone.now() - timedelta(seconds=LEFT_BEHIND_S)).timestamp()
    folder = Path(settings.MEDIA_STORE)
    for part in (*Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir(), *folder.glob("*/.*.part")):
        with contextlib.suppress(FileNotFoundError):
            if part.stat().st_mtime < oldest:
                part.unlink()


def open_image(sha256: str) -> BinaryIO:
    """Open a stored file.

    Raises
    ------
    FileNotFoundError
        No file has this digest.
    """
    return _place(sha256).open("rb")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
