"""From the instances of a study to its finding, and on to the explanation of the finding.

Pure: files in, result document and pictures out. It knows no queue, journal or
destination. An instance that cannot be read is named in the result and never
stops its neighbours.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen import config
from limen.errors import Permanent, Transient, Unreadable
from limen.result import (
    Explanation,
    Finding,
    Image,
    Model,
    Outcome,
    Phase,
    Provenance,
    Result,
    Series,
    Study,
    Superpixel,
    Timings,
)
from worker import explain, render, series
from worker.bundle import Bundle
from worker.engine import Engine, Lane
from worker.pixels import Decoder, Header, to_tensor

__all__ = [
    "Instance",
    "Progress",
    "Read",
    "Stamp",
    "StudyOutput",
    "explain_study",
    "not_analysed",
    "not_explained",
    "predict_study",
    "read_headers",
]

ENGINE_TIMEOUT_S: Final = 120.0
"""An input that has not reached the model by then never does."""

BATCH_TIMEOUT_S: Final = 60.0
"""Longest that one batch may take inside the model."""

SLICES_IN_FLIGHT: Final = 256
"""Tensors of one study that may wait in the engine."""

EXPLAINED_AT_ONCE: Final = 2
"""While one slice is cut, or its weights are solved for, the engine has the samples of another."""

_DECIMALS: Final = 6
_NONE_WANTED: Final = "no slice is explained (max_explained = 0)"
_UID: Final = re.compile(r"^[0-9.]{1,64}$")

_Outcome = tuple[Explanation, bytes] | Permanent
_Steps = Generator[NDArray[np.float32], NDArray[np.float32], tuple[Explanation, bytes]]

Progress = Callable[[int, int], None]
"""Called with how many slices are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as the journal knows it; the file itself may be unreadable."""

    path: Path
    sop_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Read:
    """What the headers of a study say, and the instances that say nothing, with the reason."""

    headers: tuple[Header, ...]
    unreadable: tuple[tuple[Instance, str], ...]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What only the caller knows of a document; it goes in as it is."""

    revision: int
    timings: Timings
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class StudyOutput:
    """A result document and the new files it names: file name to PNG."""

    result: Result
    files: dict[str, bytes]


def read_headers(instances: Sequence[Instance], decoder: Decoder) -> Read:
    """Read the headers of a study; what cannot be read is kept with its reason."""
    headers: list[Header] = []
    unreadable: list[tuple[Instance, str]] = []
    found = decoder.headers([instance.path for instance in instances])
    for instance, header in zip(instances, found, strict=True):
        if isinstance(header, Unreadable):
            unreadable.append((instance, str(header)))
        else:
            headers.append(header)
    return Read(tuple(headers), tuple(unreadable))


def predict_study(  # noqa: PLR0917 - six different types, nothing to mix up
    study_uid: str,
    read: Read,
    decoder: Decoder,
    engine: Engine,
    bundle: Bundle,
    stamp: Stamp,
    *,
    progress: Progress | None = None,
) -> StudyOutput:
    """Look at a study: choose the series, run the model on each slice, say the finding.

    Parameters
    ----------
    study_uid
        The study as the journal knows it.
    read
        From ``read_headers``.

    Raises
    ------
    Transient
        The engine is full or does not answer, or the decoder is gone: try again.
    """
    selection = series.select(read.headers, bundle)
    chosen_uid = selection.series_uid
    lost = [u for u in read.unreadable if chosen_uid and u[0].series_uid == chosen_uid]
    images: list[Image] = []
    files: dict[str, bytes] = {}
    total = len(selection.slices) + len(lost)
    with engine.expecting():  # explanations of other studies keep to their share meanwhile
        for image, picture in _analyse(selection.slices, decoder, engine, bundle):
            images.append(image)
            if image.original is not None and picture is not None:
                files[image.original] = picture
            if progress is not None:
                progress(len(images), total)
    images += _lost_images(lost, len(images))
    outcome, reason = _outcome(images, selection.reason, read, bundle)
    result = Result(
        study=_study(study_uid, read.headers, chosen_uid),
        revision=stamp.revision,
        phase=Phase.PREDICTION,
        outcome=outcome,
        reason=reason,
        model=_model(bundle),
        finding=_finding(images, bundle),
        timings=stamp.timings,
        provenance=stamp.provenance,
        series=_with_unreadable(selection.series, read),
        images=images,
    )
    return StudyOutput(result, files)


