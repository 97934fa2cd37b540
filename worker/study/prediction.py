"""From the instances of a study to its finding.

Pure: files in, result document and pictures out. It knows no queue, journal or
destination. An instance that cannot be read is named in the result and never
stops its neighbours.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from limen.errors import Permanent, Unreadable
from limen.result import Image, Model, Outcome, Phase, Result, Series, Study
from limen.uids import is_uid
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder, Header
from worker.serving.engine import Engine, Lane
from worker.study import age, doubts, identity, neighbours, render, rule, series, surgery
from worker.study import outcome as outcomes
from worker.study.crop import is_known, reaches_beyond
from worker.study.inputs import Inputs, inputs_of
from worker.study.look import HeadLook
from worker.study.metal import Metal
from worker.study.outcome import Evidence
from worker.study.parts import Instance, Progress, Read, Stamp, StudyOutput
from worker.study.tensors import Upright, upright
from worker.study.top import Top

__all__ = ["not_analysed", "predict_study"]

BATCHES_IN_FLIGHT: Final = 2
"""What a study has in the engine: one batch runs, the next one waits for it."""

_DECIMALS: Final = 6


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
        From ``worker.study.parts.read_headers``.

    Raises
    ------
    Transient
        The engine is full or does not answer, or the decoder is gone: try again.
    """
    unread = [instance.series_uid for instance, _ in read.unreadable]
    selection = series.select(read.headers, bundle, HeadLook(decoder), unread)
    lost = _lost(read, selection)
    images: list[Image] = []
    answers: list[NDArray[np.float64]] = []
    files: dict[str, bytes] = {}
    notes = _Notes(bundle, selection.slices)
    total = len(selection.slices) + len(lost)
    with (
        engine.expecting(),  # explanations of other studies keep to their share meanwhile
        closing(_analyse(selection.slices, decoder, engine, bundle, notes)) as analysed,
    ):
        for image, picture, answer in analysed:
            images.append(image)
            answers.append(answer)
            if image.original is not None and picture is not None:
                files[image.original] = picture
            if progress is not None:
                progress(len(images), total)
    listed = _lost_images(lost, len(images), selection) if images else []
    evidence = Evidence(
        images=[*images, *listed],
        answers=rule.answers(bundle, _stretches(images, answers)),
        unlisted=len(lost) - len(listed) + selection.left_out if images else 0,
        unreadable=[why for _, why in lost],
        instances=len(read.headers) + len(read.unreadable),
        doubts=[
            *_unknown_to(bundle, [one.header for one in selection.slices]),
            *selection.doubts,
            *notes.doubts(),
        ],
        nothing=selection.reason,
        patients=identity.patients(read.headers),
    )
    outcome, reason = outcomes.outcome(evidence, bundle)
    result = Result(
        study=_study(study_uid, read.headers, selection.series_uid),
        revision=stamp.revision,
        phase=Phase.PREDICTION,
        outcome=outcome,
        reason=reason,
        model=_model(bundle),
        finding=outcomes.finding(evidence, bundle),
        findings=outcomes.findings(evidence, bundle),
        timings=stamp.timings,
        provenance=stamp.provenance,
        series=_with_unreadable(_counted(selection.series, images), read),
        images=[*images, *listed],
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


def _unknown_to(bundle: Bundle, headers: Sequence[Header]) -> list[str]:
    """Return what the model has not learned and the headers say of this head."""
    accepts = bundle.accepts
    return [
        *age.doubts(headers, accepts.min_age_years),
        *surgery.doubts(headers, operated=accepts.operated),
    ]


class _Notes:
    """What the pixels of a study tell beside what the model makes of them."""

    def __init__(self, bundle: Bundle, slices: Sequence[series.Slice]) -> None:
        self._bundle = bundle
        self._top = Top()
        self._metal = Metal(bundle.accepts.max_metal_mm2)
        self._without_size = 0
        self._without_neighbour = 0
        self._cut_off = 0
        self._beside_a_gap = neighbours.beside_gaps(
            [(s.header.series_uid, s.part, s.stretch) for s in slices], bundle.neighbours
        )

    def add(self, one: series.Slice, shown: Upright, lost: int) -> None:
        """Note a slice, and how many of its neighbours cannot be read."""
        self._top.add(one, shown)
        self._metal.add(one, shown)
        is_scaled = self._bundle.spacing_mm is not None
        self._without_size += is_scaled and not is_known(shown.pixel_mm, shown.hu.shape)
        self._without_neighbour += lost > 0
        is_cut = self._bundle.crop == "centre" and self._bundle.accepts.is_of_head
        self._cut_off += is_cut and reaches_beyond(shown.hu, shown.pixel_mm, self._bundle)

    def doubts(self) -> list[str]:
        """Return why nobody may call what was seen the whole, or nothing."""
        top = self._top.doubts() if self._bundle.accepts.looks_like else []
        of_input = doubts.of_input(
            self._without_size, self._without_neighbour, self._beside_a_gap, self._cut_off
        )
        return [*self._metal.doubts(), *top, *of_input]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A slice as people look at it, or why it cannot be read."""

    slice: series.Slice
    shown: Upright | Unreadable

    @classmethod
    def of(cls, one: series.Slice, hu: NDArray[np.float32] | Unreadable) -> Self:
        if isinstance(hu, Unreadable):
            return cls(one, hu)
        return cls(one, upright(hu, one.header.frames[one.frame - 1]))

    @property
    def stretch(self) -> tuple[str, int, int]:
        """Return what it lies in without a gap."""
        return self.slice.header.series_uid, self.slice.part, self.slice.stretch


def _analyse(
    slices: Sequence[series.Slice],
    decoder: Decoder,
    engine: Engine,
    bundle: Bundle,
    notes: _Notes,
) -> Generator[tuple[Image, bytes | None, NDArray[np.float64]], None, None]:
    """Yield each slice in order with its picture and all that the model answered (outputs,).

    A bounded number of them is in the engine. NaN stands for no answer.
    """
    waiting: deque[_Asked] = deque()
    most = BATCHES_IN_FLIGHT * engine.largest_batch
    inputs = inputs_of(bundle, decoder)
    frames = decoder.hounsfield_many((s.header.path, s.frame) for s in slices)
    seen = (_Seen.of(one, hu) for one, hu in zip(slices, frames, strict=True))
    try:
        for window in neighbours.windows(seen, bundle.neighbours, lambda one: one.stretch):
            waiting.append(_asked(window, engine, inputs, notes, bundle))
            if len(waiting) >= most:
                yield _image(waiting.popleft(), engine, bundle)
        while waiting:
            yield _image(waiting.popleft(), engine, bundle)
    finally:  # the study is given up: nobody wants these answers any more
        for asked in waiting:
            if not isinstance(asked.answer, str):
                asked.answer.cancel()


def _asked(
    window: Sequence[_Seen | None], engine: Engine, inputs: Inputs, notes: _Notes, bundle: Bundle
) -> _Asked:
    """Give a slice to the engine, with its neighbours where the model wants them."""
    middle = window[len(window) // 2]
    assert middle is not None  # noqa: S101 - only what is beside it may be absent
    one, shown = middle.slice, middle.shown
    if isinstance(shown, Unreadable):
        return _Asked(one, str(shown))
    around = [None if one is None else one.shown for one in window]
    beside, lost = neighbours.filled(around, shown, bundle.preparation.edges)
    notes.add(one, shown, lost)
    picture = _Picture.of(shown, is_ct=one.header.modality == "CT")
    try:
        tensor = inputs(beside, one.header, one.frame)
    except Unreadable as exc:  # code of the bundle failed on it
        return _Asked(one, str(exc), picture)
    return _Asked(one, engine.submit(tensor[np.newaxis], Lane.PREDICT), picture)


@dataclass(frozen=True, slots=True)
class _Picture:
    """The picture of a slice, and how it lies."""

    body: bytes
    oriented: bool
    pixel_mm: float | None
    unit: Literal["", "HU"]

    @classmethod
    def of(cls, shown: Upright, *, is_ct: bool) -> Self:
        body = render.hu_jls(shown.hu) if is_ct else render.grey_png(shown.hu)
        unit: Literal["", "HU"] = "HU" if is_ct else ""
        if shown.pixel_mm is None:
            return cls(body, shown.oriented, None, unit)
        most = render.MAX_HU_SIDE_PX if is_ct else render.MAX_SIDE_PX
        rows, columns = shown.hu.shape
        scale = rows / render.shown_size(rows, columns, most)[0]
        return cls(body, shown.oriented, round(shown.pixel_mm * scale, _DECIMALS) or None, unit)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A slice whose answer is awaited, or why it has none."""

    slice: series.Slice
    answer: Future[NDArray[np.float32]] | str
    picture: _Picture | None = None


def _stretches(
    images: Sequence[Image], answers: Sequence[NDArray[np.float64]]
) -> list[rule.Stretch]:
    """Return the answers to the slices of each part of a series, in the order of the body."""
    parts: dict[tuple[str | None, int], list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        parts[image.series_uid, image.part].append(number)
    return [
        rule.Stretch([images[n].position_mm for n in part], np.stack([answers[n] for n in part]))
        for part in parts.values()
    ]


def _image(
    asked: _Asked, engine: Engine, bundle: Bundle
) -> tuple[Image, bytes | None, NDArray[np.float64]]:
    """Wait for the model's answer to one slice."""
    one, answer = asked.slice, asked.answer
    probability, reason = None, answer if isinstance(answer, str) else ""
    answered = np.full(bundle.outputs, np.nan)
    if not isinstance(answer, str):
        try:
            row = engine.answer(answer)[0]
            answered = np.array([round(float(p), _DECIMALS) for p in row])
            probability = dict(zip(bundle.label_names, answered.tolist(), strict=False))
        except Permanent as exc:
            reason = str(exc)
    sop_uid, picture = one.header.sop_uid, asked.picture
    name = render.file_name(sop_uid, one.frame, picture.body, one.copy) if picture else None
    image = Image(
        sop_uid=sop_uid,
        frame=one.frame,
        index=one.index,
        position_mm=one.position_mm,
        probability=probability,
        positive=any(outcomes.is_positive(probability, one) for one in bundle.sought),
        reason=reason,
        original=name,
        series_uid=one.header.series_uid,
        part=one.part,
        stretch=one.stretch,
        copy=one.copy,
        oriented=picture is not None and picture.oriented,
        pixel_mm=picture.pixel_mm if picture else None,
        unit=picture.unit if picture else "",
    )
    return image, picture.body if picture else None, answered


def _lost(read: Read, selection: series.Selection) -> list[tuple[Instance, str]]:
    """Return the unreadable instances that may have shown something.

    Those of a series that is left out as a whole are lost with it, unless none is left: then they
    may be why.
    """
    chosen = {row.series_uid for row in selection.rows}
    if not chosen:
        return list(read.unreadable)
    left_out = {header.series_uid for header in read.headers} - chosen
    return [lost for lost in read.unreadable if lost[0].series_uid not in left_out]


def _lost_images(
    lost: list[tuple[Instance, str]], first: int, selection: series.Selection
) -> list[Image]:
    """Return an entry for each unreadable instance of a selected series, after the slices.

    One that shares its UID with a slice has none: an entry has to be one of a kind.
    """
    chosen = {row.series_uid for row in selection.rows}
    named = {one.header.sop_uid for one in selection.slices}
    found: dict[str, tuple[Instance, str]] = {}
    for instance, reason in lost:
        if (
            instance.series_uid in chosen
            and instance.sop_uid not in named
            and is_uid(instance.sop_uid)
        ):
            found.setdefault(instance.sop_uid, (instance, reason))
    return [
        Image(
            sop_uid=instance.sop_uid,
            frame=1,
            index=first + n,
            position_mm=None,
            probability=None,
            positive=False,
            reason=reason,
            series_uid=instance.series_uid,
        )
        for n, (instance, reason) in enumerate(found.values())
    ]


def _counted(listed: Sequence[Series], images: Sequence[Image]) -> list[Series]:
    """Return the series with their analysed and positive slices counted."""
    analysed = Counter((i.series_uid, i.part) for i in images if i.probability is not None)
    positive = Counter((i.series_uid, i.part) for i in images if i.positive)
    return [
        replace(
            one,
            analysed_slices=analysed[one.series_uid, one.part],
            positive_slices=positive[one.series_uid, one.part],
        )
        if one.selected
        else one
        for one in listed
    ]


def _model(bundle: Bundle) -> Model:
    sought = bundle.sought
    return Model(
        name=bundle.name,
        version=bundle.version,
        sha256=bundle.sha256,
        labels=bundle.label_names,
        threshold=bundle.threshold,
        windows=list(bundle.presets),
        intended_use=bundle.intended_use,
        training_data=bundle.training_data,
        licence=bundle.licence,
        thresholds={one.name: one.threshold for one in sought} if len(sought) > 1 else {},
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
    lost = Counter(i.series_uid for i, _ in read.unreadable if is_uid(i.series_uid))
    first = {one.series_uid: one.part for one in reversed(listed)}
    found = [
        replace(
            one,
            instances=one.instances + lost[one.series_uid],
            reason=f"{one.reason}; {lost[one.series_uid]} cannot be read",
        )
        if lost[one.series_uid] and one.part == first[one.series_uid]
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
