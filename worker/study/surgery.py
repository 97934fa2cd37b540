"""Whether people wrote that the skull has been opened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from worker.dicom.headers import Header

__all__ = ["doubts"]

_OPENED: Final = re.compile(
    r"\b(?:\w*[ck]r[aâ]n(?:io|ie|eo|ee)[ck]?tom\w*|\w*[ck]r[aâ]n[ie]oplast\w*|trepan\w*"
    r"|burr ?holes?|bohrl(?:o|oe|ö)ch\w*|ventriculostom\w*|evd|v ?p ?shunt\w*"
    r"|post ?op|post ?operat\w*|nach op)\b",
    re.I,
)
_AHEAD: Final = re.compile(
    r"\b(?:pre ?op\w*|präop\w*|praeop\w*|vor op|planning|planung|navi\w*|stealth\w*|brainlab)\b",
    re.I,
)
"""An operation that is still to come."""

_WORD_BREAKS: Final = str.maketrans("_^-./", "     ")


def doubts(headers: Iterable[Header], *, operated: bool) -> list[str]:
    """Return in words that a head has been operated on, as its descriptions say, or nothing.

    Parameters
    ----------
    headers
        Of the slices that are analysed. What was done is written into the descriptions of study
        and series and the name of the protocol; nothing of it is coded.
    operated
        ``accepts.operated`` of the bundle: it knows such heads.
    """
    if operated:
        return []
    for text in sorted({text for header in headers for text in _texts(header)}):
        found = _OPENED.search(text)
        if found and not _AHEAD.search(text):
            return [f"after surgery, as a description says ({found[0].lower()})"]
    return []


def _texts(header: Header) -> Iterable[str]:
    texts = (header.study_description, header.series_description, header.protocol_name)
    return (" ".join(text.translate(_WORD_BREAKS).split()) for text in texts)
