"""Routes: which bundle looks at a study, by its headers."""

from __future__ import annotations

from collections.abc import Sequence

from limen.config import Route
from worker.headers import Header

__all__ = ["choose", "why_none"]


def choose(routes: Sequence[Route], headers: Sequence[Header]) -> Route | None:
    """Return the first route whose modality occurs in the study, or None."""
    here = {h.modality for h in headers}
    return next((route for route in routes if route.modality in here), None)


def why_none(routes: Sequence[Route], headers: Sequence[Header]) -> str:
    """Return in plain words why no route takes a study."""
    found = sorted({h.modality or "unknown" for h in headers})
    if not found:
        return "no instance of this study can be read"
    wanted = sorted({route.modality for route in routes})
    return f"no route takes modality {', '.join(found)} (routes take {', '.join(wanted)})"
