"""The colour theme of the pages: dark for a reading room, light by choice."""

from __future__ import annotations

from django.http import HttpRequest

__all__ = ["COOKIE", "theme"]

COOKIE = "limen_theme"


def theme(request: HttpRequest) -> dict[str, str]:
    """Give templates the chosen theme, so that a page never flashes in the other one."""
    return {"theme": "light" if request.COOKIES.get(COOKIE) == "light" else "dark"}
