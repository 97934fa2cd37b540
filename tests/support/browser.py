"""The browser of this machine: Chromium, drawing by the processor, quiet on the wire."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ARGUMENTS", "executable"]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_PLACES = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


def executable() -> str | None:
    """Return the path of Chromium, or None where there is none."""
    return next((path for path in _PLACES if Path(path).exists()), None)
