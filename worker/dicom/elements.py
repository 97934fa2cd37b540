"""Values of data elements as plain Python, however their sender wrote them."""

from __future__ import annotations

import math
import unicodedata
from functools import cache, lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from limen.errors import Unreadable
from worker.dicom.characters import Characters

__all__ = [
    "characters_of",
    "fault",
    "integer",
    "item",
    "items",
    "number",
    "numbers",
    "text",
    "whole",
    "words",
]

MAX_TEXT: Final = 512
"""Characters kept of one text; PS3.5 6.2 allows 64 for each part of a name."""

_UNPRINTABLE: Final = {"Cc", "Cs"}
_TEXT_VRS: Final = {
    *("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
}
_SETS: Final = Tag("SpecificCharacterSet")
_SEVERAL: Final = (MultiValue, Sequence, list, tuple)


def text(dataset: Dataset | None, keyword: str, characters: Characters | None = None) -> str:
    """Return an element as Unicode without control characters; empty where absent.

    What its character sets cannot say becomes U+FFFD, never an error. Several values
    have a backslash between them; empty components at the end of a name are left out.

    Parameters
    ----------
    characters
        Of the instance, for an item of a sequence; its own, where absent.
    """
    vr, raw = _undecoded(dataset, keyword)
    if raw is None or dataset is None:
        joined = "\\".join(str(part) for part in _values(dataset, keyword))
    else:
        own = _SETS in dataset.keys()  # noqa: SIM118
        sets = characters_of(dataset) if own or characters is None else characters
        joined = sets.decode(raw, is_name=vr == "PN")
    if vr == "PN":
        joined = "=".join(group.strip(" \0").rstrip("^") for group in joined.split("="))
        joined = joined.rstrip("=")
    printable = (c for c in joined if unicodedata.category(c) not in _UNPRINTABLE)
    parts = "".join(printable)[:MAX_TEXT].split("\\")
    return "\\".join(part.strip() for part in parts)


def characters_of(dataset: Dataset) -> Characters:
    """Return how a data set writes its texts."""
    return _characters(tuple(str(part) for part in _values(dataset, "SpecificCharacterSet")))


def words(dataset: Dataset | None, keyword: str) -> tuple[str, ...]:
    """Return the values of a text, upper case."""
    return tuple(word.strip().upper() for word in text(dataset, keyword).split("\\") if word)


def item(dataset: Dataset | None, keyword: str, index: int = 0) -> Dataset | None:
    """Return one item of a sequence, from 0; None where there is none."""
    try:
        found = _value(dataset, keyword)[index]
    except RecursionError:
        raise
    except Exception:  # absent, no sequence, shorter, or broken
        return None
    return found if isinstance(found, Dataset) else None


def items(dataset: Dataset | None, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none where it is absent or no sequence."""
    return [found for found in _values(dataset, keyword) if isinstance(found, Dataset)]


def numbers(dataset: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers; None where absent, and where ``fault`` says why."""
    if dataset is None or fault(dataset, keyword, count):
        return None
    return tuple(float(v) for v in _values(dataset, keyword)) or None


def number(dataset: Dataset | None, keyword: str) -> float | None:
    """Return one finite number, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: Dataset | None, keyword: str) -> int | None:
    """Return a whole number, or None where absent or not whole."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found.is_integer() else None


def whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return a whole number that must be one.

    Raises
    ------
    Unreadable
        Absent without a default, or not a whole number; the reason names the keyword.
    """
    wrong = fault(dataset, keyword, 1)
    if wrong:
        raise Unreadable(wrong)
    found = number(dataset, keyword)
    if found is None and default is None:
        raise Unreadable(f"its {keyword} is missing")
    if found is None:
        return default or 0
    if not found.is_integer():
        raise Unreadable(f"its {keyword} is not a whole number")
    return int(found)


def fault(dataset: Dataset | None, keyword: str, count: int = 1) -> str:
    """Return why an element that is there is not ``count`` finite numbers; empty if it is.

    The text names the element and the kind of fault, never a value.
    """
    try:
        values = _parts(_value(dataset, keyword))
        found = [float(v) for v in values]
    except RecursionError:
        raise
    except Exception:  # pydicom converts on access and may raise anything on bad bytes
        if "," in _unconverted(dataset, keyword):
            return f"its {keyword} holds a comma where numbers have a point (PS3.5 6.2, DS)"
        return f"its {keyword} is not a number"
    if values and len(values) != count:
        return f"its {keyword} holds {len(values)} values, not {count}"
    if not all(math.isfinite(n) for n in found):
        return f"its {keyword} is not finite"
    return ""


@lru_cache(maxsize=64)
def _characters(terms: tuple[str, ...]) -> Characters:
    return Characters.of(terms)


def _undecoded(dataset: Dataset | None, keyword: str) -> tuple[str, bytes | None]:
    """Return the VR and the bytes of a text that pydicom has not decoded; else no bytes."""
    tag = _tag(keyword)
    if dataset is None or tag not in dataset.keys():  # noqa: SIM118
        return "", None
    element = dataset.get_item(tag)
    vr = dictionary_VR(tag) if element.VR in {None, "UN"} else str(element.VR)
    is_text = isinstance(element.value, bytes) and vr in _TEXT_VRS
    return vr, element.value if is_text else None


def _values(dataset: Dataset | None, keyword: str) -> list[Any]:
    try:
        return _parts(_value(dataset, keyword))
    except RecursionError:
        raise
    except Exception:  # as in ``fault``
        return []


def _value(dataset: Dataset | None, keyword: str) -> Any:
    """Return what pydicom makes of an element, None where absent; it may raise anything."""
    tag = _tag(keyword)
    # Most elements asked for are absent; the keys are a plain dictionary's, ``get`` is slow.
    return dataset[tag].value if dataset is not None and tag in dataset.keys() else None  # noqa: SIM118


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _parts(value: Any) -> list[Any]:
    """Return the values of an element; an empty one has none (PS3.5 7.4)."""
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return []
    return list(value) if isinstance(value, _SEVERAL) else [value]


def _unconverted(dataset: Dataset | None, keyword: str) -> str:
    """Return as text what pydicom made of an element that is no number."""
    element = dataset.get_item(_tag(keyword)) if dataset is not None else None
    value = "" if element is None else element.value
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return "\\".join(str(part) for part in _parts(value))
