"""Show what DICOM writes, person names, dates and times; and find it again."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import date, time

__all__ = ["PersonName", "fold", "person_name", "searchable", "shown_date", "shown_time"]

# Both kana are found by either: phonetic groups come in one or the other.
_HIRAGANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}


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


def fold(text: str) -> list[str]:
    """Return the words of a text as they are searched.

    Without case, accents, widths, punctuation, and what separates in DICOM.
    """
    plain = unicodedata.normalize("NFKD", text.replace("^", " ").replace("=", " ")).casefold()
    # Once more: lower case may be composed where its capital was not.
    plain = unicodedata.normalize("NFKD", plain).translate(_HIRAGANA)
    words = (
        "".join(c for c in word if unicodedata.category(c)[0] in "LN") for word in plain.split()
    )
    return [word for word in words if word]


def searchable(name: str, *others: str) -> str:
    """Return the text in which ``fold``ed words are looked for.

    Names of people are there with and without their spaces, family first and given first, for each
    of the groups of a PN: scripts of East Asia are written without.
    """
    found = ["".join(fold(other)) for other in others]
    for group in name.split("="):
        words = [word for part in re.split(r"[\W_]+", group) for word in fold(part)]
        family, *given = ("".join(fold(part)) for part in group.split("^"))
        found += [*words, "".join((family, *given)), "".join((*given, family))]
    return " ".join(dict.fromkeys(filter(None, found)))
