"""How the pixels of an instance are laid out (PS3.3 C.7.6.3): one rule for every reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from limen.errors import Unreadable
from worker.dicom import elements, groups

__all__ = ["KEYWORDS", "Layout", "frame_count", "photometric", "samples"]

KEYWORDS: Final = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)

BYTES_PER_FRAME: Final = 8
"""No encoding spends less on a frame: the header of its fragment (PS3.5 Annex A.4)."""

_GREY: Final = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR_SPACES: Final = {
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"),
    *("YBR_ICT", "YBR_RCT"),
}
"""Say how three samples make a colour; with one sample they say nothing."""

_OTHER: Final = {"PALETTE COLOR", "HSV", "ARGB", "CMYK", "XYB"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Grey pixels of an instance, each in a cell of ``allocated`` bits.

    Attributes
    ----------
    shape
        Rows and columns.
    stored, high_bit
        Bits of a cell that are the pixel, and the highest of them, from 0.
    """

    shape: tuple[int, int]
    frames: int
    allocated: int
    stored: int
    high_bit: int
    is_signed: bool
    is_inverted: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame that is not encoded."""
        return self.shape[0] * self.shape[1] * self.allocated // 8

    @classmethod
    def of(cls, dataset: Dataset, size_bytes: int) -> Layout:
        """Return the layout that a data set announces, in a file of ``size_bytes``.

        Raises
        ------
        Unreadable
            An attribute is missing or says what cannot be; the text names it.
        """
        grey = _grey(dataset)
        rows, columns = elements.whole(dataset, "Rows"), elements.whole(dataset, "Columns")
        for keyword, value in (("Rows", rows), ("Columns", columns)):
            if value < 1:
                raise Unreadable(f"its {keyword} is not above 0")
        allocated = elements.whole(dataset, "BitsAllocated")
        if allocated not in {8, 16, 32}:
            raise Unreadable(f"its BitsAllocated is {allocated}: 8, 16 and 32 are supported")
        stored = elements.whole(dataset, "BitsStored")
        if not 1 <= stored <= allocated:
            raise Unreadable(f"its BitsStored of {stored} does not fit its BitsAllocated")
        high_bit = elements.whole(dataset, "HighBit", stored - 1)
        if not stored - 1 <= high_bit < allocated:
            raise Unreadable("its HighBit does not fit its BitsStored")
        representation = elements.whole(dataset, "PixelRepresentation")
        if representation not in {0, 1}:
            raise Unreadable("its PixelRepresentation is neither 0 nor 1")
        return cls(
            shape=(rows, columns),
            frames=frame_count(dataset, size_bytes),
            allocated=allocated,
            stored=stored,
            high_bit=high_bit,
            is_signed=representation == 1,
            is_inverted=grey == "MONOCHROME1",
        )


def frame_count(dataset: Dataset, size_bytes: int) -> int:
    """Return NumberOfFrames; absent, empty and 0 are one frame.

    Raises
    ------
    Unreadable
        It is no whole number, below 0, more than a file of ``size_bytes`` can hold, or less
        than its functional groups describe (those frames would go unseen).
    """
    count = elements.whole(dataset, "NumberOfFrames", 1) or 1
    if count < 0:
        raise Unreadable("its NumberOfFrames is below 0")
    if count * BYTES_PER_FRAME > size_bytes:
        raise Unreadable("its NumberOfFrames does not fit the length of the file")
    if groups.describe(dataset, count + 1):
        raise Unreadable("its functional groups describe more frames than its NumberOfFrames says")
    return count


def samples(dataset: Dataset) -> int | None:
    """Return SamplesPerPixel; None where absent or no number."""
    return elements.integer(dataset, "SamplesPerPixel")


def photometric(dataset: Dataset) -> str:
    """Return PhotometricInterpretation, upper case; a colour space of one sample is grey."""
    found = elements.text(dataset, "PhotometricInterpretation").upper()
    return "MONOCHROME2" if found in _COLOUR_SPACES and samples(dataset) == 1 else found


def _grey(dataset: Dataset) -> str:
    """Return MONOCHROME1 or MONOCHROME2, or raise ``Unreadable``."""
    found = photometric(dataset)
    if not found:
        raise Unreadable("its PhotometricInterpretation is missing")
    if found not in _GREY:
        known = f" ({found})" if found in _COLOUR_SPACES | _OTHER else ""
        raise Unreadable(f"it is not a grey image: PhotometricInterpretation{known}")
    if elements.whole(dataset, "SamplesPerPixel") != 1:
        raise Unreadable("its SamplesPerPixel is not 1, although it is a grey image")
    return found
