"""From the finding of a study to its explanation: LIME on positive slices all over the finding.

Where none is positive, but the study is, or its model disagrees with itself, that is the highest.
A model that sees a volume at once has one explanation for all of it (``explained_volume``).

Pure, as ``worker.study.prediction``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen import config
from limen.errors import Permanent, Unreadable
from limen.result import SCHEMA_VERSION, Explanation, Image, Phase, Result, Task, margin
from limen.telemetry import METRICS
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Explain
from worker.dicom.decoder import Decoder, Header
from worker.lime import explain
from worker.serving.engine import Engine, Lane
from worker.study import explained_volume, identity, neighbours, render, rule, spread
from worker.study.crop import field_of
from worker.study.entry import entry
from worker.study.inputs import Inputs, inputs_of
from worker.study.parts import Instance, Places, Progress, Stamp, StudyOutput, path_of
from worker.study.tensors import Upright, stacked, upright

__all__ = ["explain_study", "not_explained"]

EXPLAINED_AT_ONCE: Final = 2
"""While one slice is cut, or its weights are solved for, the engine has the samples of another."""

_NONE_WANTED: Final = "no slice is explained (max_explained = 0)"

_Outcome = tuple[Explanation, bytes] | Permanent
_Steps = Generator[NDArray[np.float32], NDArray[np.float32], tuple[Explanation, bytes]]


def not_explained(prediction: Result, reason: str, stamp: Stamp) -> StudyOutput:
    """Return the explanation document of a study whose explanation failed altogether."""
    result = replace(
        prediction,
        phase=Phase.EXPLANATION,
        reason=f"{prediction.reason}; {reason}",
        timings=stamp.timings,
        provenance=stamp.provenance,
        schema=SCHEMA_VERSION,
    )
    return StudyOutput(result, {})


def explain_study(  # noqa: PLR0917 - seven different types, nothing to mix up
    prediction: Result,
    instances: Sequence[Instance],
    decoder: Decoder,
    engine: Engine,
    bundle: Bundle,
    settings: config.Explain,
    stamp: Stamp,
    *,
    progress: Progress | None = None,
) -> StudyOutput:
    """Explain positive slices of a prediction, spread over the finding, the most probable first.

    A positive or undetermined study without such a slice has its highest one explained. A volume is
    explained as a whole, and slices all over what the finding rests on show it.

    A slice whose explanation fails says so in its ``reason``; the others go on. Where no slice
    is to be explained, or a volume cannot be, the reason of the document says so.

    Parameters
    ----------
    prediction
        The prediction document of the same study revision.
    instances
        Where its instances are.

    Returns
    -------
    StudyOutput
        The prediction document in phase ``explanation``; ``files`` holds the
        overlays only.

    Raises
    ------
    Transient
        The engine is full or does not answer, or the decoder is gone: try again.
    """
    numbers = identity.copies((i.sop_uid, i.series_uid, i.path) for i in instances)
    places = {(i.sop_uid, numbers[i.path]): i for i in reversed(instances)}
    wanted = bundle.explain.overridden_by(settings)
    if not wanted.max_explained or not prediction.wants_explanation:
        made = _Made(said=_NONE_WANTED if prediction.wants_explanation else "")
    elif prediction.task is Task.VOLUME:
        made = _of_volume(prediction, places, decoder, engine, bundle, wanted, settings.seed)
    else:
        pixels = _Pixels(places, decoder)
        made = _of_slices(prediction, pixels, engine, bundle, wanted, settings.seed, progress)
    result = replace(
        prediction,
        phase=Phase.EXPLANATION,
        reason=f"{prediction.reason}; {made.said}" if made.said else prediction.reason,
        timings=stamp.timings,
        provenance=stamp.provenance,
        images=[made.images.get(_name(image), image) for image in prediction.images],
        explanations=made.explanations,
        schema=SCHEMA_VERSION,
    )
    return StudyOutput(result, made.files)


_Name = tuple[str, int, int]


def _name(image: Image) -> _Name:
    return image.sop_uid, image.frame, image.copy


@dataclass(slots=True)
class _Made:
    """What an explanation changes in a document.

    Attributes
    ----------
    images
        The slices that are explained, or say why not.
    said
        What is added to the reason; empty for nothing.
    """

    images: dict[_Name, Image] = field(default_factory=dict)
    explanations: list[Explanation] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    said: str = ""

    def add(self, image: Image, explanation: Explanation, overlay: bytes) -> None:
        """Add a slice that is explained."""
        name = render.overlay_name(image.sop_uid, image.frame, image.copy)
        self.images[_name(image)] = replace(image, explanation=name)
        self.explanations.append(explanation)
        self.files[name] = overlay


def _of_volume(
    prediction: Result,
    places: Places,
    decoder: Decoder,
    engine: Engine,
    bundle: Bundle,
    wanted: Explain,
    seed: int,
) -> _Made:
    made = _Made()
    try:
        cuts = explained_volume.explained(prediction, places, decoder, engine, bundle, wanted, seed)
    except Permanent as exc:
        made.said = f"not explained: {exc}"
        return made
    for cut in cuts:
        made.add(cut.image, cut.explanation, cut.overlay)
    return made


def _of_slices(
    prediction: Result,
    pixels: _Pixels,
    engine: Engine,
    bundle: Bundle,
    wanted: Explain,
    seed: int,
    progress: Progress | None,
) -> _Made:
    how = explain.Settings(
        explain.Mode(wanted.mode), wanted.samples, wanted.superpixels, seed, bundle.slices
    )
    chosen = spread.chosen(prediction, _worth(bundle), wanted.max_explained)
    beside = _windows(prediction, bundle.neighbours)
    inputs = inputs_of(bundle, pixels.decoder)
    slices = (_explained(beside[i.index], pixels, inputs, bundle, how) for i in chosen)
    made, found = _Made(), {}
    with closing(_in_turns(slices, engine)) as turns:
        for done, (rank, outcome) in enumerate(turns, start=1):
            image = chosen[rank]
            if isinstance(outcome, Permanent):
                made.images[_name(image)] = replace(image, reason=f"not explained: {outcome}")
            else:
                found[rank] = outcome
            if progress is not None:
                progress(done, len(chosen))
    for rank in sorted(found):
        made.add(chosen[rank], *found[rank])
    return made


def _worth(bundle: Bundle) -> Callable[[Mapping[str, float]], float]:
    """Return how probable a slice is; of several findings how far the worst is above its threshold.

    Probabilities of one finding are compared as they are: near 0 and 1 log-odds are cut off.
    """
    if len(bundle.sought) == 1:
        return lambda probability: probability[bundle.decision_label]

    def worst(probability: Mapping[str, float]) -> float:
        found = rule.worst_of(probability, bundle)
        return margin(probability[found.name], found.threshold)

    return worst


def _in_turns(
    slices: Iterable[_Steps], engine: Engine
) -> Generator[tuple[int, _Outcome], None, None]:
    """Yield the explanation of each slice, or why it has none, as it is done, with its place.

    ``EXPLAINED_AT_ONCE`` slices take turns, so that the engine has a batch to work on.
    """
    fresh = enumerate(slices)
    began: dict[int, float] = {}
    waiting: deque[tuple[int, _Steps, Future[NDArray[np.float32]]]] = deque()
    try:
        while True:
            begun = next(fresh, None) if len(waiting) < EXPLAINED_AT_ONCE else None
            if begun is None and not waiting:
                return
            rank, steps, *asked = begun or waiting.popleft()
            began.setdefault(rank, time.monotonic())
            try:
                wanted = steps.send(engine.answer_and_map(asked[0])) if asked else next(steps)
            except StopIteration as done:
                METRICS.lime_seconds.observe(time.monotonic() - began[rank])
                yield rank, done.value
            except Permanent as exc:
                yield rank, exc
            else:
                waiting.append((rank, steps, engine.submit(wanted, Lane.EXPLAIN)))
    finally:  # the engine is full or gone, and nobody wants these answers any more
        for _, _, future in waiting:
            future.cancel()


def _windows(prediction: Result, count: int) -> dict[int, tuple[Image | None, ...]]:
    """Return each slice that was analysed between its neighbours, by its index.

    The same as in the prediction: the slices of an acquisition in their order. What is listed
    beyond them has no place in it.
    """
    slices = {(s.series_uid, s.part): s.slices for s in prediction.series}

    def part(image: Image) -> tuple[str, int]:
        return image.series_uid or "", image.part

    def stretch(image: Image) -> tuple[str, int, int]:
        return *part(image), image.stretch

    found: dict[int, tuple[Image | None, ...]] = {}
    for key, listed in groupby(sorted(prediction.images, key=lambda i: (part(i), i.index)), part):
        images = list(listed)
        own = images[: slices.get(key) or len(images)]
        for window in neighbours.windows(own, count, stretch):
            middle = window[count]
            assert middle is not None  # noqa: S101 - only what is beside it may be absent
            found[middle.index] = window
    return found


class _Pixels:
    """The slices of a study, as people look at them."""

    def __init__(self, places: Places, decoder: Decoder) -> None:
        self._places = places
        self.decoder = decoder

    def of(self, image: Image) -> tuple[Upright, Header]:
        """Return one slice, and the header of its instance.

        Raises
        ------
        Unreadable
            Its instance is absent, or cannot be read.
        """
        path = path_of(self._places.get((image.sop_uid, image.copy)))
        hu = self.decoder.hounsfield(path, image.frame)
        header = self.decoder.headers([path])[0]
        if isinstance(header, Unreadable):
            raise header
        return upright(hu, header.frames[image.frame - 1]), header

    def beside(self, image: Image | None) -> Upright | Unreadable | None:
        """Return a neighbour as it was when the slice was judged, or why it could not be read then.

        Raises
        ------
        Unreadable
            It cannot be read any more: what the model was shown cannot be made again.
        """
        if image is None:
            return None
        if image.original is None:
            return Unreadable(image.reason)
        try:
            return self.of(image)[0]
        except Unreadable as exc:
            raise Unreadable(
                f"slice {image.index + 1} beside it cannot be read any more: {exc}"
            ) from exc


def _explained(
    window: Sequence[Image | None],
    pixels: _Pixels,
    inputs: Inputs,
    bundle: Bundle,
    wanted: explain.Settings,
) -> _Steps:
    """Explain the slice in the middle of its neighbours; see ``explain.steps``."""
    at = len(window) // 2
    image = window[at]
    assert image is not None  # noqa: S101 - only what is beside it may be absent
    shown, header = pixels.of(image)
    around = [shown if n == at else pixels.beside(one) for n, one in enumerate(window)]
    beside, _ = neighbours.filled(around, shown, bundle.preparation.edges)
    tensor = inputs(beside, header, image.frame)
    plain = bundle.as_pictured
    same = plain.preparation == bundle.preparation and bundle.code is None
    picture = None if same else stacked([shown], plain)
    assert image.probability is not None  # noqa: S101 - what was not analysed is not chosen
    sought = rule.worst_of(image.probability, bundle)
    if bundle.map is not None and sought.name == bundle.decision_label:
        wanted = replace(wanted, map_size=bundle.map.size)
    found = yield from explain.steps(tensor, sought.index, wanted, picture)
    explanation = entry(image, sought.name, found, found.area_px, bundle.map)
    shape = (shown.hu.shape[0], shown.hu.shape[1])
    part = field_of(shown.hu, shown.pixel_mm, bundle)
    overlay = render.overlay_png(found.segments, found.weights, shape, part)
    return explanation, overlay
