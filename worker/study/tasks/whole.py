"""A model that is asked about all slices of an acquisition at once, brought to a declared depth.

Slices of the input lie ``depth_mm`` apart, or as far as makes them reach from one end of the
acquisition to the other. Where ``depth`` of them do not reach that far, the model is asked about
several parts, which overlap, so that every slice is in one of them; the highest answer counts.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import Permanent, Unreadable
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine, Lane
from worker.study.crop import Box, field_of
from worker.study.normalise import normalised
from worker.study.notes import Notes
from worker.study.rule import SPACING_MM, Answer
from worker.study.seen import DECIMALS, Picture, Told, image_of, seen
from worker.study.series import Slice
from worker.study.tasks import Looked
from worker.study.tensors import Stacker, Upright, same_place

__all__ = ["Whole", "depths_mm", "weights"]

LOOKED_AT: Final = 9
"""Slices, evenly spread, of which the one with the largest head says where all are cut."""

SAME_PLACE_MM: Final = 0.05

_UNPLACED: Final = "no slice says where it lies, so the volume is that of slices side by side"


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
    count = max(1, math.ceil((high - low) / length - 1e-6))
    middle = (low + high) / 2
    several = np.linspace(low, high - length, count)
    starts = several if count > 1 else [middle - length / 2]
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


class Whole:
    """Asks the model about volumes; see ``worker.study.tasks.Task``."""

    def __init__(self, bundle: Bundle, decoder: Decoder, engine: Engine, notes: Notes) -> None:
        self._bundle = bundle
        self._decoder = decoder
        self._engine = engine
        self._notes = notes
        self._highest: list[NDArray[np.float64]] = []

    def look(self, slices: Sequence[Slice]) -> Generator[Looked, None, None]:
        """See ``Task``: the slices of an acquisition come when the model has answered."""
        for _, members in groupby(slices, lambda one: (one.header.series_uid, one.part)):
            yield from self._acquisition(list(members))

    def answers(self) -> tuple[Answer, ...]:
        """See ``Task``: of several acquisitions, and parts of them, the highest answer counts."""
        if not self._highest:
            return ()
        highest = np.stack(self._highest).max(axis=0)
        return tuple(
            Answer(sought, round(float(highest[sought.index]), DECIMALS))
            for sought in self._bundle.sought
        )

    def _acquisition(self, slices: list[Slice]) -> Iterator[Looked]:
        read, volumes = prepared(slices, self._bundle, self._decoder, self._notes)
        failed = self._asked(volumes)
        for one, picture, why in read:
            yield Looked(*image_of(one, picture, why or failed or Told({})))

    def _asked(self, volumes: Sequence[NDArray[np.float32]]) -> str:
        """Ask the model about an acquisition; return why it says nothing, or an empty text."""
        if not volumes:
            return "no slice of it can be read"
        asked: list[Future[NDArray[np.float32]]] = []
        try:
            for volume in volumes:
                asked.append(self._engine.submit(volume[np.newaxis], Lane.PREDICT))  # noqa: PERF401
            rows = [np.asarray(self._engine.answer(one)[0], np.float64) for one in asked]
        except Permanent as exc:
            return str(exc)
        finally:
            for one in asked:
                one.cancel()
        self._highest += rows
        return ""


Read = tuple[Slice, Picture | None, str]
"""A slice with its picture, or why it cannot be read."""


def prepared(
    slices: Sequence[Slice], bundle: Bundle, decoder: Decoder, notes: Notes
) -> tuple[list[Read], list[NDArray[np.float32]]]:
    """Return the slices of an acquisition as they were read, and the inputs of the model.

    Returns
    -------
    tuple
        A list of ``Read``, and one of (depth, rows, columns, channels) float32, 0..1; none where
        no slice can be read.
    """
    field = _field(slices, bundle, decoder)
    how = bundle.preparation.model_copy(update={"normalise": "none"})
    stack = Stacker(replace(bundle, preparation=how))
    tensors: list[NDArray[np.float32]] = []
    places: list[float | None] = []
    read: list[Read] = []
    for one in seen(slices, decoder):
        if isinstance(one.shown, Unreadable):
            read.append((one.slice, None, str(one.shown)))
            continue
        assert field is not None  # noqa: S101 - there is a slice that can be read
        notes.add(one.slice, one.shown)
        middle, box = field
        tensors.append(stack([one.shown], same_place(box, middle, one.shown)))
        places.append(one.slice.position_mm)
        read.append((one.slice, Picture.of(one.slice, one.shown), ""))
    if any(at is None for at in places):
        notes.doubt(_UNPLACED)
        places = [n * SPACING_MM for n in range(len(places))]
    given_mm = [at for at in places if at is not None]
    return read, _volumes(given_mm, tensors, bundle)


def _field(slices: Sequence[Slice], bundle: Bundle, decoder: Decoder) -> tuple[Upright, Box] | None:
    """Return a slice and the part of it that all are cut at; None where none can be read.

    Where the head is looked for it is, of some slices, the one with the largest.
    """
    some = {round(n * (len(slices) - 1) / (LOOKED_AT - 1)) for n in range(LOOKED_AT)}
    for candidates in ([slices[n] for n in sorted(some)], slices):
        found = []
        with closing(seen(candidates, decoder)) as read:
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


def _volumes(
    positions_mm: Sequence[float], tensors: Sequence[NDArray[np.float32]], bundle: Bundle
) -> list[NDArray[np.float32]]:
    """Return the inputs of the model, normalised by numbers of all of each."""
    if not tensors or bundle.depth is None:
        return []
    stack, found = np.stack(tensors), []
    for wanted_mm in depths_mm(positions_mm, bundle.depth, bundle.depth_mm):
        shares = weights(positions_mm, wanted_mm).astype(np.float32)
        volume = np.tensordot(shares, stack, axes=1)
        if bundle.preparation.direction == "down":
            volume = volume[::-1]
        flat = np.ascontiguousarray(volume, np.float32).reshape(-1, *volume.shape[2:])
        found.append(normalised(flat, bundle.preparation).reshape(volume.shape))
    return found
