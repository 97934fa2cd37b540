"""The frame that is asked for is found, whatever the offset tables say, or refused truly."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from limen.errors import Unreadable
from tests.support.synthetic import encapsulated, enhanced, head_hu, instance, save
from worker.dicom import headers, hounsfield

JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
ITEM = b"\xfe\xff\x00\xe0"
END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (64, 64)).astype(np.uint16)


def codestream(seed: int) -> bytes:
    data = bytes(imagecodecs.jpegls_encode(values(seed)))
    return data + b"\0" * (len(data) % 2)


def item(value: bytes) -> bytes:
    return ITEM + struct.pack("<L", len(value)) + value


def table(*offsets: int) -> bytes:
    return item(struct.pack(f"<{len(offsets)}L", *offsets))


def halves(data: bytes) -> list[bytes]:
    middle = len(data) // 4 * 2
    return [data[:middle], data[middle:]]


def plain(frames: int, **changes: Any) -> FileDataset:
    pixels = np.stack([values(n) for n in range(frames)])
    return instance(pixels=pixels, PixelRepresentation=0, NumberOfFrames=frames, **changes)


def written(folder: Path, frames: int, value: bytes, **changes: Any) -> Path:
    """Write an instance whose encapsulated pixel data are ``value``, delimiter and all."""
    dataset = encapsulated(plain(frames, **changes), JPEG_LS, [b"PLACEHOLDER!"])
    path = save(dataset, folder, "one.dcm")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(table(0))] + value)
    return path


def read(path: Path, frame: int = 1) -> np.ndarray:
    return hounsfield.read(path, frame, 1 << 20)


def refusal(path: Path, frame: int = 1) -> str:
    with pytest.raises(Unreadable) as caught:
        read(path, frame)
    return str(caught.value)


@pytest.mark.parametrize("offsets", [(), (0,), (7,), (0, 400), (0xFFFFFFFF,)])
@pytest.mark.parametrize("parts", [1, 2], ids=["one fragment", "two fragments"])
def test_a_single_frame_needs_no_offset_table(
    tmp_path: Path, offsets: tuple[int, ...], parts: int
) -> None:
    fragments = [codestream(0)] if parts == 1 else halves(codestream(0))
    value = table(*offsets) + b"".join(map(item, fragments)) + END
    np.testing.assert_array_equal(read(written(tmp_path, 1, value)), values(0))


def test_a_wrong_extended_offset_table_of_a_single_frame_is_ignored(tmp_path: Path) -> None:
    value = table() + item(codestream(0)) + END
    wrong = {"ExtendedOffsetTable": struct.pack("<Q", 99), "ExtendedOffsetTableLengths": b"\0" * 8}
    np.testing.assert_array_equal(read(written(tmp_path, 1, value, **wrong)), values(0))


@pytest.mark.parametrize("offsets", [(), (0, 8, 16), (5,)], ids=["empty", "wrong", "short"])
def test_as_many_fragments_as_frames_are_the_frames(
    tmp_path: Path, offsets: tuple[int, ...]
) -> None:
    value = table(*offsets) + b"".join(item(codestream(n)) for n in range(3)) + END
    path = written(tmp_path, 3, value)
    for number in range(3):
        np.testing.assert_array_equal(read(path, number + 1), values(number))


@pytest.mark.parametrize("right", [True, False], ids=["right table", "wrong table"])
def test_frames_in_several_fragments_are_told_apart(tmp_path: Path, right: bool) -> None:
    parts = [halves(codestream(n)) for n in range(2)]
    second = sum(len(item(part)) for part in parts[0])
    offsets = (0, second) if right else (0, second + 2)
    value = table(*offsets) + b"".join(item(part) for frame in parts for part in frame) + END
    path = written(tmp_path, 2, value)
    for number in range(2):
        np.testing.assert_array_equal(read(path, number + 1), values(number))


def test_an_extended_offset_table_tells_frames_apart(tmp_path: Path) -> None:
    parts = [halves(codestream(n)) for n in range(2)]
    second = sum(len(item(part)) for part in parts[0])
    extended = {"ExtendedOffsetTable": struct.pack("<2Q", 0, second)}
    value = table() + b"".join(item(part) for frame in parts for part in frame) + END
    path = written(tmp_path, 2, value, **extended)
    np.testing.assert_array_equal(read(path, 2), values(1))


def test_fragments_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    value = table() + b"".join(item(part) for part in halves(codestream(0))) + END
    found = refusal(written(tmp_path, 3, value))
    assert "2 fragments cannot be told apart into 3 frames" in found


def test_one_fragment_without_the_item_of_the_table_is_the_frame(tmp_path: Path) -> None:
    path = written(tmp_path, 1, item(codestream(0)) + END)
    np.testing.assert_array_equal(read(path), values(0))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (table() + item(codestream(0)), "without the sequence delimiter"),
        (table() + item(codestream(0)) + b"\xfc\xff\xfc\xff\0\0\0\0", "without the sequence delim"),
        (table() + item(codestream(0))[:-8], "cut off inside a fragment"),
        (table() + END, "hold no fragment"),
        (END, "hold no fragment"),
        (table() + item(b"\xff\xd8\xff garbage ") + END, "cannot be decoded"),
    ],
)
def test_damaged_pixel_data_are_refused_with_their_own_reason(
    tmp_path: Path, value: bytes, reason: str
) -> None:
    found = refusal(written(tmp_path, 1, value))
    assert reason in found
    assert "Rows" not in found


def test_an_encoding_and_a_transfer_syntax_that_disagree_are_refused(tmp_path: Path) -> None:
    value = table() + item(codestream(0)) + END
    path = written(tmp_path, 1, value)
    path.write_bytes(path.read_bytes().replace(JPEG_LS.encode(), b"1.2.840.10008.1.2.1\0\0\0"))
    assert "encapsulated, but its transfer syntax is not" in refusal(path)
    path = save(plain(1), tmp_path, "two.dcm")
    syntax = b"1.2.840.10008.1.2.1\0"
    assert syntax in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(syntax, b"1.2.840.10008.1.2.5\0"))
    assert "not encapsulated, but its transfer syntax is" in refusal(path)


def test_a_frame_of_plain_pixel_data_is_read_alone(tmp_path: Path) -> None:
    path = save(plain(3), tmp_path, "one.dcm")
    for number in range(3):
        np.testing.assert_array_equal(read(path, number + 1), values(number))
    assert refusal(path, 4) == "it has no frame 4: its NumberOfFrames is 3"


def test_plain_pixel_data_that_are_cut_off_lose_only_what_is_missing(tmp_path: Path) -> None:
    path = save(plain(2), tmp_path, "one.dcm")
    path.write_bytes(path.read_bytes()[:-2])
    np.testing.assert_array_equal(read(path, 1), values(0))
    assert "shorter than the pixels" in refusal(path, 2)


@pytest.mark.parametrize("kind", ["a fragment each", "by table", "by codestream"])
@pytest.mark.parametrize("missing", [8, 20], ids=["the delimiter", "the end of a fragment"])
def test_encapsulated_pixel_data_that_are_cut_off_lose_only_the_last_frame(
    tmp_path: Path, kind: str, missing: int
) -> None:
    parts = [
        [codestream(n)] if kind == "a fragment each" else halves(codestream(n)) for n in (0, 1)
    ]
    second = sum(len(item(part)) for part in parts[0])
    offsets = (0, second) if kind == "by table" else ()
    value = table(*offsets) + b"".join(item(part) for frame in parts for part in frame) + END
    path = written(tmp_path, 2, value[:-missing])
    np.testing.assert_array_equal(read(path, 1), values(0))
    assert re.search("cut off", refusal(path, 2))


@pytest.mark.parametrize("count", [None, "0", "1"])
def test_frames_that_number_of_frames_hides_are_not_passed_over(
    tmp_path: Path, count: str | None
) -> None:
    hidden = plain(3)
    hidden.NumberOfFrames = count
    found = refusal(save(hidden, tmp_path, "one.dcm"))
    assert found == "its pixel data are longer than its Rows, Columns and NumberOfFrames announce"
    value = table() + b"".join(item(codestream(n)) for n in range(3)) + END
    path = written(tmp_path, 3, value)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x003 ", b"IS\x02\x001 "))
    assert refusal(path) == "its pixel data hold 3 frames, but its NumberOfFrames says 1"


def test_frames_that_only_the_functional_groups_know_are_not_passed_over(tmp_path: Path) -> None:
    dataset = enhanced([head_hu()] * 3, [1.0, 2.0, 3.0])
    dataset.NumberOfFrames = "2"
    path = save(dataset, tmp_path, "one.dcm")
    reason = "its functional groups describe more frames than its NumberOfFrames says"
    assert refusal(path) == reason
    with pytest.raises(Unreadable, match=reason):
        headers.read(path)


@pytest.mark.parametrize("is_big", [False, True], ids=["implicit", "big endian"])
def test_implicit_and_big_endian_twins_are_the_same(tmp_path: Path, is_big: bool) -> None:
    pixels = np.stack([values(0), values(1)])
    dataset = plain(2)
    dataset.PixelData = (pixels.byteswap() if is_big else pixels).tobytes()
    dataset.add_new("PixelPaddingValue", "US", 7)
    twin = Dataset(dataset)
    twin.file_meta = dataset.file_meta
    twin.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.2" if is_big else "1.2.840.10008.1.2")
    path = tmp_path / "one.dcm"
    twin.save_as(path, implicit_vr=not is_big, little_endian=not is_big, enforce_file_format=True)
    np.testing.assert_array_equal(read(path, 2), np.where(values(1) == 7, -1000, values(1)))
