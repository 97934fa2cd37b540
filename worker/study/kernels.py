"""Reconstruction kernels: which of them are for bone and lung, not for the brain."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_sharp", "is_sharp_kernel"]

# Names of sharp kernels: GE words, Siemens numbers from 55 (H60s, Hr68h), Canon FC30-39, FC50-59,
# FC80-89, Philips letters. An unknown name counts as soft tissue.
_SHARP_WORDS: Final = re.compile(r"\b(bone|edge|lung|ultra|sharp|detail)|^(d|e|l|y[a-e])$", re.I)
_SIEMENS: Final = re.compile(r"^[bhujtq][a-z]?\s?(\d\d)[a-z]?\b", re.I)
_CANON: Final = re.compile(r"^fc\s?([358])\d\b", re.I)
SIEMENS_SHARP: Final = 55
_BONE_TEXT: Final = re.compile(
    r"\b(bones?|knochen\w*|hueso\w*|oss[oe]\w*|os|bot|botten|skelett?)\b", re.I
)


def is_sharp_kernel(kernel: str) -> bool:
    """Return True for the name of a bone or lung reconstruction kernel."""
    name = kernel.partition("\\")[0].strip()
    siemens = _SIEMENS.match(name)
    if siemens:
        return int(siemens[1]) >= SIEMENS_SHARP
    return bool(_CANON.match(name) or _SHARP_WORDS.search(name))


def is_sharp(kernel: str, description: str) -> bool:
    """Return True for a bone or lung series, by its kernel or by its description."""
    return is_sharp_kernel(kernel) or bool(_BONE_TEXT.search(description))
