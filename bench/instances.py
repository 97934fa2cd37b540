"""Instances to send: as large as what a modality makes, every one with UIDs of its own."""

from __future__ import annotations

import itertools
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.support.wire import EXPLICIT

CT = "1.2.840.10008.5.1.4.1.1.2"
CR = "1.2.840.10008.5.1.4.1.1.1"
_serial = itertools.count(random.SystemRandom().randrange(10**12))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of instance: 16 bit, one frame, rows x columns."""

    name: str
    sop_class: str
    rows: int
    columns: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its pixels."""
        return self.rows * self.columns * 2


KINDS = {
    "10 KB": Kind("10 KB", CT, 72, 72),
    "CT": Kind("CT", CT, 512, 512),
    "CR": Kind("CR", CR, 2048, 2048),
}


def new_uid() -> str:
    """Return a UID that was never used before; all are of one length."""
    return f"1.2.826.0.1.3680043.10.{10**16 + next(_serial)}"


def data_set(kind: Kind, study: str, sop: str, pixels: bytes) -> bytes:
    """Return an encoded data set, explicit VR little endian."""
    elements = [
        (0x0008, 0x0016, b"UI", kind.sop_class.encode()),
        (0x0008, 0x0018, b"UI", sop.encode()),
        (0x0008, 0x0020, b"DA", b"20260102"),
        (0x0008, 0x0060, b"CS", b"CT" if kind.sop_class == CT else b"CR"),
        (0x0010, 0x0010, b"PN", b"Bench^Mark"),
        (0x0010, 0x0020, b"LO", b"BENCH"),
        (0x0020, 0x000D, b"UI", study.encode()),
        (0x0020, 0x000E, b"UI", f"{study}.1".encode()),
        (0x0020, 0x0013, b"IS", b"1"),
        (0x0028, 0x0002, b"US", struct.pack("<H", 1)),
        (0x0028, 0x0004, b"CS", b"MONOCHROME2"),
        (0x0028, 0x0010, b"US", struct.pack("<H", kind.rows)),
        (0x0028, 0x0011, b"US", struct.pack("<H", kind.columns)),
        (0x0028, 0x0100, b"US", struct.pack("<H", 16)),
        (0x0028, 0x0101, b"US", struct.pack("<H", 16)),
        (0x0028, 0x0102, b"US", struct.pack("<H", 15)),
        (0x0028, 0x0103, b"US", struct.pack("<H", 0)),
    ]
    head = b"".join(_short(*e) for e in elements)
    return head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels


def write(kind: Kind, count: int, folder: Path) -> list[Path]:
    """Write ``count`` new instances of one study as DICOM files."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = random.Random(kind.name).randbytes(kind.size_bytes)
    study, paths = new_uid(), []
    for number in range(count):
        sop = new_uid()
        path = folder / f"{number:05d}.dcm"
        path.write_bytes(_file_meta(kind, sop) + data_set(kind, study, sop, pixels))
        paths.append(path)
    return paths


def _file_meta(kind: Kind, sop: str) -> bytes:
    body = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    for number, uid in ((2, kind.sop_class), (3, sop), (0x10, EXPLICIT), (0x12, "1.2.3.4")):
        body += _short(2, number, b"UI", uid.encode())
    return bytes(128) + b"DICM" + _short(2, 0, b"UL", struct.pack("<I", len(body))) + body


def _short(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    pad = (b"\0" if vr == b"UI" else b" ") if len(value) % 2 else b""
    return struct.pack("<HH2sH", group, number, vr, len(value) + len(pad)) + value + pad
