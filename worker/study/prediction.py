"""From the instances of a study to its finding.

Pure: files in, result document and pictures out. It knows no queue, journal or
destination. An instance that cannot be read is named in the result and never
stops its neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from limen.result import Image, Model, Outcome, Phase, Result, Series, Study
from limen.uids import is_uid
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder, Header
from worker.serving.engine import Engine
from worker.study import age, identity, series, surgery
from worker.study import outcome as outcomes
from worker.study.look import HeadLook
from worker.study.notes import Notes
from worker.study.outcome import Evidence
from worker.study.parts import Instance, Progress, Read, Stamp, StudyOutput
from worker.study.tasks.choice import task_of

__all__ = ["not_analysed", "predict_study"]


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
    files: dict[str, bytes] = {}
    notes = Notes(bundle, selection.slices)
    task = task_of(bundle, decoder, engine, notes)
    total = len(selection.slices) + len(lost)
    with (
        engine.expecting(),  # explanations of other studies keep to their share meanwhile
        closing(task.look(selection.slices)) as looked,
    ):
        for one in looked:
            images.append(one.image)
            files |= one.files
            if progress is not None:
                progress(len(images), total)
    listed = _lost_images(lost, len(images), selection) if images else []
    evidence = Evidence(
        images=[*images, *listed],
        answers=task.answers() if images else (),
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
        task=bundle.task,
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
