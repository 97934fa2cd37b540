"""Stored values of one frame, and the Hounsfield units they stand for.

Runs in the children of ``worker.dicom.decoder.Decoder``. Sizes are multiplied out and
compared with the limits and with the length of the file before a decoder sees
a byte.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID, RLELossless

from limen.errors import Unreadable
from worker.dicom import datasets, elements, frames, groups, layout
from worker.dicom.datasets import PixelElement
from worker.dicom.groups import FrameGroups
from worker.dicom.layout import Layout

__all__ = ["AIR_HU", "read"]

AIR_HU: Final = -1000.0

HIGHEST_PADDING_HU: Final = -200.0
"""A range of padding values that reaches above this takes in tissue, and is refused."""

DENSEST_HU: Final = 3071.0
"""The most that 12 bits hold; padding at the upper end lies above."""

PIXEL_DATA: Final = 0x7FE00010

_KEYWORDS: Final = (
    *layout.KEYWORDS,
    *groups.KEYWORDS,
    "SpecificCharacterSet",
    "Modality",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "ExtendedOffsetTable",
)
_JPEG_PREFIX: Final = "1.2.840.10008.1.2.4."
_TURBO_SYNTAXES: Final = {_JPEG_PREFIX + part for part in ("51", "53", "55", "57", "70")}
"""JPEG extended (8 and 12 bit), its retired progressive forms, and JPEG lossless: libjpeg-turbo."""

_HOUNSFIELD: Final = re.compile(r"HU|UH|HOUN[DS]*F[IE]+LD")
_UNIT_WORDS: Final = re.compile(
    r"CT|DE|DI|IN|UNITS?|NUMBERS?|VALUES?|SCALE|EINHEIT(EN)?|UNIDAD(ES)?|UNIT[EÉ]S?|UNIT[AÀ]"
)
"""What may stand beside it; "modified Hounsfield units" are others."""

_OTHER_UNITS: Final = {"US", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT", "UNSPECIFIED"}
"""Terms of PS3.3 C.11.1.1.2, and one that senders make of US; no other text is repeated."""


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
    with datasets.reasons("its data set cannot be understood"):
        dataset, pixels = datasets.load(path, _KEYWORDS)
        if pixels is None:
            raise Unreadable("it holds no pixel data")
        if pixels.tag != PIXEL_DATA:
            raise Unreadable("its pixel data are floating point numbers: not supported")
        announced = Layout.of(dataset, path.stat().st_size)
        _refuse_excess(announced, frame, max_pixels)
        scale = _scale(dataset, frame)
    with datasets.reasons("its pixel data cannot be decoded"):
        cells = _cells(path, dataset, pixels, announced, frame)
    with datasets.reasons("its pixel values cannot be understood"):
        return _modality_values(cells, dataset, announced, scale)


def _refuse_excess(announced: Layout, frame: int, max_pixels: int) -> None:
    """Raise for what no decoder should see."""
    rows, columns = announced.shape
    if rows * columns > max_pixels:
        raise Unreadable(f"{rows} x {columns} pixels are more than the {max_pixels} allowed")
    if not 1 <= frame <= announced.frames:
        raise Unreadable(f"it has no frame {frame}: its NumberOfFrames is {announced.frames}")


def _is_ct(dataset: Dataset) -> bool:
    return elements.text(dataset, "Modality").upper() == "CT"


# -- cells -----------------------------------------------------------------------------------------


def _cells(
    path: Path, dataset: Dataset, pixels: PixelElement, announced: Layout, frame: int
) -> NDArray[np.int64]:
    """Return a frame as it is stored, from 1: (rows, columns) int64.

    Unencoded frames and run lengths come with what lies beside the pixel in its cell.
    """
    syntax = _syntax(dataset)
    if syntax.is_encapsulated:
        table = _extended_offsets(dataset)
        data = frames.encoded(path, pixels, announced.frames, frame, table)
    else:
        data = frames.native(path, pixels, announced, frame)
    if syntax in _TURBO_SYNTAXES:
        values = _turbo(data)
    else:
        values = _library(data, syntax, announced, is_word=pixels.is_word)
    if values.ndim != 2:
        raise Unreadable("its encoded image has more than one sample a pixel")
    if values.shape != announced.shape:
        raise Unreadable("its encoded image has another size than its data set says")
    shift = 0
    if not syntax.is_encapsulated or syntax == RLELossless:
        shift = announced.high_bit + 1 - announced.stored
    return values.astype(np.int64) >> shift


def _syntax(dataset: Dataset) -> UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Unreadable("its file meta information names no transfer syntax")
    if not syntax.is_transfer_syntax:
        raise Unreadable("its transfer syntax is not known")
    return UID(syntax)


def _extended_offsets(dataset: Dataset) -> list[int]:
    """Return the offsets of ExtendedOffsetTable (PS3.3 C.7.6.3.1.8), none where it is absent."""
    raw = dataset.get("ExtendedOffsetTable")
    whole = len(raw) // 8 * 8 if isinstance(raw, bytes) else 0
    return [int(offset) for offset in np.frombuffer(raw or b"", "<u8", whole // 8)]


def _turbo(data: bytes) -> NDArray[Any]:
    """Decode with libjpeg-turbo: pydicom has no permissively licensed plugin for these."""
    import imagecodecs  # noqa: PLC0415 - only these syntaxes need it

    return np.asarray(imagecodecs.jpeg8_decode(data))


def _library(data: bytes, syntax: UID, announced: Layout, *, is_word: bool) -> NDArray[Any]:
    """Decode one frame with pydicom, as an instance that holds nothing else."""
    alone = Dataset()
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = syntax
    alone.Rows, alone.Columns = announced.shape
    alone.SamplesPerPixel, alone.PhotometricInterpretation = 1, "MONOCHROME2"
    alone.BitsAllocated, alone.BitsStored = announced.allocated, announced.stored
    alone.HighBit, alone.PixelRepresentation = announced.high_bit, int(announced.is_signed)
    padded = encapsulate([data]) if syntax.is_encapsulated else data + b"\0" * (len(data) % 2)
    alone.add_new(PIXEL_DATA, "OW" if is_word else "OB", padded)
    values, _ = get_decoder(syntax).as_array(
        alone,
        index=0,
        raw=True,
        correct_unused_bits=False,  # type: ignore[arg-type]
    )
    return values


def _kept(cells: NDArray[np.int64] | int, bits: int, is_signed: bool) -> Any:
    """Return the lowest ``bits`` of each cell, with their sign; what lies above is no pixel.

    Old objects keep overlays in the unused bits (PS3.5 8.1.1).
    """
    kept = cells & ((1 << bits) - 1)
    sign = 1 << (bits - 1)
    return (kept ^ sign) - sign if is_signed else kept


# -- values ----------------------------------------------------------------------------------------


def _modality_values(
    cells: NDArray[np.int64],
    dataset: Dataset,
    announced: Layout,
    scale: tuple[float, float] | None,
) -> NDArray[np.float32]:
    """Apply modality LUT or rescale, padding and polarity (PS3.3 C.11.1, C.7.5.1.1.2)."""
    is_ct = _is_ct(dataset)
    stored = _kept(cells, announced.stored, announced.is_signed)
    if scale is None:
        values: NDArray[Any] = apply_modality_lut(stored, dataset).astype(np.float64)
    else:
        values = stored * scale[0] + scale[1]
    limits = _padding_limits(dataset, announced)
    padding = _padding(cells, stored, limits, announced)
    if is_ct and len(set(limits)) > 1 and _holds(limits, announced):
        _refuse_tissue(values[padding])
    values = np.where(padding, _background(values, padding, is_ct), values)
    if not is_ct and announced.is_inverted:
        # HU mean the same under either polarity; other values are turned so that bright is high.
        values = values.max() + values.min() - values
    result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise Unreadable("its rescale gives values that are not finite")
    return result


def _background(values: NDArray[np.float64], padding: NDArray[np.bool_], is_ct: bool) -> float:
    if is_ct or padding.all():
        return AIR_HU if is_ct else 0.0
    return float(values[~padding].min())


def _padding_limits(dataset: Dataset, announced: Layout) -> tuple[int, ...]:
    """Return the lowest and the highest padding value; nothing where there is none."""
    first = _padding_value(dataset, "PixelPaddingValue", announced)
    if first is None:
        return ()
    limit = _padding_value(dataset, "PixelPaddingRangeLimit", announced)
    return tuple(sorted((first, first if limit is None else limit)))


def _holds(limits: tuple[int, ...], announced: Layout) -> bool:
    """Return True where BitsStored can hold the limits."""
    return all(_kept(v, announced.stored, announced.is_signed) == v for v in limits)


def _padding(
    cells: NDArray[np.int64],
    stored: NDArray[np.int64],
    limits: tuple[int, ...],
    announced: Layout,
) -> NDArray[np.bool_]:
    """Return where the pixels are padding (PS3.3 C.7.5.1.1.2), both limits included.

    A value that BitsStored can hold is looked for among the pixels. For one that it
    cannot hold senders mean the whole cell, or what an encoder has left of it.
    """
    if not limits:
        return np.zeros(stored.shape, bool)
    low, high = limits
    is_held = _holds(limits, announced)
    pixels = stored if is_held else _kept(cells, announced.allocated, announced.is_signed)
    found: NDArray[np.bool_] = (pixels >= low) & (pixels <= high)
    if is_held or low != high or found.any():
        return found
    masked: NDArray[np.bool_] = stored == _kept(low, announced.stored, announced.is_signed)
    return masked


def _padding_value(dataset: Dataset, keyword: str, announced: Layout) -> int | None:
    """Return a padding value with the sign of the pixels: senders mix up US and SS."""
    if elements.number(dataset, keyword) is None and not elements.fault(dataset, keyword):
        return None
    value = elements.whole(dataset, keyword)
    return int(_kept(value, announced.allocated, announced.is_signed))


def _refuse_tissue(padded_hu: NDArray[np.float64]) -> None:
    """Raise where a range of padding values would turn parts of a head into air."""
    if ((padded_hu > HIGHEST_PADDING_HU) & (padded_hu < DENSEST_HU)).any():
        raise Unreadable("its PixelPaddingRangeLimit takes in tissue")


# -- scale -----------------------------------------------------------------------------------------


def _scale(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Return slope and intercept: of the frame, of all frames, of the instance; None for a LUT."""
    is_ct = _is_ct(dataset)
    lut = elements.item(dataset, "ModalityLUTSequence")
    if lut is not None and lut.get("LUTData") is not None:  # some senders leave it empty
        if is_ct:
            _refuse_other_units(lut, "ModalityLUTType")
        return None
    source = FrameGroups(dataset, frame).macro("PixelValueTransformationSequence") or dataset
    found = []
    for keyword, absent in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        fault = elements.fault(source, keyword)
        if fault:
            raise Unreadable(fault)
        value = elements.number(source, keyword)
        if value is None and is_ct:
            raise Unreadable(f"its {keyword} is missing, so its HU are not known")
        found.append(absent if value is None else value)
    slope, intercept = found
    if slope == 0:
        raise Unreadable("its RescaleSlope is 0")
    if is_ct:
        _refuse_other_units(source, "RescaleType")
    return slope, intercept


def _refuse_other_units(source: Dataset, keyword: str) -> None:
    """Raise where a CT says units that are not, or may not be, Hounsfield units.

    Absent means Hounsfield units in a CT (PS3.3 C.8.2.1), and free text that can mean
    nothing else is taken for them; US means "unspecified", and promises nothing.
    """
    given = elements.text(source, keyword).upper()
    if not given or _means_hounsfield(given):
        return
    known = f" ({given})" if given in _OTHER_UNITS else ""
    raise Unreadable(f"its {keyword} says other units than HU, or none{known}")


def _means_hounsfield(given: str) -> bool:
    words = [word for word in re.split(r"[\s().,;:\-]+", given) if word]
    units = [word for word in words if _HOUNSFIELD.fullmatch(word)]
    return bool(units) and all(w in units or _UNIT_WORDS.fullmatch(w) for w in words)
