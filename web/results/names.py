"""Show what DICOM writes: person names, dates and times."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date, time

__all__ = ["PersonName", "fold", "person_name", "shown_date", "shown_time"]


@dataclass(frozen=True, slots=True)
class PersonName:
    """A name as people write it.

    Attributes
    ----------
    name
        The alphabetic representation, or the first one there is.
    ideographic, phonetic
        The other representations, or empty.
    """

    name: str
    ideographic: str = ""
    phonetic: str = ""


def person_name(value: str) -> PersonName:
    """Read a PN value (PS3.5 6.2.1): three groups by ``=``, five components by ``^``."""
    alphabetic, ideographic, phonetic, *_ = [*_clean(value).split("="), "", "", ""]
    groups = [_alphabetic(alphabetic), _plain(ideographic), _plain(phonetic)]
    if not groups[0]:
        groups = [*[g for g in groups if g], "", "", ""][:3]
    return PersonName(*groups)


def _clean(value: str) -> str:
    """Leave out control characters, and those that turn the direction of what follows."""
    return "".join(c for c in value if unicodedata.category(c) not in {"Cc", "Cf", "Cs"})


def _components(group: str) -> list[str]:
    return [*(" ".join(part.split()) for part in group.split("^")), *[""] * 5][:5]


def _alphabetic(group: str) -> str:
    family, given, middle, prefix, suffix = _components(group)
    before = " ".join(filter(None, (prefix, given, middle)))
    return ", ".join(filter(None, (family, before, suffix)))


def _plain(group: str) -> str:
    """Ideographic and phonetic groups are written family first, without a comma."""
    family, given, middle, prefix, suffix = _components(group)
    return " ".join(filter(None, (prefix, family, given, middle, suffix)))


def shown_date(value: str) -> str:
    """Show a DA value, ``YYYYMMDD``, as ``YYYY-MM-DD``; anything else as it is."""
    try:
        return date.fromisoformat(value.replace(".", "")).isoformat()
    except ValueError:
        return value


def shown_time(value: str) -> str:
    """Show a TM value, ``HHMMSS.FFFFFF`` or shorter, as ``HH:MM``; anything else as it is."""
    try:
        return time.fromisoformat(value.replace(":", "")[:6]).strftime("%H:%M")
    except ValueError:
        return value


def fold(text: str) -> str:
    """Return text as it is searched: no case, no accents, no separators of DICOM."""
    plain = unicodedata.normalize("NFKD", text.replace("^", " ").replace("=", " "))
    kept = "".join(c for c in plain if unicodedata.category(c) not in {"Mn", "Cc", "Cs"})
    return " ".join(kept.casefold().split())