def not_analysed(study_uid: str, read: Read, reason: str, stamp: Stamp) -> StudyOutput:
    """Return the document of a study that no model looks at, with what its headers say."""
    found: dict[str, list[Header]] = {}
    for header in read.headers:
        found.setdefault(header.series_uid, []).append(header)
    listed = [
        Series(
            series_uid=uid,
            description=next((h.series_description for h in members if h.series_description), ""),
            modality=members[0].modality,
            instances=len({h.sop_uid for h in members}),
            selected=False,
            reason=reason,
        )
        for uid, members in sorted(found.items())
    ]
    result = Result(
        study=_study(study_uid, read.headers, ""),
        revision=stamp.revision,
        phase=Phase.PREDICTION,
        outcome=Outcome.NOT_ANALYSED,
        reason=reason,
        model=None,
        finding=None,
        timings=stamp.timings,
        provenance=stamp.provenance,
        series=_with_unreadable(listed, read),
    )
    return StudyOutput(result, {})


def not_explained(prediction: Result, reason: str, stamp: Stamp) -> StudyOutput:
    """Return the explanation document of a study whose explanation failed altogether."""
    result = replace(
        prediction,
        phase=Phase.EXPLANATION,
        reason=f"{prediction.reason}; {reason}",
        timings=stamp.timings,
        provenance=stamp.provenance,
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
    """Explain the most probable positive slices of a prediction, the most probable first.

    A slice whose explanation fails says so in its ``reason``; the others go on. Where no slice
    is to be explained the reason of the document says so.

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
    paths = {instance.sop_uid: instance.path for instance in instances}
    wanted = bundle.explain.overridden_by(settings)
    chosen = _most_probable(prediction.images, bundle.decision_label, wanted.max_explained)
    images = {(image.sop_uid, image.frame): image for image in prediction.images}
    found: dict[int, Explanation] = {}
    files: dict[str, bytes] = {}
    how = explain.Settings(
        explain.Mode(wanted.mode), wanted.samples, wanted.superpixels, settings.seed
    )
    slices = (_explained(i, paths.get(i.sop_uid), decoder, bundle, how) for i in chosen)
    for done, (rank, outcome) in enumerate(_in_turns(slices, engine), start=1):
        image = chosen[rank]
        key = (image.sop_uid, image.frame)
        if isinstance(outcome, Permanent):
            images[key] = replace(image, reason=f"not explained: {outcome}")
        else:
            name = render.file_name(image.sop_uid, image.frame, overlay=True)
            images[key] = replace(image, explanation=name)
            found[rank], files[name] = outcome
        if progress is not None:
            progress(done, len(chosen))
    none = not wanted.max_explained and any(image.positive for image in prediction.images)
    result = replace(
        prediction,
        phase=Phase.EXPLANATION,
        reason=f"{prediction.reason}; {_NONE_WANTED}" if none else prediction.reason,
        timings=stamp.timings,
        provenance=stamp.provenance,
        images=list(images.values()),
        explanations=[found[rank] for rank in sorted(found)],
    )
    return StudyOutput(result, files)


def _analyse(
    slices: Sequence[series.Slice], decoder: Decoder, engine: Engine, bundle: Bundle
) -> Iterator[tuple[Image, bytes | None]]:
    """Yield each slice in order with its picture, a bounded number of them in the engine."""
    waiting: deque[tuple[series.Slice, Future[NDArray[np.float32]] | str, bytes | None]] = deque()
    frames = decoder.hounsfield_many((s.header.path, s.frame) for s in slices)
    for one, hu in zip(slices, frames, strict=True):
        if isinstance(hu, Unreadable):
            waiting.append((one, str(hu), None))
        else:
            tensor = to_tensor(hu, bundle)[np.newaxis]
            future = engine.submit(tensor, Lane.PREDICT, ENGINE_TIMEOUT_S)
            waiting.append((one, future, render.original_png(hu)))
        if len(waiting) >= SLICES_IN_FLIGHT:
            yield _image(*waiting.popleft(), engine, bundle)
    while waiting:
        yield _image(*waiting.popleft(), engine, bundle)


def _image(
    one: series.Slice,
    answer: Future[NDArray[np.float32]] | str,
    picture: bytes | None,
    engine: Engine,
    bundle: Bundle,
) -> tuple[Image, bytes | None]:
    """Wait for the model's answer to one slice."""
    probability, reason = None, answer if isinstance(answer, str) else ""
    if not isinstance(answer, str):
        try:
            row = _wait(answer, engine)[0]
            names = bundle.label_names
            probability = {n: round(float(p), _DECIMALS) for n, p in zip(names, row, strict=True)}
        except Permanent as exc:
            reason = str(exc)
    sop_uid = one.header.sop_uid
    image = Image(
        sop_uid=sop_uid,
        frame=one.frame,
        index=one.index,
        position_mm=one.position_mm,
        probability=probability,
        positive=_is_positive(probability, bundle),
        reason=reason,
        original=render.file_name(sop_uid, one.frame) if picture is not None else None,
    )
    return image, picture


def _wait(future: Future[NDArray[np.float32]], engine: Engine) -> NDArray[np.float32]:
    try:
        # The engine itself answers what it did not get to in time.
        return future.result(ENGINE_TIMEOUT_S + BATCH_TIMEOUT_S)
    except (FutureTimeoutError, TimeoutError) as exc:
        reason = f"gave no answer to a batch in {BATCH_TIMEOUT_S:g} s"
        engine.lose(reason)
        raise Transient(f"the model {reason}") from exc


def _is_positive(probability: dict[str, float] | None, bundle: Bundle) -> bool:
    return probability is not None and probability[bundle.decision_label] >= bundle.threshold


def _lost_images(lost: list[tuple[Instance, str]], first: int) -> list[Image]:
    """Return an entry for each unreadable instance of the selected series, after the slices."""
    return [
        Image(
            sop_uid=instance.sop_uid,
            frame=1,
            index=first + n,
            position_mm=None,
            probability=None,
            positive=False,
            reason=reason,
        )
        for n, (instance, reason) in enumerate(lost)
    ]


def _outcome(images: list[Image], nothing: str, read: Read, bundle: Bundle) -> tuple[Outcome, str]:
    """Return the outcome of the study and the reason for it; see ``limen.result.Outcome``."""
    if not images:
        lost, total = len(read.unreadable), len(read.headers) + len(read.unreadable)
        unread = f"; {lost} of {total} instances cannot be read" if lost else ""
        return Outcome.NOT_ANALYSED, nothing + unread
    analysed = [image for image in images if image.probability is not None]
    counted = f"{len(analysed)} of {len(images)} slices analysed"
    if not analysed:
        why = Counter(image.reason for image in images).most_common(1)[0][0]
        return Outcome.NOT_ANALYSED, f"{counted}: {why}"
    positive = sum(image.positive for image in analysed)
    complete = len(analysed) == len(images)
    if positive:
        reason = f"{positive} of {len(analysed)} slices at or above {bundle.threshold:g}"
        return Outcome.POSITIVE, reason if complete else f"{reason}; {counted}"
    if complete:
        return Outcome.NEGATIVE, f"none of {len(analysed)} slices at or above {bundle.threshold:g}"
    return Outcome.PARTIAL, f"{counted}, none of them at or above {bundle.threshold:g}"


def _finding(images: list[Image], bundle: Bundle) -> Finding | None:
    label = bundle.decision_label
    found = [image.probability[label] for image in images if image.probability is not None]
    if not found:
        return None
    return Finding(
        label=label,
        meaning=bundle.labels[bundle.decision_index].meaning,
        probability=max(found),
        positive_slices=sum(image.positive for image in images),
        analysed_slices=len(found),
        slices=len(images),
    )


def _model(bundle: Bundle) -> Model:
    return Model(
        name=bundle.name,
        version=bundle.version,
        sha256=bundle.sha256,
        labels=bundle.label_names,
        threshold=bundle.threshold,
    )


def _study(study_uid: str, headers: Sequence[Header], series_uid: str) -> Study:
    """Return the patient and study as the selected series, else any instance, has them."""
    if not headers:
        return Study(study_uid)
    header = min(headers, key=lambda h: (h.series_uid != series_uid, h.series_uid, h.sop_uid))
    return Study(
        study_uid=study_uid,
        accession=header.accession,
        patient_id=header.patient_id,
        patient_name=header.patient_name,
        patient_sex=header.patient_sex,
        patient_birth_date=header.patient_birth_date,
        study_date=header.study_date,
        study_time=header.study_time,
        modality=header.modality,
        description=header.study_description,
        referring_institution=header.referring_institution,
    )


def _with_unreadable(listed: list[Series], read: Read) -> list[Series]:
    """Return the series with their unreadable instances counted and told."""
    lost = Counter(i.series_uid for i, _ in read.unreadable if _UID.fullmatch(i.series_uid))
    found = [
        replace(
            one,
            instances=one.instances + lost[one.series_uid],
            reason=f"{one.reason}; {lost[one.series_uid]} cannot be read",
        )
        if lost[one.series_uid]
        else one
        for one in listed
    ]
    known = {one.series_uid for one in listed}
    unknown = [
        Series(uid, "", "", count, selected=False, reason="none of its instances can be read")
        for uid, count in sorted(lost.items())
        if uid not in known
    ]
    return found + unknown


def _most_probable(images: list[Image], label: str, count: int) -> list[Image]:
    """Return the positive slices with the highest probabilities, at most ``count``."""
    positive = [
        (-image.probability[label], image.index, image)
        for image in images
        if image.positive and image.probability is not None
    ]
    return [image for _, _, image in sorted(positive, key=lambda p: p[:2])[:count]]


def _in_turns(slices: Iterable[_Steps], engine: Engine) -> Iterator[tuple[int, _Outcome]]:
    """Yield the explanation of each slice, or why it has none, as it is done, with its place.

    ``EXPLAINED_AT_ONCE`` slices take turns, so that the engine has a batch to work on.
    """
    fresh = enumerate(slices)
    waiting: deque[tuple[int, _Steps, Future[NDArray[np.float32]]]] = deque()
    try:
        while True:
            begun = next(fresh, None) if len(waiting) < EXPLAINED_AT_ONCE else None
            if begun is None and not waiting:
                return
            rank, steps, *asked = begun or waiting.popleft()
            try:
                wanted = steps.send(_wait(asked[0], engine)) if asked else next(steps)
            except StopIteration as done:
                yield rank, done.value
            except Permanent as exc:
                yield rank, exc
            else:
                waiting.append((rank, steps, engine.submit(wanted, Lane.EXPLAIN, ENGINE_TIMEOUT_S)))
    finally:  # the engine is full or gone, and nobody wants these answers any more
        for _, _, future in waiting:
            future.cancel()


def _explained(
    image: Image,
    path: Path | None,
    decoder: Decoder,
    bundle: Bundle,
    wanted: explain.Settings,
) -> _Steps:
    """Explain one slice; see ``explain.steps``."""
    if path is None:
        raise Unreadable("its instance is not among those of the study")
    hu = decoder.hounsfield(path, image.frame)
    found = yield from explain.steps(to_tensor(hu, bundle), bundle.decision_index, wanted)
    explanation = Explanation(
        sop_uid=image.sop_uid,
        frame=image.frame,
        label=bundle.decision_label,
        method=found.method,
        parameters=found.parameters,
        baseline=found.baseline,
        samples=found.samples,
        seed=wanted.seed,
        probability=found.probability,
        baseline_probability=found.baseline_probability,
        fidelity_r2=found.fidelity_r2,
        stability=found.stability,
        poor=bool(found.poor),
        poor_reason=found.poor,
        superpixels=[
            Superpixel(segment=number, weight=float(weight), area_px=int(area))
            for number, (weight, area) in enumerate(zip(found.weights, found.area_px, strict=True))
        ],
    )
    size = render.shown_size(hu.shape[0], hu.shape[1])
    return explanation, render.overlay_png(found.segments, found.weights, size)
