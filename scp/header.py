"""Reading the beginning of an encoded data set: without recursion, without copying, in linear time.

Only what places an instance is read. Sequences are stepped over with a stack of our own, so that
500 levels cost no more than 500 elements; how many elements may come before the UIDs is bounded.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from limen.errors import Unreadable
from limen.implementation import MANUFACTURER, RESULT_SOP_CLASSES
from limen.uids import is_uid

__all__ = ["IMPLICIT_VR", "CutOff", "Elements", "Identity"]

IMPLICIT_VR = "1.2.840.10008.1.2"

_ACCESSION, _MANUFACTURER = 0x00080050, 0x00080070
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_WANTED = (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES)
_ACCESSION_BYTES = 64  # 16 characters (PS3.5 Table 6.2-1, SH) in any character set
_MANUFACTURER_BYTES = 64
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_ELEMENT_LIMIT = 100_000  # 20,000 references of five; read in a tenth of a second
_IMPLICIT = struct.Struct("<HHI")
_EXPLICIT = struct.Struct("<HH2sH")
_LENGTH = struct.Struct("<I")
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)  # PS3.5 Table 7.1-1

Bytes = bytes | bytearray | memoryview | mmap.mmap


class CutOff(Unreadable):
    """The bytes end within an element."""


class Elements:
    """The elements of an encoded data set, one level of it (PS3.5 7).

    Parameters
    ----------
    data
        The bytes; may be the beginning only.
    implicit_vr
        Implicit VR little endian, else explicit. An explicit element without a VR is read as
        implicit, as careless devices write them.
    """

    def __init__(self, data: Bytes, implicit_vr: bool) -> None:
        self._data = data
        self._implicit_vr = implicit_vr
        self._left = _ELEMENT_LIMIT

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield (tag, start, end) of every value; (tag, ...) of a sequence spans its items."""
        return self.between(0, len(self._data))

    def between(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the elements of a part of the bytes, for instance of one item.

        Raises
        ------
        CutOff
            The bytes end within an element.
        Unreadable
            More elements than any header has.
        """
        while at < end:
            tag, start, length, implicit = self._head(at, self._implicit_vr)
            if tag in (_ITEM_END, _SEQUENCE_END):
                return
            if length == _UNDEFINED:
                close, at = self._close(start, implicit)
                yield tag, start, close
            else:
                at = start + length
                yield tag, start, at

    def items(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the items of a sequence's value (PS3.5 7.5)."""
        at = start
        while at < end:
            tag, begin, length, _ = self._head(at, True)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise Unreadable("a sequence holds something that is no item")
            if length == _UNDEFINED:
                close, at = self._close(begin, self._implicit_vr)
                yield begin, close
            else:
                at = begin + length
                yield begin, at

    def _head(self, at: int, implicit: bool) -> tuple[int, int, int, bool]:
        """Return tag, start of the value, its length, and whether its items are implicit VR."""
        self._left -= 1
        if self._left < 0:
            raise Unreadable("the header has too many elements")
        try:
            if not implicit:
                group, element, vr, length = _EXPLICIT.unpack_from(self._data, at)
                tag = group << 16 | element
                if group != 0xFFFE and vr.isalpha() and vr.isupper():
                    if vr not in _LONG_VRS:
                        return tag, at + 8, length, False
                    (length,) = _LENGTH.unpack_from(self._data, at + 8)
                    # PS3.5 6.2.2: UN of undefined length holds implicit VR.
                    return tag, at + 12, length, vr == b"UN"
            group, element, length = _IMPLICIT.unpack_from(self._data, at)
        except struct.error:
            raise CutOff("the data set is cut off") from None
        return group << 16 | element, at + 8, length, implicit

    def _close(self, at: int, implicit: bool) -> tuple[int, int]:
        """Return where an open sequence or item ends, and where what follows it begins."""
        open_levels = [implicit]
        while True:
            tag, start, length, inner = self._head(at, open_levels[-1])
            if tag in (_ITEM_END, _SEQUENCE_END):
                open_levels.pop()
                if not open_levels:
                    return at, start
                at = start
            elif length == _UNDEFINED:
                open_levels.append(inner)
                at = start
            else:
                at = start + length


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs that place an instance (PS3.3 C.7.2.1, C.7.3.1, C.12.1), and what people look for.

    Attributes
    ----------
    accession
        Accession Number (0008,0050), empty where there is none that can be one.
    manufacturer
        Manufacturer (0008,0070), where it is short and ASCII: enough to know what Limen made.
    """

    sop_class_uid: str
    sop_uid: str
    study_uid: str
    series_uid: str
    accession: str = ""
    manufacturer: str = ""

    @property
    def is_result(self) -> bool:
        """Whether Limen made it, this node or another."""
        return self.manufacturer == MANUFACTURER and self.sop_class_uid in RESULT_SOP_CLASSES

    @classmethod
    def of(cls, data_set: Bytes, transfer_syntax: str) -> Identity:
        """Read the UIDs from the beginning of an encoded data set.

        Raises
        ------
        CutOff
            The bytes end before (0020,000E): more of them may help.
        Unreadable
            It cannot be parsed up to there, or a UID is missing or malformed.
        """
        found: dict[int, str] = {}
        accession = manufacturer = ""
        for tag, start, end in Elements(data_set, transfer_syntax == IMPLICIT_VR):
            if tag in _WANTED:
                if tag in found:
                    raise Unreadable(f"{_name(tag)} is there twice")
                found[tag] = _uid(data_set, tag, start, end)
            elif tag == _ACCESSION and end - start <= _ACCESSION_BYTES:
                accession = _text(data_set, start, end)
            elif tag == _MANUFACTURER and end - start <= _MANUFACTURER_BYTES:
                manufacturer = _text(data_set, start, end)
            if tag >= _SERIES:
                break
        else:
            if _SERIES not in found:
                raise CutOff(f"{_name(_missing(found))} is missing")
        if len(found) < len(_WANTED):
            raise Unreadable(f"{_name(_missing(found))} is missing")
        sop_class_uid, sop_uid, study_uid, series_uid = (found[tag] for tag in _WANTED)
        return cls(sop_class_uid, sop_uid, study_uid, series_uid, accession, manufacturer)


def _missing(found: dict[int, str]) -> int:
    return next(tag for tag in _WANTED if tag not in found)


def _uid(data: Bytes, tag: int, start: int, end: int) -> str:
    if end - start > 66:
        raise Unreadable(f"{_name(tag)} is not a UID")
    if end > len(data):
        raise CutOff(f"{_name(tag)} is cut off")
    value = bytes(data[start:end]).strip(b"\0 ").decode("latin-1")
    if not is_uid(value):
        raise Unreadable(f"{_name(tag)} is not a UID")
    return value


def _text(data: Bytes, start: int, end: int) -> str:
    """Return a value of printable ASCII, or nothing: what is not would be looked for in vain."""
    value = bytes(data[start:end]).strip(b"\0 ").decode("latin-1")
    return value if value.isascii() and value.isprintable() else ""


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
