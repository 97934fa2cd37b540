"""The explanation of a model that sees a volume at once: LIME on supervoxels, shown in slices.

One linear model is fitted to all of the volume that the model answered highest to. What people and
objects get of it are slices, each with what of the supervoxels lies in it: those that the finding
rests on, spread over it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import NotAnalysable, Unreadable
from limen.result import Explanation, Image, Result
from limen.telemetry import METRICS
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Explain
from worker.dicom.decoder import Decoder
from worker.lime import explain
from worker.lime.explain import SliceExplanation
from worker.lime.occlusion import STRONG
from worker.serving.engine import Engine, Lane
from worker.study import render, spread
from worker.study.acquisition import Input, Prepared, prepared
from worker.study.entry import entry
from worker.study.parts import Places, path_of
from worker.study.rule import SPACING_MM
from worker.study.series import Slice

__all__ = ["Cut", "explained"]

TIMES_THE_PARTS: Final = 2
"""A volume is cut into so many times the parts of a slice, and into no more than half of its
samples: then each is hidden by itself, too."""

Tensor = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """A slice that shows the explanation.

    Attributes
    ----------
    overlay
        What lies in it: a picture over the whole slice (PNG).
    """

    image: Image
    explanation: Explanation
    overlay: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Highest:
    """The acquisition that the model answered highest to, and which of its inputs that was.

    Attributes
    ----------
    images
        Those that were judged.
    slices
        All of it; None is one that was not.
    """

    images: Sequence[Image]
    slices: Sequence[Slice | None]
    made: Prepared
    number: int

    @property
    def input(self) -> Input:
        return self.made.inputs[self.number]


def explained(
    prediction: Result,
    places: Places,
    decoder: Decoder,
    engine: Engine,
    bundle: Bundle,
    wanted: Explain,
    seed: int,
) -> list[Cut]:
    """Explain the worst finding of a study whose model saw its slices at once.

    Parameters
    ----------
    prediction
        Names the slices that were judged; it has a finding.
    places
        Where their instances are.
    wanted
        ``max_explained`` is how many slices show it, at most.

    Returns
    -------
    list of Cut
        Of one explanation, the slice with the most of what the finding rests on first.

    Raises
    ------
    Permanent
        A slice that was judged cannot be read any more, or there is nothing to explain.
    Transient
        The engine is full or does not answer, or the decoder is gone.
    """
    assert prediction.finding is not None  # noqa: S101 - else nothing is to be explained
    label = prediction.finding.label
    column = bundle.label_names.index(label)

    def answers(batch: Tensor) -> Tensor:
        return engine.answer(engine.submit(batch, Lane.EXPLAIN))

    began_s = time.monotonic()
    best = _highest(prediction, places, decoder, bundle, lambda one: answers(one)[0, column])
    settings = explain.Settings(
        explain.Mode(wanted.mode),
        wanted.samples,
        min(TIMES_THE_PARTS * wanted.superpixels, wanted.samples // 2),
        seed,
        voxel_mm=(_step_mm(best.input), *best.made.pixel_mm),
    )
    picture = _picture(best, bundle, decoder)
    found = explain.explain(best.input.tensor, answers, column, settings, picture)
    METRICS.lime_seconds.observe(time.monotonic() - began_s)
    return list(_cuts(found, best, label, wanted.max_explained))


def _highest(
    prediction: Result,
    places: Places,
    decoder: Decoder,
    bundle: Bundle,
    ask: Callable[[Tensor], float],
) -> _Highest:
    """Return what the study was called by; of equals the first."""
    highest, best = -1.0, None
    for images in _acquisitions(prediction):
        slices = _slices(images, places, decoder)
        judged = [image for image in images if _was_judged(image)]
        made = prepared(slices, bundle, decoder)
        for image, one in zip(judged, made.read, strict=True):
            if one.fault:
                raise _lost(image, one.fault)
        for number, one_input in enumerate(made.inputs):
            answer = float(ask(one_input.tensor[np.newaxis]))
            if answer > highest:
                highest, best = answer, _Highest(judged, slices, made, number)
    if best is None:
        raise NotAnalysable("no slice of it can be read")
    return best


def _acquisitions(prediction: Result) -> Iterator[list[Image]]:
    """Yield the slices of each acquisition in their order, as they were judged together.

    What is listed beyond them was not among them.
    """
    counts = {(s.series_uid, s.part): s.slices for s in prediction.series}

    def part(image: Image) -> tuple[str, int]:
        return image.series_uid or "", image.part

    for key, listed in groupby(sorted(prediction.images, key=lambda i: (part(i), i.index)), part):
        images = list(listed)
        yield images[: counts.get(key) or len(images)]


def _slices(images: Sequence[Image], places: Places, decoder: Decoder) -> list[Slice | None]:
    """Return the slices of an acquisition; None is one that was not judged, whatever it is now."""
    there: dict[int, Path] = {}
    for image in filter(_was_judged, images):
        try:
            there[image.index] = path_of(places.get((image.sop_uid, image.copy)))
        except Unreadable as exc:
            raise _lost(image, str(exc)) from exc
    known = list(dict.fromkeys(there.values()))
    headers = dict(zip(known, decoder.headers(known), strict=True))
    found: list[Slice | None] = []
    for image in images:
        if not _was_judged(image):
            found.append(None)
            continue
        header = headers[there[image.index]]
        if isinstance(header, Unreadable):
            raise _lost(image, str(header))
        place = (image.position_mm, image.part, image.copy, image.stretch)
        found.append(Slice(header, image.frame, image.index, *place))
    return found


def _was_judged(image: Image) -> bool:
    """Return whether a slice was part of what the model answered to."""
    return image.probability is not None


def _lost(image: Image, why: str) -> Unreadable:
    return Unreadable(f"slice {image.index + 1} cannot be read any more: {why}")


def _picture(best: _Highest, bundle: Bundle, decoder: Decoder) -> Tensor | None:
    """Return the volume as people see it, where the model is shown something else."""
    plain = bundle.as_pictured
    if plain.preparation == bundle.preparation:
        return None
    return prepared(best.slices, plain, decoder).inputs[best.number].tensor


def _step_mm(one: Input) -> float:
    """Return how far apart the slices of an input are."""
    if len(one.places_mm) < 2:
        return SPACING_MM
    return abs(float(one.places_mm[1] - one.places_mm[0]))


def _cuts(found: SliceExplanation, best: _Highest, label: str, most: int) -> Iterator[Cut]:
    """Yield the slices that show the explanation, at most so many."""
    named = _named(found.weights)
    areas = [_area_px(found, number) for number in range(len(found.segments))]
    numbers = _numbers(best)
    worth = {place: float(areas[number] @ named) for place, number in numbers.items()}
    ranked = sorted((place for place in worth if worth[place] > 0), key=lambda p: (-worth[p], p))
    places = {best.images[place].index: place for place in ranked}
    for image in spread.apart([best.images[place] for place in ranked], most):
        place = places[image.index]
        one, number = best.made.read[place], numbers[place]
        overlay = render.overlay_png(found.segments[number], found.weights, one.shape, one.field)
        yield Cut(image, entry(image, label, found, areas[number]), overlay)


def _named(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights that make a slice worth showing, 0 elsewhere.

    Those that LIME names (``worker.lime.occlusion``); where nothing speaks for the finding, what
    speaks against it.
    """
    says = weights if weights.max() > 0 else -weights
    return np.where(says >= STRONG * says.max(), says, 0)


def _numbers(best: _Highest) -> dict[int, int]:
    """Return place in the acquisition -> number in the input, of slices that lie nearest.

    Of thin slices not each has one of the input to itself: the nearest has it.
    """
    nearest: dict[int, tuple[float, int]] = {}
    for place, one in enumerate(best.made.read):
        if not one.fault:
            apart_mm = np.abs(best.input.places_mm - one.place_mm)
            number = int(apart_mm.argmin())
            lies = (float(apart_mm[number]), place)
            nearest[number] = min(nearest.get(number, lies), lies)
    return {place: number for number, (_, place) in nearest.items()}


def _area_px(found: SliceExplanation, number: int) -> NDArray[np.int64]:
    """Return (supervoxels,) int64: what each covers of a slice of the volume."""
    count = len(found.weights)
    return np.bincount(found.segments[number].ravel(), minlength=count)[:count]
