"""The result document: what Limen says of one study, in one phase, as JSON.

The dataclasses here are the source. ``json_schema()`` is generated from them;
``docs/result.schema.json`` and the copy that the results server validates
against are written by ``make schema`` and compared with them in the tests.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from limen.errors import Permanent
from limen.uids import UID_LENGTH, UID_PATTERN

__all__ = [
    "HU_OFFSET",
    "NEAREST",
    "SCHEMA_VERSION",
    "Explanation",
    "Finding",
    "Image",
    "Model",
    "Outcome",
    "OwnMap",
    "Phase",
    "Provenance",
    "Result",
    "SecondOpinion",
    "Series",
    "Study",
    "Superpixel",
    "Task",
    "Timings",
    "Window",
    "json_schema",
    "margin",
]

SCHEMA_VERSION = 3
OLDEST_VERSION = SCHEMA_VERSION - 1
"""Also read: what a node wrote before it was updated, and is still to be explained or delivered."""

NEAREST = 1e-6
"""Probabilities nearer to 0 or 1 count as this near: the document has six decimals."""

HU_OFFSET = 1024
"""What is added to the HU of a slice in its 16-bit picture, so that air is above 0."""

Uid = Annotated[str, Field(pattern=UID_PATTERN, max_length=UID_LENGTH)]
Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Volume = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")]
_STRICT = ConfigDict(extra="forbid")


class Phase(StrEnum):
    """Which half of the work a document reports."""

    PREDICTION = "prediction"
    EXPLANATION = "explanation"


class Task(StrEnum):
    """What a bundle does with the slices of a study."""

    SLICES = "slices"
    """It classifies each slice, alone or between its neighbours."""
    SEGMENTATION = "segmentation"
    """It says of each pixel of a slice what it is of; what counts is the volume."""
    VOLUME = "volume"
    """It classifies all slices of an acquisition at once."""


class Outcome(StrEnum):
    """What the node says of a study; always said. Negative is not the same as not run."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNDETERMINED = "undetermined"
    """The members of the model disagree: somebody has to look."""
    PARTIAL = "partial"
    """No word on the whole: something was left out, lost, ambiguous or doubtful."""
    NOT_ANALYSED = "not_analysed"


