"""Which part of a slice the model is shown: all of it, or the head, at a scale of its own.

The part may reach over the edge of the picture; there it is air.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.bundles.preparation import Preparation
from worker.dicom.hounsfield import AIR_HU

__all__ = [
    "ASSUMED_MM",
    "Box",
    "View",
    "field_of",
    "head_box",
    "head_in",
    "is_known",
    "pixel_of",
    "reaches_beyond",
]

Mask = NDArray[np.bool_]

BODY_HU: Final = -250.0
"""Skin and fat are denser, foam and the cloth of a head rest are not."""

LOOK_MM: Final = 2.0
"""The head is looked for on pixels of about that side."""

THIN_MM: Final = 5.0
"""Half the width of what does not count: the shell of a head rest, a tube, the bridge to it."""

BEYOND_MM: Final = 5.0
"""So much of a head may lie outside of what a model is shown."""

ASSUMED_MM: Final = 240.0
"""Longer side of a slice that does not say how large it is: the usual one of a head CT."""

FIELD_MM: Final = (50.0, 1000.0)
"""Shortest and longest side that a slice can have; what says else is not believed."""

MAX_PIXELS: Final = 1 << 24
"""A part with more of them (and four times those of the slice) is thinned when it is cut."""


class View(Protocol):
    """What of a slice the model wants: a ``Bundle``, or the same facts from a trainer."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the model's input."""

    @property
    def crop(self) -> str:
        """``none``, ``head`` or ``centre``."""

    @property
    def spacing_mm(self) -> float | None:
        """Side of a pixel of the model's input; None where that follows from the part."""

    @property
    def preparation(self) -> Preparation:
        """How a part becomes channels."""


