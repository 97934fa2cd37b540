"""Whether a frame was taken with contrast: what its attributes say, and what people wrote."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from worker.dicom.headers import Frame, Header

__all__ = ["Contrast", "of"]

_AGENT: Final = r"(?:contrast\w*|contraste|kontrast\w*|k\.?m\.?|inj\w*|iv|i\.v\.|c)"
_NATIVE: Final = re.compile(
    r"\b(?:without|w[ /]?o|wo|no|non|ohne|kein\w*|sans|senza|sin|sem|s/|zonder|utan|uten|uden|bez)"
    rf"[ _/.-]*(?:iv[ _-]*)?{_AGENT}(?![a-z])"
    r"|\b(?:ncct|nect|nc|nativ\w*|plain|unenhanced|non[ _-]?enhanced|blanco|basale|simple)\b"
    r"|(?<![a-z0-9])c ?-(?![a-z0-9])|(?<![a-z0-9])-c(?![a-z0-9])",
    re.I,
)
_WITH: Final = re.compile(
    r"\b(?:cta|ctv|ctp|angio\w*|art[eé]r\w*|ven(?:ous|[oöó]s\w*|eux|osa|oso)|portal\w*|perf\w*|"
    r"contrast\w*|kontrast\w*|enhanced|cect|ce|km|kmt|inj|inject\w*|iodin\w*|bolus\w*|"
    r"iomeron\w*|omnipaque|ultravist|visipaque|xenetix|imeron)\b"
    r"|\bpost\b(?![ _-]*(?:op|surg|trauma|fossa|treat|thromb|lys|tpa|evd|drain|mortem|coil|clip))"
    r"|(?<![a-z0-9])c ?\+|\+ ?(?:c|km|iv)(?![a-z0-9])",
    re.I,
)
_BOTH: Final = re.compile(
    r"\bw ?/ ?wo\b|\bwith (?:and|or) without\b|\bmit (?:und|u\.?) ohne\b|\bavec et sans\b"
    r"|\bcon [ye] (?:sin|senza)\b",
    re.I,
)
_WORD_BREAKS: Final = str.maketrans("_^", "  ")


class Contrast(Enum):
    """What is known of contrast."""

    NONE = "no contrast is told of"
    GIVEN = "contrast enhanced"
    CONTRADICTED = "an agent is named, while the description says without contrast"


def of(header: Header, frame: Frame) -> Contrast:
    """Return whether a frame was taken with contrast.

    The agent counts (ContrastBolusAgent and its sequence, PS3.3 C.7.6.4), and so does the
    description of the series or the name of its protocol. The description of the study does
    not: it names all that was done.
    """
    said = _text_says(header.series_description)
    if said is None:
        said = _text_says(header.protocol_name)
    if frame.contrast_given:
        return Contrast.CONTRADICTED if said is False else Contrast.GIVEN
    return Contrast.GIVEN if said else Contrast.NONE


def _text_says(text: str) -> bool | None:
    """Return what a text says of contrast; None where it says nothing."""
    plain = text.translate(_WORD_BREAKS)
    if _BOTH.search(plain):
        return True
    rest, native = _NATIVE.subn(" ", plain)
    if _WITH.search(rest):
        return True
    return False if native else None
