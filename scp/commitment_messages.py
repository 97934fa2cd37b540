"""The data sets of storage commitment: what is asked, and what is reported (PS3.4 J.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from limen.errors import Unreadable
from limen.instance import CommitmentReport
from limen.uids import is_uid
from scp.header import IMPLICIT_VR, CutOff, Elements

__all__ = ["Report", "instances_of", "report_of"]

_TRANSACTION, _FAILED, _REFERENCED = 0x00081195, 0x00081198, 0x00081199
_CLASS, _INSTANCE, _REASON = 0x00081150, 0x00081155, 0x00081197
_PROCESSING_FAILURE = 0x0110
_ALL_KEPT, _SOME_FAILED = 1, 2  # event types (PS3.4 J.3.3.1)


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one request.

    Attributes
    ----------
    kept
        Pairs of SOP class and instance.
    failed
        The same with a failure reason.
    """

    transaction_uid: str
    kept: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str, int], ...]

    @property
    def event_type(self) -> int:
        """1: all is kept; 2: something is not."""
        return _SOME_FAILED if self.failed else _ALL_KEPT

    def encode(self, transfer_syntax: str) -> bytes:
        """Return the data set of the N-EVENT-REPORT (PS3.4 Table J.3-2), little endian."""
        implicit = transfer_syntax == IMPLICIT_VR
        out = _element(_TRANSACTION, b"UI", _uid(self.transaction_uid), implicit)
        failed = [
            _pair(c, i, implicit) + _element(_REASON, b"US", struct.pack("<H", r), implicit)
            for c, i, r in self.failed
        ]
        kept = [_pair(c, i, implicit) for c, i in self.kept]
        for tag, items in ((_FAILED, failed), (_REFERENCED, kept)):
            if items:
                value = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in items)
                out += _element(tag, b"SQ", value, implicit)
        return out


def instances_of(
    data_set: bytes | bytearray, transfer_syntax: str
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Read the data set of an N-ACTION (PS3.4 Table J.3-1).

    Returns
    -------
    tuple
        The transaction UID, and pairs of SOP class and instance.

    Raises
    ------
    Unreadable
        It cannot be parsed, or lists nothing.
    """
    elements = Elements(data_set, transfer_syntax == IMPLICIT_VR)
    transaction, found = "", dict[tuple[str, str], None]()
    for tag, start, end in elements:
        if end > len(data_set):
            raise CutOff("the data set is cut off")
        if tag == _TRANSACTION:
            transaction = _text(data_set[start:end])
        elif tag == _REFERENCED:
            for item in elements.items(start, end):
                uids = {
                    inner: _text(data_set[a:b])
                    for inner, a, b in elements.between(*item)
                    if inner in (_CLASS, _INSTANCE)
                }
                found[uids.get(_CLASS, ""), uids.get(_INSTANCE, "")] = None
    if not is_uid(transaction):
        raise Unreadable("(0008,1195) Transaction UID is missing or not a UID")
    if not found or not all(is_uid(c) and is_uid(i) for c, i in found):
        raise Unreadable("(0008,1199) lists no instance, or one without its UIDs")
    return transaction, tuple(found)


def report_of(data_set: bytes | bytearray, transfer_syntax: str) -> CommitmentReport:
    """Read the data set of an N-EVENT-REPORT (PS3.4 Table J.3-2).

    A reason is type 1; without one, it is that of a fault that nobody names.

    Raises
    ------
    Unreadable
        It cannot be parsed, or lists nothing.
    """
    elements = Elements(data_set, transfer_syntax == IMPLICIT_VR)
    transaction = ""
    kept: list[str] = []
    failed: list[tuple[str, int]] = []
    for tag, start, end in elements:
        if end > len(data_set):
            raise CutOff("the data set is cut off")
        if tag == _TRANSACTION:
            transaction = _text(data_set[start:end])
        elif tag in (_REFERENCED, _FAILED):
            for item in elements.items(start, end):
                said = {inner: data_set[a:b] for inner, a, b in elements.between(*item)}
                uid = _text(said.get(_INSTANCE, b""))
                if tag == _REFERENCED:
                    kept.append(uid)
                    continue
                reason = said.get(_REASON, b"")
                number = int.from_bytes(reason, "little") if len(reason) == 2 else 0
                failed.append((uid, number or _PROCESSING_FAILURE))
    if not is_uid(transaction):
        raise Unreadable("(0008,1195) Transaction UID is missing or not a UID")
    if not (kept or failed) or not all(map(is_uid, (*kept, *(uid for uid, _ in failed)))):
        raise Unreadable("the report lists no instance, or one without its UID")
    return CommitmentReport(transaction, tuple(kept), tuple(failed))


def _pair(sop_class: str, uid: str, implicit: bool) -> bytes:
    return b"".join(
        _element(tag, b"UI", _uid(value), implicit)
        for tag, value in ((_CLASS, sop_class), (_INSTANCE, uid))
    )


def _element(tag: int, vr: bytes, value: bytes, implicit: bool) -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if implicit:
        return struct.pack("<HHI", group, element, len(value)) + value
    if vr == b"SQ":
        return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _uid(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" if len(value) % 2 else value


def _text(value: bytes | bytearray) -> str:
    return value.decode("latin-1").strip("\0 ")
