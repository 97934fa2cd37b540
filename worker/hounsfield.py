"""Stored values of one frame, and the Hounsfield units they stand for.

Runs in the children of ``worker.pixels.Decoder``. Sizes are multiplied out and
compared with the limits and with the length of the file before a decoder sees
a byte.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID, RLELossless

from limen.errors import Unreadable
from worker import headers

__all__ = ["AIR_HU", "read"]

AIR_HU: Final = -1000.0

_KEYWORDS: Final = (
    "SOPClassUID",
    "Modality",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_PIXELS: Final = (*_KEYWORDS, "PixelData")
_GREY: Final = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR: Final = {
    *("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"),
    *("YBR_ICT", "YBR_RCT", "HSV", "ARGB", "CMYK", "XYB"),
}
_JPEG_PREFIX: Final = "1.2.840.10008.1.2.4."
_TURBO_SYNTAXES: Final = {_JPEG_PREFIX + part for part in ("51", "53", "55", "57", "70")}
"""JPEG extended (8 and 12 bit), its retired progressive forms, and JPEG lossless: libjpeg-turbo."""


def read(path: Path, frame: int, max_pixels: int) -> NDArray[np.float32]:
    """Return one frame as Hounsfield units (other modalities: as modality values).

    Parameters
    ----------
    frame
        Frame number, from 1.
    max_pixels
        Largest rows x columns of a frame that is decoded.

    Returns
    -------
    NDArray[np.float32]
        (rows, columns) float32, finite. Padding is air. Lossless transfer
        syntaxes of the same instance give the same array bit for bit.

    Raises
    ------
    Unreadable
        The text says why, without values of the data set.
    """
    try:
        outline, has_pixels = headers.read_dataset(path, _KEYWORDS)
        _refuse_impossible(outline, has_pixels, frame, max_pixels, path.stat().st_size)
        dataset, _ = headers.read_dataset(path, _PIXELS, with_pixels=True)
        return _modality_values(_stored(dataset, frame), dataset, frame)
    except Unreadable:
        raise
    except MemoryError as exc:
        raise Unreadable("decoding it needs more memory than is allowed") from exc
    except RecursionError as exc:
        raise Unreadable("its sequences are nested too deeply") from exc
    except Exception as exc:  # decoders raise whatever they like on damaged pixel data
        raise Unreadable(f"its pixel data cannot be decoded ({type(exc).__name__})") from exc


def _whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    try:
        value = dataset.get(keyword)
        return int(str(value)) if value is not None or default is None else default
    except Exception as exc:
        raise Unreadable(f"its {keyword} is missing or not a number") from exc


def _refuse_impossible(
    dataset: Dataset, has_pixels: bool, frame: int, max_pixels: int, size_bytes: int
) -> None:
    """Raise for what no decoder should see (PS3.3 C.7.6.3)."""
    if not has_pixels:
        raise Unreadable("it holds no pixel data")
    photometric = headers.text(dataset, "PhotometricInterpretation").upper()
    if photometric not in _GREY:
        known = f" ({photometric})" if photometric in _COLOUR else ""
        raise Unreadable(f"it is not a grey image: PhotometricInterpretation{known}")
    if _whole(dataset, "SamplesPerPixel", 1) != 1:
        raise Unreadable("it has more than one sample per pixel")
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    frames = _whole(dataset, "NumberOfFrames", 1)
    allocated, stored = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")
    if rows < 1 or columns < 1 or not 1 <= frame <= frames:
        raise Unreadable("it has no such frame, or no rows or columns")
    if allocated not in {8, 16, 32} or not 1 <= stored <= allocated:
        raise Unreadable(f"{stored} bits stored in {allocated} are not supported")
    if not stored - 1 <= _whole(dataset, "HighBit", stored - 1) < allocated:
        raise Unreadable("its HighBit does not fit its BitsStored")
    if _whole(dataset, "PixelRepresentation", 0) not in {0, 1}:
        raise Unreadable("its PixelRepresentation is neither 0 nor 1")
    if rows * columns > max_pixels:
        raise Unreadable(f"{rows} x {columns} pixels are more than the {max_pixels} allowed")
    syntax = _syntax(dataset)
    needed = frames * headers.BYTES_PER_FRAME
    if not syntax.is_encapsulated:
        needed = frames * rows * columns * allocated // 8
    if needed > size_bytes:
        raise Unreadable("the file is shorter than the pixels it announces")


def _syntax(dataset: Dataset) -> UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Unreadable("its file meta information names no transfer syntax")
    if not syntax.is_transfer_syntax:
        raise Unreadable("its transfer syntax is not known")
    return UID(syntax)


def _stored(dataset: Dataset, frame: int) -> NDArray[np.int64]:
    """Return (rows, columns) int64: the stored values of a frame, from 1."""
    syntax = _syntax(dataset)
    shape = (_whole(dataset, "Rows"), _whole(dataset, "Columns"))
    packed = not syntax.is_encapsulated or syntax == RLELossless
    if syntax in _TURBO_SYNTAXES:
        values = _turbo(dataset, frame)
    else:
        values, _ = get_decoder(syntax).as_array(
            dataset,
            index=frame - 1,
            raw=True,
            correct_unused_bits=False,  # type: ignore[arg-type]
        )
    if values.shape != shape:
        raise Unreadable("the encoded image has another size than its data set says")
    bits = _whole(dataset, "BitsStored")
    shift = _whole(dataset, "HighBit", bits - 1) + 1 - bits if packed else 0
    signed = _whole(dataset, "PixelRepresentation", 0) == 1
    return _unpack(values, bits, shift, signed)


def _turbo(dataset: Dataset, frame: int) -> NDArray[Any]:
    """Decode with libjpeg-turbo: pydicom has no permissively licensed plugin for these."""
    import imagecodecs  # noqa: PLC0415 - only these syntaxes need it

    count = _whole(dataset, "NumberOfFrames", 1)
    encoded = get_frame(dataset.PixelData, frame - 1, number_of_frames=count)
    return np.asarray(imagecodecs.jpeg8_decode(encoded))


def _unpack(values: NDArray[Any], bits: int, shift: int, signed: bool) -> NDArray[np.int64]:
    """Return the ``bits`` above ``shift`` of each cell; what lies beside them is no pixel.

    Old objects keep overlays in the unused bits (PS3.5 8.1.1).
    """
    wide = values.astype(np.int64) >> shift
    kept = wide & ((1 << bits) - 1)
    if not signed:
        return kept
    sign = 1 << (bits - 1)
    return (kept ^ sign) - sign


def _modality_values(
    stored: NDArray[np.int64], dataset: Dataset, frame: int
) -> NDArray[np.float32]:
    """Apply modality LUT or rescale, padding and polarity (PS3.3 C.11.1, C.7.5.1.1.2)."""
    is_ct = headers.text(dataset, "Modality").upper() == "CT"
    padding = _padding(stored, dataset)
    if _has_modality_lut(dataset):
        values: NDArray[Any] = apply_modality_lut(stored, dataset).astype(np.float64)
    else:
        slope, intercept = _rescale(dataset, frame, is_ct)
        values = stored * slope + intercept
    values = np.where(padding, _background(values, padding, is_ct), values)
    if not is_ct and headers.text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1":
        # HU mean the same under either polarity; other values are turned so that bright is high.
        values = values.max() + values.min() - values
    result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise Unreadable("its rescale gives values that are not finite")
    return result


def _has_modality_lut(dataset: Dataset) -> bool:
    """Return True for a LUT with content; some senders leave an empty sequence item."""
    sequence = dataset.get("ModalityLUTSequence")
    return bool(sequence) and sequence[0].get("LUTData") is not None


def _background(values: NDArray[np.float64], padding: NDArray[np.bool_], is_ct: bool) -> float:
    if is_ct or padding.all():
        return AIR_HU if is_ct else 0.0
    return float(values[~padding].min())


def _padding(stored: NDArray[np.int64], dataset: Dataset) -> NDArray[np.bool_]:
    """Return where the pixels are padding (PS3.3 C.7.5.1.1.2), both limits included."""
    if dataset.get("PixelPaddingValue") is None:
        return np.zeros(stored.shape, bool)
    first = _as_stored(_whole(dataset, "PixelPaddingValue"), dataset)
    limit = _whole(dataset, "PixelPaddingRangeLimit", _whole(dataset, "PixelPaddingValue"))
    low, high = sorted((first, _as_stored(limit, dataset)))
    return (stored >= low) & (stored <= high)


def _as_stored(value: int, dataset: Dataset) -> int:
    """Read a padding value with the sign of the pixels: senders mix up US and SS."""
    bits = _whole(dataset, "BitsAllocated")
    signed = _whole(dataset, "PixelRepresentation", 0) == 1
    wrapped = value & ((1 << bits) - 1)
    return wrapped - (1 << bits) if signed and wrapped >> (bits - 1) else wrapped


def _rescale(dataset: Dataset, frame: int, is_ct: bool) -> tuple[float, float]:
    """Return slope and intercept: of the frame, of all frames, of the instance."""
    source = headers.group(dataset, frame, "PixelValueTransformationSequence") or dataset
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    if slope is None or intercept is None:
        if is_ct:
            raise Unreadable("it has no rescale slope and intercept, so its HU are not known")
        return 1.0, 0.0
    if is_ct and headers.text(source, "RescaleType").upper() not in {"", "HU", "US"}:
        raise Unreadable("its rescale type is not HU")
    numbers = float(slope), float(intercept)
    if not all(math.isfinite(n) for n in numbers) or numbers[0] == 0:
        raise Unreadable("its rescale slope or intercept is not usable")
    return numbers
