"""The slices of a series that lie in one grid: what segmentations and maps are laid over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from limen.errors import NotAnalysable
from worker.dicom.decoder import Header
from worker.objects.source import Slice, Source, is_many

__all__ = ["Laid", "Stack", "stacks"]

_Key = tuple[object, ...]


class Laid(Protocol):
    """What is laid over a slice: the evidence of an explanation, or what a model has marked."""

    @property
    def slice(self) -> Slice:
        """The slice that it is of."""

    @property
    def label(self) -> str:
        """The finding that it is of."""

    @property
    def weights(self) -> NDArray[np.float32]:
        """(rows, columns), in the pixels of the instance; 0 where it says nothing."""


L = TypeVar("L", bound=Laid)


@dataclass(frozen=True, slots=True)
class Stack(Generic[L]):
    """All slices of one grid, and what is explained or marked of them.

    Attributes
    ----------
    images
        The instances, from the lowest position up; one of several frames is the only one.
    planes
        SOP Instance UID and frame of each slice, in the order of ``images``.
    """

    images: tuple[Dataset, ...]
    planes: tuple[tuple[str, int], ...]
    evidence: tuple[L, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.planes), int(self.images[0].Rows), int(self.images[0].Columns)

    def filled(self, dtype: Any, of: Any) -> NDArray[Any]:
        """Return (slices, rows, columns): what ``of`` makes of each weight, 0 elsewhere."""
        found = np.zeros(self.shape, dtype)
        places = {plane: n for n, plane in enumerate(self.planes)}
        for one in reversed(self.evidence):
            # Of two slices at one place a grid has room for the more probable one.
            place = places.get((one.slice.image.sop_uid, one.slice.image.frame))
            if place is not None:
                found[place] = of(one.weights)
        return found


def stacks(evidence: Sequence[L], source: Source) -> list[Stack[L]]:
    """Return the grids that the explained slices lie in, in the order of the explanations.

    What is explained of another finding lies in a grid of its own.

    Raises
    ------
    NotAnalysable
        It is not known where an explained slice lies.
    """
    found: dict[_Key, list[L]] = {}
    for one in evidence:
        frame = one.slice.frame
        if None in (frame.position_mm, frame.orientation, frame.spacing_mm):
            raise NotAnalysable("its slices do not say where they lie")
        if not one.slice.header.frame_of_reference_uid:
            raise NotAnalysable("its slices name no frame of reference")
        key = (one.label, *_key(one.slice.header))
        found.setdefault(key, []).append(one)
    return [_stack(key[1:], members, source) for key, members in found.items()]


def _key(header: Header) -> _Key:
    frame = header.frames[0]
    turns = tuple(round(x, 4) for axis in frame.orientation or () for x in axis)
    return (
        *(header.series_uid, header.frame_of_reference_uid, header.sop_class_uid),
        *(header.rows, header.columns, frame.spacing_mm, turns),
        header.sop_uid if is_many(header) else "",
    )


def _stack(key: _Key, evidence: Sequence[L], source: Source) -> Stack[L]:
    headers = [h for h in source.certain() if _key(h) == key]
    if is_many(headers[0]):
        header = headers[0]
        planes = tuple((header.sop_uid, frame.number) for frame in header.frames)
        return Stack((source.data_set(header),), planes, tuple(evidence))
    ordered = _in_order(headers, {one.slice.image.sop_uid for one in evidence})
    return Stack(
        tuple(source.data_set(header) for header in ordered),
        tuple((header.sop_uid, 1) for header in ordered),
        tuple(evidence),
    )


def _in_order(headers: Iterable[Header], explained: set[str]) -> list[Header]:
    """Return one instance for each place, from the lowest up; an explained one rather."""
    first: dict[float, Header] = {}
    for header in sorted(headers, key=lambda h: (h.sop_uid not in explained, h.sop_uid)):
        along_mm = header.frames[0].along_mm
        if along_mm is not None:
            first.setdefault(round(along_mm, 3), header)
    return [first[place] for place in sorted(first)]