@dataclass(frozen=True, slots=True)
class Study:
    """Who and what was examined, as the sender wrote it (decoded to Unicode).

    Attributes
    ----------
    patient_name
        PN value, components separated by ``^``, up to three representations
        separated by ``=`` (alphabetic, ideographic, phonetic; PS3.5 6.2.1).
    patient_birth_date, study_date
        DICOM DA, ``YYYYMMDD``, or empty.
    study_time
        DICOM TM, ``HHMMSS.FFFFFF`` or shorter, or empty.
    """

    __pydantic_config__ = _STRICT

    study_uid: Uid
    accession: str = ""
    patient_id: str = ""
    patient_name: str = ""
    patient_sex: str = ""
    patient_birth_date: str = ""
    study_date: str = ""
    study_time: str = ""
    modality: str = ""
    description: str = ""
    referring_institution: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A window that people look at slices through.

    Attributes
    ----------
    name
        For people: "brain".
    centre, width
        In HU.
    """

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(min_length=1, max_length=40)]
    centre: Number
    width: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Model:
    """The bundle that looked at the study.

    Attributes
    ----------
    windows
        Those that it suggests to readers, at most five; the first is the one to begin with.
    intended_use, training_data, licence
        Its card, in words: what it is for, what it has learned from, the licence of its weights.
    task
        What it does with the slices of a study.
    thresholds
        Where it looks for several findings: label -> from which probability a slice is positive
        for it. Empty where ``threshold`` is the only one.
    """

    __pydantic_config__ = _STRICT

    name: str
    version: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    labels: list[str]
    threshold: Probability
    windows: Annotated[list[Window], Field(max_length=5)] = field(default_factory=list)
    intended_use: str = ""
    training_data: str = ""
    licence: str = ""
    task: Task = Task.SLICES
    thresholds: dict[str, Probability] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """The study in one line.

    Attributes
    ----------
    meaning
        What ``label`` stands for, for people: "Intracranial hemorrhage".
    probability
        Of ``label`` for the study, 0..1: what the rule of the bundle makes of the analysed
        slices; that of the highest slice where it has none.
    positive_slices
        Slices at or above the threshold of the bundle, for this label.
    analysed_slices, slices
        Slices that were analysed, of all that should have been: those of the selected series,
        what could not be read, and what was set aside and may have shown something.
    code
        Code value and coding scheme designator of the finding (PS3.16 Section 8), as the
        bundle gives it.
    threshold
        From which ``probability`` is positive; None in documents of schema 1, where it is that
        of the slices.
    volume_ml, volume_threshold_ml
        Of a segmentation: what is marked of the patient, and from which volume that is positive;
        ``probability`` is then that of the most probable pixel, ``threshold`` from which one is
        marked. Else None.
    rule
        How the slices make ``probability``, in words; empty where the highest slice speaks.
    members
        The same probability from each member of the model alone; empty where it has none.
    """

    __pydantic_config__ = _STRICT

    label: str
    meaning: str
    probability: Probability
    positive_slices: Annotated[int, Field(ge=0)]
    analysed_slices: Annotated[int, Field(ge=0)]
    slices: Annotated[int, Field(ge=0)]
    code: tuple[str, str] | None = None
    threshold: Probability | None = None
    rule: str = ""
    members: list[Probability] = field(default_factory=list)
    volume_ml: Volume | None = None
    volume_threshold_ml: Volume | None = None

    @property
    def is_high(self) -> bool:
        """Whether it would make its study positive, were nothing doubtful of it."""
        if self.volume_ml is not None and self.volume_threshold_ml is not None:
            return self.volume_ml >= self.volume_threshold_ml
        return self.probability >= (self.threshold or 0.0)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of the study, and why it was or was not analysed.

    Attributes
    ----------
    selected
        Whether it was analysed. A series that holds several acquisitions has an entry for each.
    reason
        Why not, or what is odd or missing.
    part
        The acquisition within the series, from 1.
    slices, analysed_slices, positive_slices
        Slices to analyse, those that the model answered, those at or above the threshold;
        all 0 where it is not selected.
    """

    __pydantic_config__ = _STRICT

    series_uid: Uid
    description: str
    modality: str
    instances: Annotated[int, Field(ge=0)]
    selected: bool
    reason: str
    part: Annotated[int, Field(ge=1)] = 1
    slices: Annotated[int, Field(ge=0)] = 0
    analysed_slices: Annotated[int, Field(ge=0)] = 0
    positive_slices: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class Image:
    """One slice of a selected series: series by series, each in geometric order.

    ``sop_uid``, ``frame`` and ``copy`` together name it.

    Attributes
    ----------
    frame
        Frame number within the instance, from 1.
    index
        Place in the document, from 0; within a series from its lowest position up.
    position_mm
        Position along the slice normal, or None where the geometry is unknown.
    probability
        Probability per label, or None when the slice could not be analysed. Empty where it was,
        as one of a volume that has a probability as a whole.
    reason
        Why the slice could not be analysed; empty otherwise.
    original
        File name of the slice, or None: lossless JPEG-LS (``.jls``), 16-bit grey, HU + 1024, at
        most 512 pixels a side, where ``unit`` is HU; else a PNG, 8-bit grey in the brain window, at
        most 1024.
    explanation
        File name of the overlay (RGBA PNG, over the whole of ``original``), or None. Of a
        segmentation it is what is marked, and there already in the prediction.
    series_uid, part
        The entry of ``series`` that it belongs to; None where the file does not say.
    stretch
        Which stretch of its part it lies in, from 1: between two of them slices are missing.
    copy
        Which content of its SOP Instance UID it is, from 1: where senders use a UID twice, all
        contents are analysed.
    oriented
        Whether the picture has the right of the patient at its left and the front at its top.
        False where the file does not say how it lies.
    pixel_mm
        Side of a pixel of ``original``, which are square; None where it is unknown.
    unit
        ``HU`` where the values of ``original`` are HU + 1024; empty where they are only a grey,
        as in all documents of schema 2.
    areas_mm2
        Of a segmentation: label -> square millimetres that are marked.
    """

    __pydantic_config__ = _STRICT

    sop_uid: Uid
    frame: Annotated[int, Field(ge=1)]
    index: Annotated[int, Field(ge=0)]
    position_mm: Number | None
    probability: dict[str, Probability] | None
    positive: bool
    reason: str = ""
    original: FileName | None = None
    explanation: FileName | None = None
    series_uid: Uid | None = None
    part: Annotated[int, Field(ge=1)] = 1
    stretch: Annotated[int, Field(ge=1)] = 1
    copy: Annotated[int, Field(ge=1)] = 1
    oriented: bool = False
    pixel_mm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    unit: Literal["", "HU"] = ""
    areas_mm2: dict[str, Volume] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Superpixel:
    """One superpixel of an explanation.

    Attributes
    ----------
    segment
        Its number in the segmentation, from 0.
    weight
        Coefficient of the local linear model, of the probability (``LIME, reference``) or of
        its log-odds (``LIME, settled``); above 0 speaks for the label.
    area_px
        Pixels it covers at the model's input size; of a supervoxel of a volume those in the slice.
    """

    __pydantic_config__ = _STRICT

    segment: Annotated[int, Field(ge=0)]
    weight: Number
    area_px: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What another method says of the regions of an explanation.

    Attributes
    ----------
    method
        ``occlusion``: each region hidden by itself, all others kept.
    verdict
        ``agrees`` where its strongest region is one that the explanation names, too (half of the
        highest weight, or more), ``differs`` where it is another, ``spread`` where no region by
        itself lowers the model's answer by 0.05.
    words
        The same for people.
    segment
        Its strongest region; None where the verdict is ``spread``.
    without
        The model's answer with only that region hidden, for each entry of ``superpixels``.
    """

    __pydantic_config__ = _STRICT

    method: Literal["occlusion"]
    verdict: Literal["agrees", "differs", "spread"]
    words: str
    segment: Annotated[int, Field(ge=0)] | None
    without: list[Probability]


@dataclass(frozen=True, slots=True)
class OwnMap:
    """What the model's own map of where it looks says of the regions of an explanation.

    Attributes
    ----------
    output
        The output of the model that it is.
    verdict
        ``agrees`` where the region with the highest mean of the map is one that the explanation
        names, too (half of the highest weight, or more), ``differs`` where it is another, or where
        the map is high outside of all regions, ``spread`` where it is high in more than half of
        them, or nowhere.
    words
        The same for people.
    segment
        Its strongest region; None where it names none.
    shares
        Mean of the map in each entry of ``superpixels``, as a share of its highest cell, 0..1.
    """

    __pydantic_config__ = _STRICT

    output: str
    verdict: Literal["agrees", "differs", "spread"]
    words: str
    segment: Annotated[int, Field(ge=0)] | None
    shares: list[Probability]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one slice was called positive, and how far that explanation can be trusted.

    Attributes
    ----------
    method
        ``LIME, settled`` or ``LIME, reference``.
    parameters
        Everything that the method was run with, in words.
    baseline
        What stood in for a hidden superpixel, in words: the explanation says why the slice
        and that differ.
    samples
        Perturbed images the local model was fitted on.
    probability, baseline_probability
        The model's answer to the slice, and to the slice with all superpixels hidden (None where
        the method does not ask for it), 0..1.
    without_strongest
        Its answer to the slice with only the superpixel of the highest weight hidden, 0..1; None
        where none speaks for the label.
    fidelity_r2
        Weighted R2 of the local linear model (at most 1; LIME's own score).
    stability
        How alike the weights stay when the samples are weighed anew (mean correlation over a
        Bayesian bootstrap, -1..1).
    poor, poor_reason
        Whether the explanation should not be leaned on, and why not.
    second_opinion
        What another method says of it; None where none was asked.
    own_map
        What the model's own map says of it; None where its bundle names none.
    """

    __pydantic_config__ = _STRICT

    sop_uid: Uid
    frame: Annotated[int, Field(ge=1)]
    label: str
    method: str
    parameters: str
    baseline: str
    samples: Annotated[int, Field(ge=1)]
    seed: int
    probability: Probability
    baseline_probability: Probability | None
    fidelity_r2: Number
    stability: Number
    poor: bool
    poor_reason: str
    superpixels: list[Superpixel]
    copy: Annotated[int, Field(ge=1)] = 1
    without_strongest: Probability | None = None
    second_opinion: SecondOpinion | None = None
    own_map: OwnMap | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """When the study reached each stage, RFC 3339 in UTC."""

    __pydantic_config__ = _STRICT

    received: Time
    complete: Time
    predicted: Time | None = None
    explained: Time | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which installation produced the document."""

    __pydantic_config__ = _STRICT

    limen_version: str
    host: str
    config_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    notice: str = "Research software. Not for diagnostic use."


@dataclass(frozen=True, slots=True)
class Result:
    """One document: what is known of one study revision after one phase.

    ``model`` and ``finding`` are None when no route took the study or nothing
    in it could be analysed; ``outcome`` and ``reason`` then say so.

    Attributes
    ----------
    finding
        Of several the worst: the one that lies farthest above its threshold, in log-odds.
    findings
        All of them, in the order of the bundle's labels; empty where ``finding`` is the only one.
    """

    __pydantic_config__ = _STRICT

    study: Study
    revision: Annotated[int, Field(ge=1)]
    phase: Phase
    outcome: Outcome
    reason: str
    model: Model | None
    finding: Finding | None
    timings: Timings
    provenance: Provenance
    series: list[Series] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    schema: Annotated[int, Field(ge=OLDEST_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """Return the document as UTF-8 JSON, keys sorted: same document, same bytes."""
        tree = _ADAPTER.dump_python(self, mode="json")
        return json.dumps(tree, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Result:
        """Read a document.

        Raises
        ------
        Permanent
            The body is not a document of this schema or the one before; the text lists the
            path of each fault.
        """
        try:
            return _ADAPTER.validate_json(body)
        except ValidationError as exc:
            faults = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or '(document)'}: {e['msg']}" for e in exc.errors()
            )
            raise Permanent(f"not a result document of schema {_VERSIONS}: {faults}") from exc

    @property
    def task(self) -> Task:
        """What the bundle does; of a study that no model looked at, what most of them do."""
        return self.model.task if self.model is not None else Task.SLICES

    @property
    def wants_explanation(self) -> bool:
        """Return True where there is something to explain: a slice, or what the study is called.

        A segmentation shows what it found. Of a volume there is where a finding is positive.
        """
        if self.task is Task.SEGMENTATION:
            return False
        if self.task is Task.VOLUME:
            return any(finding.is_high for finding in self.all_findings())
        called = self.outcome in {Outcome.POSITIVE, Outcome.UNDETERMINED}
        return called or any(image.positive for image in self.images)

    def all_findings(self) -> list[Finding]:
        """Return every finding; one, or none, where the bundle looks for one."""
        return self.findings or ([self.finding] if self.finding is not None else [])

    def threshold_of(self, label: str) -> float | None:
        """Return from which probability a slice is positive for a label; None without a model."""
        if self.model is None:
            return None
        return self.model.thresholds.get(label, self.model.threshold)

    def finding_of(self, image: Image) -> Finding | None:
        """Return what a slice shows: of several findings the one farthest above its threshold.

        None where it was not analysed, or has no probability of its own.
        """
        told = image.probability
        if not told:
            return None
        return max(
            (one for one in self.all_findings() if one.label in told),
            key=lambda one: margin(told[one.label], self.threshold_of(one.label) or 0.0),
            default=None,
        )

    def file_names(self) -> list[str]:
        """Return the names of the image files the document refers to, in its order."""
        names = [n for i in self.images for n in (i.original, i.explanation) if n is not None]
        return list(dict.fromkeys(names))


def margin(probability: float, threshold: float) -> float:
    """Return how far a probability lies above a threshold, in log-odds.

    Nearer than ``NEAREST`` to 0 or 1 counts as that near.
    """
    above, below = (min(max(p, NEAREST), 1 - NEAREST) for p in (probability, threshold))
    return math.log(above / (1 - above)) - math.log(below / (1 - below))


_VERSIONS = f"{OLDEST_VERSION} or {SCHEMA_VERSION}"
_ADAPTER: TypeAdapter[Result] = TypeAdapter(Result)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the result document."""
    schema = _ADAPTER.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Limen result document, schema {SCHEMA_VERSION} (and {OLDEST_VERSION})",
        **{k: v for k, v in schema.items() if k != "title"},
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, sort_keys=True))  # noqa: T201
