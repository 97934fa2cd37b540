"""Tell a PNG, JPEG or JPEG-LS file from anything else, by its structure, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["NotAnImage", "Raster", "inspect"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND"
MAX_CHUNKS = 100_000
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
# ITU-T T.81, table B.1: start of frame, all coding processes but DHT, JPG and DAC.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# ITU-T T.87, C.1.1; its frame header has the same form.
JPEG_LS_FRAME = 0xF7


class NotAnImage(ValueError):
    """The file is neither a whole PNG nor a whole JPEG or JPEG-LS."""


@dataclass(frozen=True, slots=True)
class Raster:
    """What the header of an image file says."""

    media_type: str
    columns: int
    rows: int


def inspect(stream: BinaryIO, size_bytes: int, max_pixels: int) -> Raster:
    """Read the structure of an image file.

    Raises
    ------
    NotAnImage
        The file is something else, or cut short, or larger than ``max_pixels``.
    """
    stream.seek(0)
    start = stream.read(8)
    if start == PNG_SIGNATURE:
        raster = _png(stream, size_bytes)
    elif start.startswith(JPEG_START):
        raster = _jpeg(stream, size_bytes)
    else:
        raise NotAnImage("is neither PNG nor JPEG nor JPEG-LS")
    if not 0 < raster.columns * raster.rows <= max_pixels:
        raise NotAnImage(f"has not between 1 and {max_pixels} pixels")
    return raster


def _png(stream: BinaryIO, size_bytes: int) -> Raster:
    """Walk the chunks from IHDR to IEND (PNG specification, 5.3)."""
    head = stream.read(25)
    if len(head) < 25 or head[:8] != b"\x00\x00\x00\rIHDR":
        raise NotAnImage("is a PNG without a header")
    columns, rows = int.from_bytes(head[8:12], "big"), int.from_bytes(head[12:16], "big")
    at = 33
    for _ in range(MAX_CHUNKS):
        stream.seek(at)
        chunk = stream.read(8)
        at += 12 + int.from_bytes(chunk[:4], "big")
        if len(chunk) < 8 or at > size_bytes:
            raise NotAnImage("is a PNG that was cut short")
        if chunk[4:] == PNG_END:
            return Raster("image/png", columns, rows)
    raise NotAnImage("is a PNG of too many chunks")


def _jpeg(stream: BinaryIO, size_bytes: int) -> Raster:
    """Walk the marker segments to the frame header (ITU-T T.81, B.1.1)."""
    stream.seek(max(0, size_bytes - 2))
    if stream.read(2) != JPEG_END:
        raise NotAnImage("is a JPEG that was cut short")
    at = 2
    for _ in range(MAX_CHUNKS):
        stream.seek(at)
        head = stream.read(9)
        if len(head) < 9 or head[0] != 0xFF:
            break
        if head[1] in JPEG_FRAMES or head[1] == JPEG_LS_FRAME:
            rows, columns = int.from_bytes(head[5:7], "big"), int.from_bytes(head[7:9], "big")
            kind = "image/jls" if head[1] == JPEG_LS_FRAME else "image/jpeg"
            return Raster(kind, columns, rows)
        at += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:4], "big")
    raise NotAnImage("is a JPEG without a frame")
