"""What a segmentation marks: areas of slices, and the volume that they make of the patient."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.bundles.bundle import Bundle, Sought
from worker.study import render
from worker.study.crop import Box, pixel_of
from worker.study.notes import Notes
from worker.study.outcome import is_marked
from worker.study.rule import SPACING_MM, Answer
from worker.study.seen import DECIMALS, Told
from worker.study.series import Slice
from worker.study.tasks.each_slice import Asked
from worker.study.volume import Slab, slabs_mm, volume_ml

__all__ = ["Marks"]

_AREA_DECIMALS: Final = 2
_VOLUME_DECIMALS: Final = 3
_UNPLACED: Final = "no slice says where it lies, so the volume is that of slices side by side"


@dataclass(frozen=True, slots=True)
class _Marked:
    """What is marked in a slice: square millimetres and the highest probability, by finding.

    None where the slice was not analysed.
    """

    slice: Slice
    areas_mm2: dict[str, float] | None
    highest: dict[str, float]


class Marks:
    """Reads the answers of a segmentation; see ``worker.study.tasks.each_slice.Reading``."""

    def __init__(self, bundle: Bundle, notes: Notes) -> None:
        self._bundle = bundle
        self._notes = notes
        self._parts: dict[tuple[str, int, int], list[_Marked]] = defaultdict(list)

    def of_slice(self, asked: Asked, answer: NDArray[np.float32]) -> Told:
        """Mark each pixel that is probable enough, where the slice is; what pads it is no pixel.

        Parameters
        ----------
        answer
            (rows, columns, outputs) float32, 0..1, of the part that the model was shown.
        """
        assert asked.field is not None  # noqa: S101 - it is a segmentation
        inside = _inside(asked.field, asked.shape, self._bundle.size)
        pixel_mm = pixel_of(asked.pixel_mm, asked.shape)
        rows, columns = self._bundle.size
        each_mm2 = asked.field.rows * asked.field.columns / (rows * columns) * pixel_mm**2
        areas, masks = {}, []
        for sought in self._bundle.sought:
            mask = (answer[..., sought.index] >= sought.threshold) & inside
            area_mm2 = float(mask.sum()) * each_mm2
            areas[sought.name] = round(area_mm2, _AREA_DECIMALS)
            masks.append(mask if is_marked(areas, sought) else np.zeros_like(mask))
        shown = np.where(inside[..., None], answer, 0).reshape(-1, answer.shape[-1]).max(axis=0)
        told = [round(float(p), DECIMALS) for p in shown]
        highest = dict(zip(self._bundle.label_names, told, strict=False))
        self._note(_Marked(asked.slice, areas, highest))
        positive = any(mask.any() for mask in masks)
        overlay = render.marks_png(masks, asked.shape, asked.field) if positive else None
        return Told(highest, positive, areas, overlay)

    def without(self, one: Slice) -> None:
        """See ``Reading``."""
        self._note(_Marked(one, None, {}))

    def of_study(self) -> tuple[Answer, ...]:
        """Return the volume of each finding, by the true distances of the slices."""
        marked = [one for part in self._parts.values() for one in part if one.areas_mm2 is not None]
        if not marked:
            return ()
        return tuple(
            Answer(
                sought,
                max(one.highest[sought.name] for one in marked),
                volume_ml=round(volume_ml(self._slabs(sought)), _VOLUME_DECIMALS),
            )
            for sought in self._bundle.sought
        )

    def _note(self, one: _Marked) -> None:
        where = one.slice
        self._parts[where.header.series_uid, where.part, where.stretch].append(one)
        if where.position_mm is None:
            self._notes.doubt(_UNPLACED)

    def _slabs(self, sought: Sought) -> list[Slab]:
        """Return what is marked of a finding, slice by slice.

        A slice that was not analysed keeps its place: its neighbours do not stand for it.
        """
        found = []
        for part in self._parts.values():
            edges = _edges(part)
            for one, (low, high) in zip(part, edges, strict=True):
                areas_mm2 = one.areas_mm2 or {}
                if is_marked(areas_mm2, sought):
                    frame = one.slice.header.frame_of_reference_uid
                    found.append(Slab(frame, low, high, areas_mm2[sought.name]))
        return found


def _edges(part: list[_Marked]) -> list[tuple[float, float]]:
    """Return from where to where each slice of a stretch reaches.

    Where none says where it lies, they follow each other as they are thick.
    """
    thick = next((t for one in part if (t := _thickness_mm(one.slice))), SPACING_MM)
    places = [one.slice.position_mm for one in part]
    if any(at is None for at in places):
        return [(n * thick, (n + 1) * thick) for n in range(len(part))]
    return slabs_mm([at for at in places if at is not None], thick)


def _thickness_mm(one: Slice) -> float:
    frame = one.header.frames[one.frame - 1]
    return frame.thickness_mm or 0.0


def _inside(field: Box, shape: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of the model's input lie in the slice, by their middle."""

    def of_axis(first: int, length: int, count: int, given: int) -> NDArray[np.bool_]:
        at = first + (np.arange(count) + 0.5) * length / count
        return np.asarray((at >= 0) & (at < given))

    rows = of_axis(field.top, field.rows, size[0], shape[0])
    columns = of_axis(field.left, field.columns, size[1], shape[1])
    return np.asarray(rows[:, None] & columns)
