"""Pictures for people: the slice in grey, the explanation in colour, both in one.

Everything here is deterministic: same arrays, same bytes. File names carry a
digest, never a UID or a name of a patient.

Slices in HU are JPEG-LS (ITU-T T.87, the lossless compression of DICOM PS3.5 8.2.3): three fifths
of the bytes of a PNG of 16 bits, in half of its time. All else is PNG.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limen.result import HU_OFFSET
from worker.study.crop import Box

__all__ = [
    "MOST_MARKS",
    "blended_png",
    "file_name",
    "grey_of",
    "grey_png",
    "hu_jls",
    "overlay_name",
    "overlay_png",
]

BRAIN_WINDOW_HU: Final = (40.0, 80.0)
"""Centre and width."""

MAX_SIDE_PX: Final = 1024
MAX_HU_SIDE_PX: Final = 512
"""Of a slice in HU: 2,000 of them stay below what a results server takes as one result."""

SHOWN_SUPERPIXELS: Final = 10
LEAST_SHOWN: Final = 0.05
"""Superpixels of less than that share of the strongest weight are not: no eye would see them, and
objects that say what speaks for a finding would count them."""
MAX_ALPHA: Final = 150
MOST_MARKS: Final = 6
"""Findings of a segmentation: with so many bits its blue stays below its red."""

FOR_RGB: Final = (255, 120, 0)
"""Warm: speaks for the finding."""
AGAINST_RGB: Final = (0, 110, 255)
"""Blue: speaks against it."""

_SOP_KEY_DIGITS: Final = 32
_COMPRESSION: Final = 6
_JPEG_START: Final = b"\xff\xd8"


def file_name(sop_uid: str, frame: int, picture: bytes, copy: int = 1) -> str:
    """Return the name of the picture of a frame (from 1).

    ``copy`` tells the contents apart that share a SOP Instance UID, from 1.
    """
    return f"{_stem(sop_uid, frame, copy)}.{'jls' if _is_jls(picture) else 'png'}"


def overlay_name(sop_uid: str, frame: int, copy: int = 1, what: str = "lime") -> str:
    """Return the name of the overlay of a frame; see ``file_name``."""
    return f"{_stem(sop_uid, frame, copy)}-{what}.png"


def _stem(sop_uid: str, frame: int, copy: int) -> str:
    key = hashlib.sha256(sop_uid.encode("ascii")).hexdigest()[:_SOP_KEY_DIGITS]
    return f"{key}-{frame}-copy{copy}" if copy > 1 else f"{key}-{frame}"


def _is_jls(picture: bytes) -> bool:
    return picture.startswith(_JPEG_START)


def hu_jls(hu: NDArray[np.float32]) -> bytes:
    """Return a slice for any window: 16-bit grey, whole HU + 1024, at most 512 pixels a side.

    What is below -1024 HU is shown as that.

    Parameters
    ----------
    hu
        (rows, columns) float32, HU.
    """
    image = _reduced(Image.fromarray(np.asarray(hu, np.float32)), MAX_HU_SIDE_PX)
    values = np.clip(np.rint(np.asarray(image)) + HU_OFFSET, 0, 2**16 - 1)
    return bytes(imagecodecs.jpegls_encode(values.astype(np.uint16)))


def grey_png(values: NDArray[np.float32]) -> bytes:
    """Return a slice in the brain window, 8-bit grey, at most 1024 pixels a side.

    Parameters
    ----------
    values
        (rows, columns) float32: of what is no CT, so that no other window means anything either.
    """
    return _png(_reduced(Image.fromarray(_windowed(values)), MAX_SIDE_PX))


def grey_of(picture: bytes) -> Image.Image:
    """Return a slice as people first see it: 8-bit grey, in the brain window.

    Parameters
    ----------
    picture
        From ``hu_jls`` or ``grey_png``, or the PNG of 16 bits that a slice in HU was before.

    Raises
    ------
    OSError
        It is none of these, or is damaged.
    """
    if _is_jls(picture):
        try:
            return Image.fromarray(_windowed(_hu(imagecodecs.jpegls_decode(picture))))
        except imagecodecs.JpeglsError as exc:
            raise OSError("not a picture of a slice in HU") from exc
    with Image.open(io.BytesIO(picture)) as image:
        if not image.mode.startswith("I"):
            return image.convert("L")
        return Image.fromarray(_windowed(_hu(np.asarray(image))))


def _hu(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.astype(np.float32) - HU_OFFSET


def _windowed(hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    centre, width = BRAIN_WINDOW_HU
    scaled = np.clip((hu - (centre - width / 2)) / width, 0, 1)
    grey: NDArray[np.uint8] = (scaled * 255 + 0.5).astype(np.uint8)
    return grey


def _reduced(image: Image.Image, most: int) -> Image.Image:
    """Return ``image`` with at most so many pixels a side."""
    rows, columns = shown_size(image.height, image.width, most)
    if image.size == (columns, rows):
        return image
    return image.resize((columns, rows), Image.Resampling.BOX)


def shown_size(rows: int, columns: int, most: int = MAX_SIDE_PX) -> tuple[int, int]:
    """Return rows and columns of the picture of a slice, of at most so many pixels a side."""
    scale = min(1.0, most / max(rows, columns))
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def overlay_png(
    segments: NDArray[np.int64],
    weights: NDArray[np.float64],
    shape: tuple[int, int],
    field: Box | None = None,
) -> bytes:
    """Return the strongest superpixels as a transparent RGBA picture of the whole slice.

    At most 1024 pixels a side, also where the picture of the slice has fewer.

    Parameters
    ----------
    segments
        (rows, columns) int: the superpixel of each pixel of the model's input;
        numbers without a weight (the background) stay clear.
    weights
        (superpixels,) float: above 0 speaks for the finding.
    shape
        Rows and columns of the slice.
    field
        The part of the slice that ``segments`` are of (``worker.study.crop.field_of``). What the
        model was not shown stays clear. None: all of it, padded to their aspect ratio.
    """
    weights = np.asarray(weights, np.float64)
    palette = np.zeros((max(int(segments.max()) + 1, len(weights)) + 1, 4), np.uint8)
    strongest = np.argsort(-np.abs(weights), kind="stable")[:SHOWN_SUPERPIXELS]
    peak = float(np.abs(weights).max()) if len(weights) else 0.0
    for number in strongest:
        if peak > 0 and abs(weights[number]) >= LEAST_SHOWN * peak:
            colour = FOR_RGB if weights[number] > 0 else AGAINST_RGB
            palette[number] = (*colour, round(MAX_ALPHA * abs(weights[number]) / peak))
    rows, columns = shown_size(*shape)
    whole = Box(0, 0, *shape).padded((segments.shape[0], segments.shape[1]))
    if field is None or field == whole:  # on whole pixels of the input, as it was always sent
        cut = Image.fromarray(palette[_without_padding(segments, (rows, columns))])
        return _png(cut.resize((columns, rows), Image.Resampling.NEAREST))
    picture = Image.fromarray(palette[segments])
    of_slice = _slice_within(segments.shape, shape, field)
    return _png(picture.transform((columns, rows), Image.Transform.EXTENT, of_slice))


def marks_png(masks: Sequence[NDArray[np.bool_]], shape: tuple[int, int], field: Box) -> bytes:
    """Return what a segmentation marks as a transparent RGBA picture of the whole slice.

    All of it in one colour, but for its blue, which has a bit for each finding (``marks_in``).

    Parameters
    ----------
    masks
        (rows, columns) bool for each finding, of the pixels of the model's input.
    shape
        Rows and columns of the slice.
    field
        The part of the slice that the model was shown.
    """
    numbers = np.zeros(masks[0].shape, np.uint8)
    for bit, mask in enumerate(masks[:MOST_MARKS]):
        numbers |= mask.astype(np.uint8) << bit
    palette = np.zeros((1 << MOST_MARKS, 4), np.uint8)
    palette[1:] = (*FOR_RGB, MAX_ALPHA)
    palette[1:, 2] = np.arange(1, len(palette))
    rows, columns = shown_size(*shape)
    of_slice = _slice_within(numbers.shape, shape, field)
    picture = Image.fromarray(palette[numbers])
    return _png(picture.transform((columns, rows), Image.Transform.EXTENT, of_slice))


def marks_in(overlay: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
    """Return (rows, columns) bool: where an overlay of ``marks_png`` marks a finding, from 0."""
    marked: NDArray[np.bool_] = (overlay[..., 3] > 0) & ((overlay[..., 2] >> number) & 1 > 0)
    return marked


def _without_padding(segments: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the part of ``segments`` under a whole slice whose picture is of ``size``."""
    scale = max(size[0] / segments.shape[0], size[1] / segments.shape[1])
    rows = min(segments.shape[0], max(1, round(size[0] / scale)))
    columns = min(segments.shape[1], max(1, round(size[1] / scale)))
    top, left = (segments.shape[0] - rows) // 2, (segments.shape[1] - columns) // 2
    return segments[top : top + rows, left : left + columns]


def _slice_within(
    size: tuple[int, ...], shape: tuple[int, int], field: Box
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the slice in pixels of the model's input."""
    down, across = size[0] / field.rows, size[1] / field.columns
    left, top = -field.left * across, -field.top * down
    return left, top, left + shape[1] * across, top + shape[0] * down


def blended_png(original: bytes, overlay: bytes) -> bytes:
    """Return the overlay laid on the slice: one RGB picture for any viewer."""
    grey = grey_of(original)
    with Image.open(io.BytesIO(overlay)) as colour:
        if grey.size != colour.size:
            grey = grey.resize(colour.size, Image.Resampling.BICUBIC)
        blended = Image.alpha_composite(grey.convert("RGBA"), colour.convert("RGBA"))
    return _png(blended.convert("RGB"))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=_COMPRESSION)
    return stream.getvalue()
