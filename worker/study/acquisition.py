"""An acquisition brought to the depth that a model of volumes declares: its inputs, and from what.

Slices of the input lie ``depth_mm`` apart, or as far as makes them reach from one end of the
acquisition to the other. Where ``depth`` of them do not reach that far there are several inputs, of
parts which overlap, so that every slice is in one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import Unreadable
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.study.crop import Box, field_of, pixel_of
from worker.study.normalise import normalised
from worker.study.notes import Notes
from worker.study.rule import SPACING_MM
from worker.study.seen import Picture, seen
from worker.study.series import Slice
from worker.study.tensors import Stacker, Upright, same_place

__all__ = ["Input", "Prepared", "Read", "depths_mm", "prepared", "weights"]

LOOKED_AT: Final = 9
"""Slices, evenly spread, of which the one with the largest head says where all are cut."""

SAME_PLACE_MM: Final = 0.05

_UNPLACED: Final = "no slice says where it lies, so the volume is that of slices side by side"


@dataclass(frozen=True, slots=True)
class Read:
    """A slice as it was read, or why it cannot be.

    Attributes
    ----------
    picture
        Where one is wanted.
    place_mm
        Along the normal, as the inputs have it.
    shape
        Its rows and columns, upright.
    field
        The part of it that the model is shown.
    fault
        Why it cannot be read; empty where it was, and then place, shape and field are known.
    """

    slice: Slice
    picture: Picture | None = None
    place_mm: float = 0.0
    shape: tuple[int, int] = (0, 0)
    field: Box | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """An input of the model.

    Attributes
    ----------
    tensor
        (depth, rows, columns, channels) float32, 0..1.
    places_mm
        (depth,) float64: where its slices lie along the normal, in the order of the tensor.
    """

    tensor: NDArray[np.float32]
    places_mm: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An acquisition as the model is shown it.

    Attributes
    ----------
    inputs
        One for each part of it; none where no slice can be read.
    pixel_mm
        Rows and columns of an input lie so far apart.
    """

    read: tuple[Read, ...]
    inputs: tuple[Input, ...]
    pixel_mm: tuple[float, float]


def prepared(
    slices: Sequence[Slice | None],
    bundle: Bundle,
    decoder: Decoder,
    notes: Notes | None = None,
    *,
    pictures: bool = False,
) -> Prepared:
    """Return the slices of an acquisition as they were read, and the inputs of the model.

    Parameters
    ----------
    slices
        In the order of the body; None: one that has no part in it, as if it could not be read.
    notes
        Where is noted what the pixels tell; None: nowhere.
    pictures
        Whether those of the slices are wanted, too.
    """
    field = _field(slices, bundle, decoder)
    how = bundle.preparation.model_copy(update={"normalise": "none"})
    stack = Stacker(replace(bundle, preparation=how))
    tensors: list[NDArray[np.float32]] = []
    read: list[Read] = []
    unplaced = False
    for one in seen([one for one in slices if one is not None], decoder):
        if isinstance(one.shown, Unreadable):
            read.append(Read(one.slice, fault=str(one.shown)))
            continue
        assert field is not None  # noqa: S101 - there is a slice that can be read
        if notes is not None:
            notes.add(one.slice, one.shown)
        middle, box = field
        part = same_place(box, middle, one.shown)
        tensors.append(stack([one.shown], part))
        unplaced |= one.slice.position_mm is None
        picture = Picture.of(one.slice, one.shown) if pictures else None
        rows, columns = one.shown.hu.shape
        read.append(Read(one.slice, picture, one.slice.position_mm or 0.0, (rows, columns), part))
    if unplaced:
        if notes is not None:
            notes.doubt(_UNPLACED)
        number = count()
        read = [
            one if one.fault else replace(one, place_mm=next(number) * SPACING_MM) for one in read
        ]
    places_mm = [one.place_mm for one in read if not one.fault]
    return Prepared(tuple(read), _inputs(places_mm, tensors, bundle), _pixel_mm(field, bundle))


def _pixel_mm(field: tuple[Upright, Box] | None, bundle: Bundle) -> tuple[float, float]:
    """Return how far apart rows and columns of the input lie in the patient."""
    if field is None:
        return 1.0, 1.0
    shown, box = field
    side_mm = pixel_of(shown.pixel_mm, shown.hu.shape)
    return side_mm * box.rows / bundle.size[0], side_mm * box.columns / bundle.size[1]


