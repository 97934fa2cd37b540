"""Windows that a bundle suggests to those who look at its results, on the keys 1 to 5."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from limen.result import Window

__all__ = ["MOST", "suggested"]

MOST: Final = 5

_KNOWN: Final = (
    Window("brain", 40, 80),
    Window("subdural", 80, 200),
    Window("stroke", 40, 40),
    Window("bone", 600, 2800),
    Window("soft tissue", 40, 380),
    Window("lung", -600, 1500),
)
"""Usual windows by their names, those of a head in the order in which they are offered."""

_OF_HEAD: Final = ("bone", "brain", "subdural", "stroke", "soft tissue")
_OF_CT: Final = ("bone",)
"""What is added as long as there is room: bone first, which the input of hardly a model shows."""


def suggested(
    windows: Iterable[tuple[float, float]], modalities: Iterable[str], *, is_head: bool
) -> list[Window]:
    """Return the windows of a bundle that names none for people; none where HU mean nothing.

    Those of its input, by their usual names, and what readers know besides.

    Parameters
    ----------
    windows
        Centre and width in HU of the channels of its input.
    modalities
        Those that it accepts.
    """
    if set(modalities) != {"CT"}:
        return []
    own = list(dict.fromkeys(_named(centre, width) for centre, width in windows))
    usual = [k for name in (_OF_HEAD if is_head else _OF_CT) for k in _KNOWN if k.name == name]
    found = list(dict.fromkeys([*own[: MOST - 1], *usual]))[:MOST]
    return sorted(found, key=_place) if is_head else found


def _named(centre: float, width: float) -> Window:
    name = next((k.name for k in _KNOWN if (k.centre, k.width) == (centre, width)), None)
    return Window(name or f"{centre:g}/{width:g}", centre, width)


def _place(window: Window) -> int:
    return _KNOWN.index(window) if window in _KNOWN else len(_KNOWN)
