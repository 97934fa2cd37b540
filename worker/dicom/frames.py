"""The bytes of one frame in a file, encoded or not (PS3.5 8.2, Annex A.4).

Only the frame that is asked for is read. Offset tables are believed only where
fragments begin at their offsets: senders get them wrong, and a single frame needs none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from limen.errors import Unreadable
from worker.dicom.datasets import PixelElement
from worker.dicom.layout import Layout

__all__ = ["encoded", "native"]

_ITEM: Final = 0xFFFEE000
_DELIMITER: Final = 0xFFFEE0DD
_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""Of a JPEG and of a JPEG 2000 codestream."""


class _Fragment(NamedTuple):
    """One item of encapsulated pixel data: where its head and its value are in the file."""

    head: int
    offset: int
    length: int


def native(path: Path, pixels: PixelElement, layout: Layout, frame: int) -> bytes:
    """Return a frame that is not encoded, from 1.

    Raises
    ------
    Unreadable
        The value ends before this frame does, holds more frames than NumberOfFrames says
        (they would go unseen), or is encapsulated.
    """
    if pixels.length is None:
        raise Unreadable("its pixel data are encapsulated, but its transfer syntax is not")
    if pixels.length >= (layout.frames + 1) * layout.frame_bytes:
        raise Unreadable(
            "its pixel data are longer than its Rows, Columns and NumberOfFrames announce"
        )
    held = min(pixels.length, path.stat().st_size - pixels.offset)
    if held < frame * layout.frame_bytes:
        raise Unreadable("its pixel data are shorter than the pixels that it announces")
    with path.open("rb") as file:
        file.seek(pixels.offset + (frame - 1) * layout.frame_bytes)
        return file.read(layout.frame_bytes)


def encoded(
    path: Path, pixels: PixelElement, frames: int, frame: int, extended: Sequence[int]
) -> bytes:
    """Return the codestream of one frame, from 1.

    Parameters
    ----------
    extended
        Offsets of ExtendedOffsetTable, empty where there is none.

    Raises
    ------
    Unreadable
        Not encapsulated; fragments that cannot be told apart into frames, or that are more
        frames than NumberOfFrames says; a frame that is cut off, as the last one may be
        where the delimiter is missing.
    """
    if pixels.length is not None:
        raise Unreadable("its pixel data are not encapsulated, but its transfer syntax is")
    with path.open("rb") as file:
        found = _Fragments.of(file, pixels.offset, path.stat().st_size)
        firsts = _firsts(file, found, frames, extended)
        if frame > len(firsts):
            raise Unreadable(found.fault)
        begin, end = firsts[frame - 1], [*firsts, len(found.fragments)][frame]
        if found.fault and end == len(found.fragments):
            raise Unreadable(found.fault)
        return b"".join(_value(file, fragment) for fragment in found.fragments[begin:end])


class _Fragments(NamedTuple):
    """Encapsulated pixel data: the Basic Offset Table, the fragments, how they end."""

    table: list[int]
    fragments: list[_Fragment]
    fault: str
    """Why the last frame is not to be trusted; empty where the delimiter is there."""

    @classmethod
    def of(cls, file: BinaryIO, offset: int, size_bytes: int) -> Self:
        """Read the heads of the items from ``offset`` on."""
        found: list[_Fragment] = []
        fault = ""
        while not fault:
            file.seek(offset)
            group, element, length = struct.unpack("<HHL", file.read(8).ljust(8, b"\0"))
            tag = group << 16 | element
            if tag == _DELIMITER:
                break
            if tag != _ITEM:
                fault = (
                    "its pixel data end without the sequence delimiter (PS3.5 A.4): "
                    "they may be cut off"
                )
                break
            if offset + 8 + length > size_bytes:
                fault = "its pixel data are cut off inside a fragment"
            found.append(_Fragment(offset, offset + 8, length))
            offset += 8 + length
        if len(found) == 1 and found[0].length:  # the table was left out, against PS3.5 A.4
            return cls([], found, fault)
        fragments = [fragment for fragment in found[1:] if fragment.length]
        if not fragments:
            raise Unreadable(fault or "its pixel data hold no fragment")
        raw = _value(file, found[0])
        table = struct.unpack(f"<{len(raw) // 4}L", raw[: len(raw) // 4 * 4])
        return cls(list(table), fragments, fault)


def _firsts(file: BinaryIO, found: _Fragments, frames: int, extended: Sequence[int]) -> list[int]:
    """Return which fragments begin the frames; of cut off pixel data, as far as they go."""
    if len(found.fragments) == frames:
        return list(range(frames))
    for table in (extended, found.table):
        firsts = _by_table(table, found.fragments)
        if frames > 1 and (len(firsts) == frames or (found.fault and firsts)):
            return firsts[:frames]
    firsts = [n for n, fragment in enumerate(found.fragments) if _begins(file, fragment)]
    if len(firsts) > frames:
        raise Unreadable(
            f"its pixel data hold {len(firsts)} frames, but its NumberOfFrames says {frames}"
        )
    if frames == 1:
        return [0]
    if firsts[:1] != [0] or (len(firsts) != frames and not found.fault):
        raise Unreadable(
            f"its {len(found.fragments)} fragments cannot be told apart into {frames} frames: "
            "its offset tables are missing or wrong"
        )
    return firsts


def _by_table(table: Sequence[int], fragments: list[_Fragment]) -> list[int]:
    """Return which fragments begin at the offsets of a table, until one does not."""
    numbers = {found.head - fragments[0].head: n for n, found in enumerate(fragments)}
    firsts: list[int] = []
    for offset in table:
        number = numbers.get(offset, -1)
        if number <= (firsts[-1] if firsts else -1) or (not firsts and number):
            break
        firsts.append(number)
    return firsts


def _begins(file: BinaryIO, fragment: _Fragment) -> bool:
    file.seek(fragment.offset)
    return file.read(4).startswith(_STARTS)


def _value(file: BinaryIO, fragment: _Fragment) -> bytes:
    file.seek(fragment.offset)
    return file.read(fragment.length)
