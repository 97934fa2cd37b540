"""Instances as bad senders write them: each has its truth, and is read so or refused for it.

Every case is built here, goes through the decoder's children as a received file does,
and must come out as the Hounsfield units that its sender meant, or with a reason that names
what is wrong with it and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from limen.errors import Unreadable
from tests.support.synthetic import encapsulated, enhanced, head_hu, instance, save
from worker.dicom.decoder import Decoder
from worker.dicom.headers import Header

JPEG = "1.2.840.10008.1.2.4.51"
JPEG_LS = "1.2.840.10008.1.2.4.80"
INTERCEPT = -1024
TRUTH = head_hu(lesion=True).astype(np.float32)
CORNER = np.s_[:4, :4]


@dataclass(frozen=True)
class Case:
    """How a file is written, and what it must come to: values, or words of a reason."""

    write: Callable[[Path], Path]
    expected: np.ndarray | str


CASES: dict[str, Case] = {}


def read_as(name: str, expected: np.ndarray | str) -> Callable[[Callable[[Path], Path]], Any]:
    def keep(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
        CASES[name] = Case(write, expected)
        return write

    return keep


def stored() -> np.ndarray:
    """Return the truth as 12 bits without sign."""
    return (TRUTH - INTERCEPT).astype(np.uint16)


def twelve_bits(cells: np.ndarray | None = None, **changes: Any) -> FileDataset:
    """Return an instance of 12 bits without sign."""
    layout = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    pixels = stored() if cells is None else cells
    return instance(pixels=pixels, **{**layout, "RescaleIntercept": INTERCEPT, **changes})


def jpeg_ls(dataset: FileDataset, cells: np.ndarray | None = None) -> FileDataset:
    pixels = stored() if cells is None else cells
    return encapsulated(dataset, JPEG_LS, [bytes(imagecodecs.jpegls_encode(pixels))])


def one(dataset: FileDataset, folder: Path) -> Path:
    return save(dataset, folder, "one.dcm")


def without(folder: Path, keyword: str) -> Path:
    return one(twelve_bits(**{keyword: None}), folder)


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def decimal(keyword: bytes, old: bytes, new: bytes) -> tuple[bytes, bytes]:
    """Return an element of VR DS with one value, and with another."""
    return tuple(keyword + b"DS" + struct.pack("<H", len(v)) + v for v in (old, new))  # type: ignore[return-value]


# -- how many frames -------------------------------------------------------------------------------

for count in (None, "", "0", "1"):

    @read_as(f"NumberOfFrames {count!r} is one frame", TRUTH)
    def frames(folder: Path, count: str | None = count) -> Path:
        dataset = twelve_bits()
        if count is not None:
            dataset.NumberOfFrames = count
        return one(dataset, folder)


@read_as("NumberOfFrames that is no number", "its NumberOfFrames is not a number")
def frames_letter(folder: Path) -> Path:
    path = one(twelve_bits(NumberOfFrames="1"), folder)
    return replaced(path, b"IS\x02\x001 ", b"IS\x02\x001A")


@read_as("NumberOfFrames below 0", "its NumberOfFrames is below 0")
def frames_negative(folder: Path) -> Path:
    return one(twelve_bits(NumberOfFrames="-1"), folder)


@read_as(
    "more frames than NumberOfFrames says",
    "longer than its Rows, Columns and NumberOfFrames announce",
)
def frames_hidden(folder: Path) -> Path:
    return one(twelve_bits(np.stack([stored(), stored()]), NumberOfFrames="0"), folder)


# -- how they lie in the file ----------------------------------------------------------------------


@read_as("a wrong Basic Offset Table on a single frame", TRUTH)
def offset_table(folder: Path) -> Path:
    path = one(jpeg_ls(twelve_bits()), folder)
    right = b"\xfe\xff\x00\xe0" + struct.pack("<LL", 4, 0)
    return replaced(path, right, b"\xfe\xff\x00\xe0" + struct.pack("<LL", 4, 1234))


@read_as("no sequence delimiter at the end", "end without the sequence delimiter")
def no_delimiter(folder: Path) -> Path:
    path = one(jpeg_ls(twelve_bits()), folder)
    assert path.read_bytes().endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    path.write_bytes(path.read_bytes()[:-8])
    return path


@read_as("a codestream that is cut off", "cut off inside a fragment")
def cut_off(folder: Path) -> Path:
    path = one(jpeg_ls(twelve_bits()), folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


@read_as("pixels that are cut off", "shorter than the pixels")
def cut_off_plain(folder: Path) -> Path:
    path = one(twelve_bits(), folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


@read_as("a file that ends before its pixels", "it holds no pixel data")
def no_pixels(folder: Path) -> Path:
    path = one(twelve_bits(), folder)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\xe0\x7f\x10\x00")])
    return path


@read_as("a file that ends inside a sequence", "ends inside an element: it is cut off|broken")
def no_end(folder: Path) -> Path:
    path = one(twelve_bits(), folder)
    data = path.read_bytes()
    head = data[: data.rindex(b"\xe0\x7f\x10\x00")]
    sequence = bytes.fromhex("00522992") + b"SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0"
    path.write_bytes(head + sequence + b"\xff" * 4)
    return path


# -- what a pixel is -------------------------------------------------------------------------------

for space in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT"):

    @read_as(f"{space} with one sample is grey", TRUTH)
    def colour_space(folder: Path, space: str = space) -> Path:
        return one(jpeg_ls(twelve_bits(PhotometricInterpretation=space)), folder)


@read_as("a palette is no grey", r"not a grey image: .*\(PALETTE COLOR\)")
def palette(folder: Path) -> Path:
    return one(twelve_bits(PhotometricInterpretation="PALETTE COLOR"), folder)


@read_as("three samples in the codestream of one", "more than one sample a pixel")
def three_samples(folder: Path) -> Path:
    colour = np.zeros((64, 64, 3), np.uint8)
    dataset = twelve_bits(BitsAllocated=8, BitsStored=8, HighBit=7)
    return one(encapsulated(dataset, JPEG, [bytes(imagecodecs.jpeg8_encode(colour))]), folder)


@read_as("overlays above BitsStored", TRUTH)
def overlays(folder: Path) -> Path:
    return one(twelve_bits(stored() | np.uint16(0xB000)), folder)


@read_as("signed pixels of 12 bits without their sign above", TRUTH)
def unsigned_cells(folder: Path) -> Path:
    cells = TRUTH.astype(np.int16) & np.int16(0x0FFF)
    return one(twelve_bits(cells, PixelRepresentation=1, RescaleIntercept=0), folder)


for missing in (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept"),
):

    @read_as(f"no {missing}", f"its {missing} is missing")
    def absent(folder: Path, keyword: str = missing) -> Path:
        return without(folder, keyword)


# -- padding ---------------------------------------------------------------------------------------


def padded(cell: int) -> np.ndarray:
    cells = stored()
    cells[CORNER] = cell
    return cells


def with_padding(cells: np.ndarray, vr: str, *values: int, **changes: Any) -> FileDataset:
    dataset = twelve_bits(cells, **changes)
    for keyword, value in zip(
        ("PixelPaddingValue", "PixelPaddingRangeLimit"), values, strict=False
    ):
        dataset.add_new(keyword, vr, value)
    return dataset


PADDED = TRUTH.copy()
PADDED[CORNER] = -1000


@read_as("padding that BitsStored cannot hold", PADDED)
def padding_cell(folder: Path) -> Path:
    return one(with_padding(padded(0xF830), "US", 0xF830), folder)


@read_as("padding that an encoder has cut to BitsStored", PADDED)
def padding_masked(folder: Path) -> Path:
    cells = padded(0x0830)
    return one(jpeg_ls(with_padding(cells, "US", 0xF830), cells), folder)


@read_as("padding with a sign under pixels without", PADDED)
def padding_signed(folder: Path) -> Path:
    return one(with_padding(padded(0xF830), "SS", -2000), folder)


@read_as("padding beside an overlay", PADDED)
def padding_overlay(folder: Path) -> Path:
    return one(with_padding(padded(7) | np.uint16(0xA000), "US", 7), folder)


@read_as("padding without a sign under pixels with one", PADDED)
def padding_unsigned(folder: Path) -> Path:
    cells = TRUTH.astype(np.int16)
    cells[CORNER] = -2000
    signed = {"PixelRepresentation": 1, "RescaleIntercept": 0}
    return one(with_padding(cells, "US", 0xF830, **signed), folder)


@read_as("a range of padding that BitsStored cannot hold", PADDED)
def padding_range(folder: Path) -> Path:
    cells = padded(0xF830)
    cells[0, :2] = (0xF800, 0xFFFF)
    return one(with_padding(cells, "US", 0xF800, 0xFFFF), folder)


@read_as("a range of padding that takes in the brain", "PixelPaddingRangeLimit takes in tissue")
def padding_tissue(folder: Path) -> Path:
    return one(with_padding(stored(), "US", 0, 1200), folder)


# -- what a value means ----------------------------------------------------------------------------

for text in (
    *("HU", "Hounsfield Unit", "Houndsfield Units", "HOUNSFIELD", "CT number (HU)"),
    *("Hounsfield-Einheiten", "unidades Hounsfield"),
):

    @read_as(f"RescaleType {text} is HU", TRUTH)
    def unit(folder: Path, text: str = text) -> Path:
        return one(twelve_bits(RescaleType=text), folder)


for text in ("US", "UNSPECIFIED", "HU_MOD", "modified Hounsfield", "HU x 10", "OD", "mg/ml"):

    @read_as(f"RescaleType {text} is not", "its RescaleType says other units than HU, or none")
    def other_unit(folder: Path, text: str = text) -> Path:
        return one(twelve_bits(RescaleType=text), folder)


@read_as("a LUT of other units", "its ModalityLUTType says other units than HU")
def lut(folder: Path) -> Path:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", list(range(4096)))
    item.ModalityLUTType = "OD"
    return one(twelve_bits(ModalityLUTSequence=Sequence([item])), folder)


SLOPE, INTERCEPT_TAG = b"\x28\x00\x53\x10", b"\x28\x00\x52\x10"


@read_as("a decimal comma in RescaleIntercept", "its RescaleIntercept holds a comma")
def comma(folder: Path) -> Path:
    path = one(twelve_bits(RescaleIntercept="-1024 "), folder)
    return replaced(path, *decimal(INTERCEPT_TAG, b"-1024 ", b"-1024,0 "))


@read_as("a decimal comma in RescaleSlope", "its RescaleSlope holds a comma")
def comma_slope(folder: Path) -> Path:
    path = one(twelve_bits(RescaleSlope="1"), folder)
    return replaced(path, *decimal(SLOPE, b"1 ", b"1,0 "))


@read_as("a slope that is no number", "its RescaleSlope is not a number")
def letters(folder: Path) -> Path:
    path = one(twelve_bits(RescaleSlope="1"), folder)
    return replaced(path, *decimal(SLOPE, b"1 ", b"one "))


@read_as("two slopes", "its RescaleSlope holds 2 values, not 1")
def two_slopes(folder: Path) -> Path:
    return one(twelve_bits(RescaleSlope=["1", "2"]), folder)


@read_as("a slope of 0", "its RescaleSlope is 0")
def no_slope(folder: Path) -> Path:
    return one(twelve_bits(RescaleSlope="0"), folder)


@read_as("Rows that are text", "its Rows is not a number")
def rows_text(folder: Path) -> Path:
    path = one(twelve_bits(), folder)
    return replaced(path, b"\x28\x00\x10\x00US\x02\x00\x40\x00", b"\x28\x00\x10\x00SH\x02\x00ab")


# -- the proof -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(processes=1) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_a_file_comes_to_its_truth_or_to_the_true_reason(
    decoder: Decoder, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    path = case.write(tmp_path)
    if isinstance(case.expected, str):
        with pytest.raises(Unreadable, match=case.expected):
            decoder.hounsfield(path)
    else:
        np.testing.assert_array_equal(decoder.hounsfield(path), case.expected)
        found = decoder.headers([path])[0]
        assert isinstance(found, Header)
        assert (len(found.frames), found.photometric, found.samples) == (1, "MONOCHROME2", 1)


def test_a_broken_frame_and_a_broken_instance_leave_their_neighbours_alone(
    decoder: Decoder, tmp_path: Path
) -> None:
    good = one(twelve_bits(), tmp_path)
    frames = [bytes(imagecodecs.jpegls_encode(stored())) for _ in range(3)]
    frames[1] = b"\xff\xd8 no codestream "
    cells = np.stack([stored()] * 3)
    several = encapsulated(twelve_bits(cells, NumberOfFrames=3), JPEG_LS, frames)
    broken = save(several, tmp_path, "broken.dcm")
    bad = save(twelve_bits(RescaleSlope="0"), tmp_path, "bad.dcm")
    items = [(good, 1), (bad, 1), (broken, 1), (broken, 2), (broken, 3), (good, 1)]
    found = list(decoder.hounsfield_many(items))
    for index in (0, 2, 4, 5):
        np.testing.assert_array_equal(found[index], TRUTH)
    assert str(found[1]) == "its RescaleSlope is 0"
    assert "cannot be decoded" in str(found[3])


def test_an_enhanced_instance_whose_frames_are_of_other_units_is_refused(
    decoder: Decoder, tmp_path: Path
) -> None:
    dataset = enhanced([head_hu(), head_hu()], [0.0, 5.0])
    values = dataset.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0]
    values.RescaleType = "US"
    path = one(dataset, tmp_path)
    assert decoder.hounsfield(path, 1).shape == (64, 64)
    with pytest.raises(Unreadable, match=r"RescaleType .*\(US\)"):
        decoder.hounsfield(path, 2)
