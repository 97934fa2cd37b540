"""What a frame shows: the part of the body, contrast, spacing, as its attributes say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from worker.dicom import elements
from worker.dicom.characters import Characters
from worker.dicom.groups import FrameGroups

__all__ = ["KEYWORDS", "Code", "anatomy", "contrast", "contrast_given", "spacing"]

KEYWORDS: Final = (
    "AnatomicRegionSequence",
    "PrimaryAnatomicStructureSequence",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "ContrastBolusVolume",
    "ContrastBolusTotalDose",
    "PixelSpacing",
    "NominalScannedPixelSpacing",
    "ImagerPixelSpacing",
)

_SPACINGS: Final = ("PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing")
"""The one in the patient first; at the detector or front of it last (PS3.3 10.7.1.3)."""

_NO_AGENT: Final = re.compile(
    r"^[-.*0 ]*$"
    r"|^(n/?a?|none|nil|no|non|nein|off|false|negative|native?|plain|unenhanced|without|ohne|w/?o"
    r"|not (applicable|administered|given|used|applied))$"
    r"|^(no|non(?![ -]?ionic)|without|w/?o|ohne|kein\w*|sans|sin|senza|sem|zonder)[ -]",
    re.IGNORECASE,
)
"""What senders write into an agent's name when none was given."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8): value, scheme and meaning, empty where absent."""

    value: str
    scheme: str
    meaning: str


def anatomy(groups: FrameGroups) -> tuple[Code, ...]:
    """Return the parts of the body that codes name, of the frame and of the instance.

    From AnatomicRegionSequence and PrimaryAnatomicStructureSequence, there and in
    FrameAnatomySequence (PS3.3 C.7.6.16.2.8, 10.5).
    """
    found = (
        _code(item, groups.characters)
        for place in groups.places("FrameAnatomySequence")
        for keyword in ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence")
        for item in elements.items(place, keyword)
    )
    return tuple(dict.fromkeys(code for code in found if code != Code("", "", "")))


def contrast(groups: FrameGroups) -> tuple[str, ...]:
    """Return the contrast agents as they are named, by text or code."""
    found = []
    for place in groups.places():
        found.append(elements.text(place, "ContrastBolusAgent", groups.characters))
        for item in elements.items(place, "ContrastBolusAgentSequence"):
            code = _code(item, groups.characters)
            found.append(code.meaning or code.value)
    return tuple(dict.fromkeys(agent for agent in found if agent))


def contrast_given(groups: FrameGroups) -> bool | None:
    """Return whether a frame was taken with contrast; None where nothing is said.

    A frame's own word (ContrastBolusAgentAdministered, PS3.3 C.7.6.16.2.12) counts
    first, then a named agent, then an amount. "NONE" and its like are a no.
    """
    usage = groups.macro("ContrastBolusUsageSequence")
    administered = elements.text(usage, "ContrastBolusAgentAdministered").upper()
    if administered in {"YES", "NO"}:
        return administered == "YES"
    agents = contrast(groups)
    if agents:
        return not all(_NO_AGENT.match(agent) for agent in agents)
    amounts = [groups.number(k) for k in ("ContrastBolusVolume", "ContrastBolusTotalDose")]
    known = [amount for amount in amounts if amount is not None]
    return any(amount > 0 for amount in known) if known else None


def spacing(groups: FrameGroups) -> tuple[tuple[float, float] | None, str]:
    """Return the distance of rows and of columns in mm, and the keyword that says so."""
    for keyword in _SPACINGS:
        found = groups.numbers(keyword, 2, "PixelMeasuresSequence")
        if found and min(found) > 0:
            return (found[0], found[1]), keyword
    return None, ""


def _code(item: Dataset, characters: Characters) -> Code:
    """Return the code of an item, whichever of its three attributes holds the value."""
    values = (elements.text(item, k) for k in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    return Code(
        next((value for value in values if value), ""),
        elements.text(item, "CodingSchemeDesignator"),
        elements.text(item, "CodeMeaning", characters),
    )
