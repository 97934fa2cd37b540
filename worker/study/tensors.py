"""From Hounsfield units to the model's tensor, as the patient lies and not as the file does."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.dicom.headers import Frame
from worker.dicom.hounsfield import AIR_HU
from worker.study.crop import Box, View, field_of, head_in, pixel_of
from worker.study.normalise import normalised
from worker.study.resize import resized

__all__ = ["TensorInput", "Turn", "Upright", "same_place", "stacked", "to_tensor", "upright"]

SQUARE: Final = 1.005
"""Rows and columns whose distances differ by less are squares."""

MAX_ASPECT: Final = 8.0
"""A spacing that is farther from square is a mistake."""

MAX_PIXELS: Final = 1 << 24
"""Above that the coarser of the two distances is taken."""


@dataclass(frozen=True, slots=True)
class Upright:
    """A slice as people look at it.

    Attributes
    ----------
    hu
        (rows, columns) float32, HU, of square pixels.
    pixel_mm
        Side of a pixel; None where the file does not say.
    oriented
        Whether the right of the patient is at the left and the front at the top; False where
        the file does not say how it lies.
    """

    hu: NDArray[np.float32]
    pixel_mm: float | None
    oriented: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """The way from the rows and columns of a file to those that people look at.

    Attributes
    ----------
    swapped
        Whether its rows become columns, before anything else.
    rows, columns
        1, or -1 where they are mirrored then.
    """

    swapped: bool = False
    rows: int = 1
    columns: int = 1

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Return the turn that the direction cosines ask for; none where there are none."""
        if frame.orientation is None:
            return cls()
        row, column = frame.orientation
        swapped = abs(row[0]) + abs(column[1]) < abs(row[1]) + abs(column[0])
        if swapped:
            row, column = column, row
        return cls(swapped, -1 if column[1] < 0 else 1, -1 if row[0] < 0 else 1)

    def there(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return a slice as stored, turned."""
        turned = stored.T if self.swapped else stored
        return turned[:: self.rows, :: self.columns]

    def back(self, turned: NDArray[Any]) -> NDArray[Any]:
        """Return a turned slice as it is stored."""
        stored = turned[:: self.rows, :: self.columns]
        return stored.T if self.swapped else stored


def upright(hu: NDArray[np.float32], frame: Frame) -> Upright:
    """Return an axial slice in patient orientation with square pixels.

    Turned by whole quarters and mirrored, as the direction cosines say (PS3.3 C.7.6.2.1.1: +x to
    the left of the patient, +y to the back), then resampled to the finer of the two distances
    (PS3.3 10.7.1.3).

    Parameters
    ----------
    hu
        (rows, columns) float32, HU, as stored.
    """
    spacing_mm, turn = frame.spacing_mm, Turn.of(frame)
    if turn.swapped:
        spacing_mm = spacing_mm and (spacing_mm[1], spacing_mm[0])
    square, pixel_mm = _squared(np.ascontiguousarray(turn.there(hu), np.float32), spacing_mm)
    return Upright(square, pixel_mm, frame.orientation is not None)


def _squared(
    hu: NDArray[np.float32], spacing_mm: tuple[float, float] | None
) -> tuple[NDArray[np.float32], float | None]:
    """Return ``hu`` with square pixels, and their side."""
    if spacing_mm is None:
        return hu, None
    fine, coarse = min(spacing_mm), max(spacing_mm)
    if coarse / fine < SQUARE:
        return hu, fine
    if coarse / fine > MAX_ASPECT:
        return hu, None
    side_mm = fine if hu.size * coarse / fine <= MAX_PIXELS else coarse
    rows, columns = (
        max(1, round(n * mm / side_mm)) for n, mm in zip(hu.shape, spacing_mm, strict=True)
    )
    image = Image.fromarray(hu).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32), side_mm


class TensorInput(View, Protocol):
    """What a tensor is made for: a ``Bundle``, or the same facts from a trainer."""

    @property
    def windows(self) -> tuple[tuple[float, float], ...]:
        """Centre and width in HU, one pair for each channel of a slice."""

    @property
    def neighbours(self) -> int:
        """How many slices on each side are further channels."""


def to_tensor(
    hu: NDArray[np.float32], bundle: TensorInput, pixel_mm: float | None = None
) -> NDArray[np.float32]:
    """Return the model's input for one slice; for its neighbours, the slice itself stands in.

    The part that ``worker.study.crop.field_of`` says, air where that reaches over the edge. Each
    window is clipped and scaled to 0..1 at full resolution, then reduced, by default with an
    antialiasing filter, so that the same slice at any matrix size gives nearly the same tensor.
    What the bundle says of z-scores or percentiles comes last.

    Parameters
    ----------
    hu
        (rows, columns) float32, HU, as ``upright`` returns it.
    pixel_mm
        Side of a pixel; None where it is unknown.

    Returns
    -------
    NDArray[np.float32]
        (rows, columns, channels) float32, 0..1.
    """
    one = Upright(np.asarray(hu, np.float32), pixel_mm, oriented=False)
    return stacked([one] * (2 * bundle.neighbours + 1), bundle)


def stacked(slices: Sequence[Upright], bundle: TensorInput) -> NDArray[np.float32]:
    """Return the model's input for a slice and its neighbours.

    All are cut at the place of the one in the middle, so that a channel lies over the other.

    Parameters
    ----------
    slices
        ``2 * neighbours + 1`` slices from the feet to the head; see ``worker.study.neighbours``.

    Returns
    -------
    NDArray[np.float32]
        (rows, columns, channels) float32, 0..1: slice by slice, each with all its windows, from
        the feet to the head unless the bundle says otherwise.
    """
    return Stacker(bundle)(slices)


_Channels = tuple[list[NDArray[np.float32]], NDArray[np.bool_] | None]
"""The windows of a slice, and which of its pixels are of the head where that is asked."""


class Stacker:
    """Makes the inputs of slices that follow each other, as ``stacked`` does.

    A slice is a neighbour of several: as long as it is cut at the same place, its channels are
    made once. No more of them are kept than one input has.
    """

    def __init__(self, bundle: TensorInput) -> None:
        self._bundle = bundle
        self._made: deque[tuple[Upright, Box, _Channels]] = deque(maxlen=2 * bundle.neighbours + 1)

    def __call__(self, slices: Sequence[Upright], field: Box | None = None) -> NDArray[np.float32]:
        """Return (rows, columns, channels) float32, 0..1; see ``stacked``.

        Parameters
        ----------
        field
            The part of the slice in the middle; None: what ``field_of`` says.
        """
        middle = slices[len(slices) // 2]
        if field is None:
            field = field_of(middle.hu, middle.pixel_mm, self._bundle)
        made = [self._channels(one, same_place(field, middle, one)) for one in slices]
        if self._bundle.preparation.direction == "down":
            made.reverse()
        tensor = np.stack([channel for channels, _ in made for channel in channels], axis=-1)
        heads = [head for channels, head in made if head is not None for _ in channels]
        how = self._bundle.preparation
        return normalised(tensor, how, np.stack(heads, axis=-1) if heads else None)

    def _channels(self, one: Upright, box: Box) -> _Channels:
        for known, place, channels in self._made:
            if known is one and place == box:
                return channels
        size, how = self._bundle.size, self._bundle.preparation
        part = box.cut(one.hu, AIR_HU if how.padding == "air" else how.padding)
        windowed = [resized(_window(part, *w), size, how.resize) for w in self._bundle.windows]
        head = None
        if how.normalise != "none" and how.over == "head":
            head = head_in(box, one.hu, pixel_of(one.pixel_mm, one.hu.shape), size)
        self._made.append((one, box, (windowed, head)))
        return windowed, head


def same_place(field: Box, of: Upright, on: Upright) -> Box:
    """Return where a part of one slice lies on another of its stack, middle on middle."""
    scale = pixel_of(of.pixel_mm, of.hu.shape) / pixel_of(on.pixel_mm, on.hu.shape)
    if of.hu.shape == on.hu.shape and scale == 1:
        return field
    rows, columns = max(1, round(field.rows * scale)), max(1, round(field.columns * scale))
    row, column = (
        b / 2 + (at - a / 2) * scale
        for at, a, b in zip(field.middle, of.hu.shape, on.hu.shape, strict=True)
    )
    return Box(round(row - rows / 2), round(column - columns / 2), rows, columns)


def _window(hu: NDArray[np.float32], centre_hu: float, width_hu: float) -> NDArray[np.float32]:
    """Return ``hu`` with the window mapped to 0..1 and clipped."""
    scaled = hu - np.float32(centre_hu - width_hu / 2)
    scaled /= np.float32(width_hu)
    windowed: NDArray[np.float32] = np.clip(scaled, 0, 1, out=scaled)
    return windowed