def _field(
    slices: Sequence[Slice | None], bundle: Bundle, decoder: Decoder
) -> tuple[Upright, Box] | None:
    """Return a slice and the part of it that all are cut at; None where none can be read.

    Where the head is looked for it is, of some slices, the one with the largest.
    """
    some = {round(n * (len(slices) - 1) / (LOOKED_AT - 1)) for n in range(LOOKED_AT)}
    for candidates in ([slices[n] for n in sorted(some)], slices):
        found = []
        with closing(seen([one for one in candidates if one is not None], decoder)) as read:
            for one in read:
                if isinstance(one.shown, Unreadable):
                    continue
                field = field_of(one.shown.hu, one.shown.pixel_mm, bundle)
                found.append((one.shown, field))
                if bundle.crop != "head":
                    break
        if found:
            return max(found, key=lambda pair: pair[1].rows * pair[1].columns)
    return None


def _inputs(
    positions_mm: Sequence[float], tensors: Sequence[NDArray[np.float32]], bundle: Bundle
) -> tuple[Input, ...]:
    """Return the inputs of the model, normalised by numbers of all of each."""
    if not tensors or bundle.depth is None:
        return ()
    stack, found = np.stack(tensors), []
    for wanted_mm in depths_mm(positions_mm, bundle.depth, bundle.depth_mm):
        shares = weights(positions_mm, wanted_mm).astype(np.float32)
        volume, places_mm = np.tensordot(shares, stack, axes=1), wanted_mm
        if bundle.preparation.direction == "down":
            volume, places_mm = volume[::-1], wanted_mm[::-1]
        flat = np.ascontiguousarray(volume, np.float32).reshape(-1, *volume.shape[2:])
        tensor = normalised(flat, bundle.preparation).reshape(volume.shape)
        found.append(Input(tensor, places_mm))
    return tuple(found)


def depths_mm(
    positions_mm: Sequence[float], depth: int, depth_mm: float | None
) -> list[NDArray[np.float64]]:
    """Return where the slices of each input lie: (depth,) for each part, in rising order.

    Parameters
    ----------
    positions_mm
        Of the slices of an acquisition, in rising order.
    """
    places = np.unique(np.asarray(positions_mm, np.float64))
    steps = np.diff(places)
    steps = steps[steps > SAME_PLACE_MM]
    step = float(np.median(steps)) if len(steps) else SPACING_MM
    low, high = places[0] - step / 2, places[-1] + step / 2
    if depth_mm is None:
        each = (high - low) / depth
        return [low + (np.arange(depth) + 0.5) * each]
    length = depth * depth_mm
    parts = max(1, math.ceil((high - low) / length - 1e-6))
    middle = (low + high) / 2
    several = np.linspace(low, high - length, parts)
    starts = several if parts > 1 else [middle - length / 2]
    return [start + (np.arange(depth) + 0.5) * depth_mm for start in starts]


def weights(positions_mm: Sequence[float], wanted_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of each slice makes each slice of the input: (wanted, slices).

    Linear between two slices; of thinner ones all that lie within a step are weighed, so that
    none is skipped (what BILINEAR of Pillow does when it reduces). Beyond the ends it is air: all
    weights are 0 there.
    """
    places = np.asarray(positions_mm, np.float64)
    steps = np.diff(np.unique(places))
    steps = steps[steps > SAME_PLACE_MM]
    own = float(np.median(steps)) if len(steps) else SPACING_MM
    step = float(wanted_mm[1] - wanted_mm[0]) if len(wanted_mm) > 1 else own
    found = np.zeros((len(wanted_mm), len(places)))
    for n, at in enumerate(wanted_mm):
        if not places[0] - own / 2 - 1e-6 <= at <= places[-1] + own / 2 + 1e-6:
            continue
        reach = max(step, own, _gap_around(places, at))
        found[n] = np.clip(1 - np.abs(places - at) / reach, 0, None)
        if not found[n].any():  # between the ends and half a step beyond
            found[n, np.abs(places - at).argmin()] = 1
    total = found.sum(axis=1, keepdims=True)
    return np.asarray(found / np.where(total > 0, total, 1))


def _gap_around(places: NDArray[np.float64], at: float) -> float:
    """Return how far apart the slices are between which a place lies."""
    above = int(np.searchsorted(places, at))
    if above in {0, len(places)}:
        return 0.0
    return float(places[above] - places[above - 1])