class Box(NamedTuple):
    """A part of a slice, in pixels of the slice; it may lie partly or wholly outside."""

    top: int
    left: int
    rows: int
    columns: int

    @property
    def middle(self) -> tuple[float, float]:
        """Row and column of the middle."""
        return self.top + self.rows / 2, self.left + self.columns / 2

    def cut(
        self, pixels: NDArray[np.float32], fill: float | Literal["edge"] = AIR_HU
    ) -> NDArray[np.float32]:
        """Return (rows, columns) float32: this part of a slice, ``fill`` outside of it.

        ``edge``: what is outside has the value of the nearest pixel inside.

        Where that would be far more than the slice has, every n-th pixel of it: a slice whose
        pixels are wrongly said to be tiny takes no more memory than a large one.
        """
        step = int(np.ceil(np.sqrt(self.rows * self.columns / max(MAX_PIXELS, 4 * pixels.size))))
        if step > 1:
            return Box(*(n // step for n in self)).cut(pixels[::step, ::step], fill)
        if self == (0, 0, *pixels.shape):
            return pixels
        if fill == "edge":
            rows = np.clip(np.arange(self.top, self.top + self.rows), 0, pixels.shape[0] - 1)
            columns = np.clip(
                np.arange(self.left, self.left + self.columns), 0, pixels.shape[1] - 1
            )
            return pixels[rows[:, None], columns]
        found = np.full((self.rows, self.columns), fill, np.float32)
        top, bottom = max(self.top, 0), min(self.top + self.rows, pixels.shape[0])
        left, right = max(self.left, 0), min(self.left + self.columns, pixels.shape[1])
        if bottom > top and right > left:
            inside = found[top - self.top : bottom - self.top, left - self.left : right - self.left]
            inside[:] = pixels[top:bottom, left:right]
        return found

    def padded(self, size: tuple[int, int]) -> Box:
        """Return the smallest box around this one with the aspect ratio of ``size``."""
        scale = max(self.rows / size[0], self.columns / size[1])
        rows = max(round(size[0] * scale), self.rows)
        columns = max(round(size[1] * scale), self.columns)
        top, left = self.top - (rows - self.rows) // 2, self.left - (columns - self.columns) // 2
        return Box(top, left, rows, columns)

    def middle_of(self, size: tuple[int, int], share: float) -> Box:
        """Return so much of the largest box inside this one with the aspect ratio of ``size``."""
        scale = min(self.rows / size[0], self.columns / size[1]) * share
        rows, columns = (max(1, round(n * scale)) for n in size)
        top, left = self.top + (self.rows - rows) // 2, self.left + (self.columns - columns) // 2
        return Box(top, left, rows, columns)


def field_of(hu: NDArray[np.float32], pixel_mm: float | None, view: View) -> Box:
    """Return the part of a slice that becomes the model's input.

    ``crop = "head"`` centres it on the head, ``"none"`` on the slice. With ``spacing_mm`` it
    is ``size * spacing_mm`` large; else it is the head, or the slice, padded to the aspect ratio
    of ``size`` unless it is stretched. Where there is no head, the slice takes its place.
    ``"centre"`` is ``share`` of the largest part of the slice with that aspect ratio.

    Parameters
    ----------
    hu
        (rows, columns) float32, HU, of square pixels.
    pixel_mm
        Side of a pixel; see ``pixel_of`` for one that is not known.
    """
    whole = Box(0, 0, hu.shape[0], hu.shape[1])
    if view.crop == "centre":
        return whole.middle_of(view.size, view.preparation.share)
    side_mm = pixel_of(pixel_mm, hu.shape)
    thing = (head_box(hu, side_mm) if view.crop == "head" else None) or whole
    if view.spacing_mm is not None:
        row, column = thing.middle
        rows, columns = (max(1, round(n * view.spacing_mm / side_mm)) for n in view.size)
        thing = Box(round(row - rows / 2), round(column - columns / 2), rows, columns)
    return thing if view.preparation.fit == "stretch" else thing.padded(view.size)


def reaches_beyond(hu: NDArray[np.float32], pixel_mm: float | None, view: View) -> bool:
    """Return whether the head of a slice reaches beyond the part that ``field_of`` says.

    By more than ``BEYOND_MM``: the skin of an ear is no loss.
    """
    side_mm = pixel_of(pixel_mm, hu.shape)
    head = head_box(hu, side_mm)
    if head is None:
        return False
    part, allowed = field_of(hu, pixel_mm, view), BEYOND_MM / side_mm
    return (
        min(head.top - part.top, head.left - part.left) < -allowed
        or head.top + head.rows - part.top - part.rows > allowed
        or head.left + head.columns - part.left - part.columns > allowed
    )


def is_known(pixel_mm: float | None, shape: tuple[int, ...]) -> bool:
    """Return True where the side of a pixel is there and makes a slice of a possible size."""
    return pixel_mm is not None and FIELD_MM[0] <= pixel_mm * max(shape) <= FIELD_MM[1]


def pixel_of(pixel_mm: float | None, shape: tuple[int, ...]) -> float:
    """Return the side of a pixel; where it is not known, that of a slice of the usual size."""
    if pixel_mm is not None and is_known(pixel_mm, shape):
        return pixel_mm
    return ASSUMED_MM / max(shape)


def head_box(hu: NDArray[np.float32], pixel_mm: float) -> Box | None:
    """Return the box of the largest thing of the body in a slice; None where there is none.

    Thin things are opened away first, so that a head rest, and what lies on it, is no part of
    the head. The box is exact to ``LOOK_MM``.

    Parameters
    ----------
    hu
        (rows, columns) float32, HU.
    """
    head, step = _head(hu, pixel_mm)
    if not head.any():
        return None
    ((rows, columns),) = ndimage.find_objects(head.astype(np.int8))
    return Box(
        rows.start * step,
        columns.start * step,
        (rows.stop - rows.start) * step,
        (columns.stop - columns.start) * step,
    )


def head_in(box: Box, hu: NDArray[np.float32], pixel_mm: float, size: tuple[int, int]) -> Mask:
    """Return (rows, columns) bool of ``size``: which pixels of a part of a slice are of the head.

    As ``head_box`` finds it, its cavities filled; each pixel of ``size`` is what lies in its
    middle, and outside of the slice is no head.
    """
    head, step = _head(hu, pixel_mm)
    filled = ndimage.binary_fill_holes(head)
    inside = []
    for n, first, length, given in zip(
        size, (box.top, box.left), (box.rows, box.columns), hu.shape, strict=True
    ):
        place = np.floor(first + (np.arange(n) + 0.5) * length / n).astype(int)
        inside.append((np.clip(place, 0, given - 1) // step, (place >= 0) & (place < given)))
    (rows, known_rows), (columns, known_columns) = inside
    found: Mask = filled[rows[:, None], columns] & known_rows[:, None] & known_columns
    return found


def _head(hu: NDArray[np.float32], pixel_mm: float) -> tuple[Mask, int]:
    """Return the largest thing of the body on every n-th pixel (bool, all False: none), and n."""
    step = max(1, round(LOOK_MM / pixel_mm))
    times = max(1, round(THIN_MM / (pixel_mm * step)))
    body = ndimage.binary_opening(hu[::step, ::step] > BODY_HU, iterations=times)
    parts, count = ndimage.label(body)
    if not count:
        return np.zeros(body.shape, bool), step
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax(), step
