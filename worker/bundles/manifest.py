"""What ``bundle.toml`` may say: its sections and keys, and what is wrong with one that says else.

Nothing here opens a file that the manifest names; ``worker.bundles.bundle`` does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limen import config
from limen.errors import BundleError
from limen.result import Task, Window
from worker.bundles.preparation import Preparation
from worker.bundles.presets import MOST as MOST_PRESETS
from worker.bundles.presets import suggested

__all__ = [
    "MANIFEST",
    "MAX_DEPTH",
    "MAX_FIELD_MM",
    "MAX_NEIGHBOURS",
    "SPACING_MM",
    "Accepts",
    "Activation",
    "Crop",
    "Explain",
    "Format",
    "Label",
    "Layout",
    "Manifest",
    "Map",
    "Members",
    "Metric",
    "Output",
    "Precision",
    "Preprocess",
    "Preset",
    "Remote",
    "StudyRule",
    "Variant",
    "Weights",
    "parse",
    "read_toml",
]

MANIFEST = "bundle.toml"
Format = Literal["keras", "h5-legacy", "onnx", "openvino", "remote"]
"""Of the weights; ``remote`` where another server has them, and then no file says so."""

Activation = Literal["none", "sigmoid", "softmax"]
"""What has to be applied to the raw output of a model to get probabilities."""

Crop = Literal["none", "head", "centre"]
"""The part of a slice that becomes the input: all of it, the head, or the middle of it."""

Precision = Literal["fp32", "int8"]

Layout = Literal["nhwc", "nchw"]
"""Where the input of a model has its channels: last, or before rows and columns."""

_Text = Annotated[str, Field(min_length=1)]
_Pixels = Annotated[int, Field(ge=8, le=4096)]
_Cells = Annotated[int, Field(ge=2, le=512)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_WidthHu = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_LevelHu = Annotated[float, Field(allow_inf_nan=False)]
Metric = str | int | float | bool


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Difference = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_REMOTE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Section):
    """One output of the model.

    Attributes
    ----------
    code
        Code value and coding scheme designator (PS3.16 Section 8).
    threshold
        The label is a finding beside ``decision.label``, and a slice is positive for it from this
        probability on. None: it is shown, and decides nothing.
    study_threshold
        The same of the study, where ``[study]`` makes its probability.
    volume_ml
        Of a segmentation: from which volume the study is positive for it; ``threshold``, or that
        of the decision, is then from which probability a pixel is of it.
    area_mm2
        Of a segmentation: a slice with less of it is not positive.
    """

    name: Annotated[str, Field(pattern=_LABEL_NAME, description="a name of letters and digits")]
    meaning: _Text = Field(description="what the label stands for, for people")
    code: tuple[_Text, _Text] = Field(description='[code value, coding scheme], ["1386000", "SCT"]')
    threshold: _Threshold | None = None
    study_threshold: _Threshold | None = None
    volume_ml: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] | None = None
    area_mm2: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)] = 0.0


_HEAD_PARTS: Final = {"HEAD", "BRAIN", "SKULL"}
_HEAD_DEFAULTS: Final = {
    "min_extent_mm": 80.0,
    "min_slices": 3,
    "looks_like": "head",
    "operated": False,
}
"""What a bundle for heads asks of a study where its manifest does not say."""


class Accepts(_Section):
    """Which series the model was made for, and when they are a whole study.

    The defaults of ``min_extent_mm``, ``min_slices``, ``looks_like`` and ``operated`` are those of
    a head where the body parts are; else nothing is asked.
    """

    modality: Annotated[
        tuple[_Text, ...], Field(min_length=1, description='a list of modalities, ["CT"]')
    ]
    body_part: tuple[_Text, ...] = Field(description="a list of body parts; [] accepts all")
    orientation: Annotated[str, Field(pattern=r"^axial$", description='"axial"')]
    contrast: bool = Field(False, description="true where the model knows enhanced series, too")
    min_extent_mm: Annotated[float, Field(ge=0, le=2000, allow_inf_nan=False)] = 0.0
    min_slices: Annotated[int, Field(ge=1, le=1000)] = 1
    max_slices: Annotated[int, Field(ge=1, le=100_000)] = 2000
    looks_like: Literal["", "head"] = Field("", description='"head", or "" to trust the header')
    operated: bool = Field(True, description="true where the model knows heads after surgery, too")
    min_age_years: Annotated[float | None, Field(gt=0, le=120, allow_inf_nan=False)] = None
    max_metal_mm2: Annotated[float | None, Field(ge=0, le=100_000, allow_inf_nan=False)] = None

    @model_validator(mode="before")
    @classmethod
    def _heads_have_defaults(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        parts = given.get("body_part")
        names = parts if isinstance(parts, list | tuple) else ()
        return {**_HEAD_DEFAULTS, **given} if _are_of_head(names) else given

    @property
    def is_of_head(self) -> bool:
        """Return whether the body parts are those of a head, and nothing else."""
        return _are_of_head(self.body_part)


def _are_of_head(parts: Iterable[object]) -> bool:
    names = {str(part).upper() for part in parts}
    return bool(names) and names <= _HEAD_PARTS


MAX_FIELD_MM: Final = 1000.0
"""Longest side of what a scanner reconstructs."""

SPACING_MM: Final = (0.1, 10.0)
"""Smallest and largest pixel of a model's input."""

MAX_NEIGHBOURS: Final = 3
"""Slices on each side that a model may be shown."""

MAX_DEPTH: Final = 512
"""Slices of a volume that a model may be shown at once."""


class Remote(_Section):
    """A model that a server runs which speaks the Open Inference Protocol v2.

    Attributes
    ----------
    url
        Scheme, host and port of the server.
    version
        Pinned as a hash would be: another one is never asked.
    input, output
        Names of the tensors, where the model has several; empty: the only one.
    """

    url: Annotated[
        str, Field(pattern=r"^https?://[^/?#@]+$", description='the server, "https://host:8000"')
    ]
    model: Annotated[
        str, Field(pattern=_REMOTE_NAME, description="the name that the server knows it by")
    ]
    version: Annotated[
        str, Field(pattern=_REMOTE_NAME, description='the version that is asked, "3"')
    ]
    input: str = ""
    output: str = ""


class Preprocess(_Section):
    """Code that makes the input of a slice; see ``worker.bundles.code``."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+\.py$", description="a .py file, here")]
    sha256: _Sha256 = Field(description="the SHA-256 of that file, 64 hexadecimal digits")


class Weights(_Section):
    file: _Text = Field(description="the name of the model file in this folder")
    sha256: _Sha256 = Field(description="the SHA-256 of that file, 64 hexadecimal digits")
    format: Literal["keras", "h5-legacy", "onnx", "openvino"] = "keras"
    constants_sha256: _Sha256 | None = Field(
        None, description="the SHA-256 of the .bin file beside an .xml file of OpenVINO"
    )


class Input(Preparation):
    """What the model is given: a part of a slice, its channels, their numbers.

    Attributes
    ----------
    clip
        In the place of ``windows``: the lowest and the highest HU of each channel.
    depth, depth_mm
        Of a volume: so many slices are shown at once, so far apart; None: as far apart as makes
        them reach from one end of the acquisition to the other.
    tensors
        Of a model with several inputs: the name of each, and which channels it is given, from 0.
    """

    size: tuple[_Pixels, _Pixels] = Field(description="[rows, columns]")
    windows: Annotated[
        tuple[tuple[_LevelHu, _WidthHu], ...],
        Field(min_length=1, description="[[centre, width], ...] in HU, one for each channel"),
    ]
    clip: tuple[tuple[_LevelHu, _LevelHu], ...] = ()
    dtype: Literal["float32"] = "float32"
    layout: Layout = "nhwc"
    scale: tuple[_Number, _Number] = (0.0, 1.0)
    mean: Annotated[tuple[_Number, ...], Field(max_length=64)] = ()
    deviation: Annotated[tuple[_Positive, ...], Field(max_length=64)] = ()
    crop: Crop = "none"
    spacing_mm: (
        Annotated[float, Field(ge=SPACING_MM[0], le=SPACING_MM[1], allow_inf_nan=False)] | None
    ) = None
    neighbours: Annotated[int, Field(ge=0, le=MAX_NEIGHBOURS)] = 0
    depth: Annotated[int, Field(ge=2, le=MAX_DEPTH)] | None = None
    depth_mm: Annotated[float, Field(ge=0.1, le=50, allow_inf_nan=False)] | None = None
    tensors: dict[_Text, Annotated[tuple[int, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="a table of inputs, { brain = [0], bone = [1] }"
    )

    @model_validator(mode="before")
    @classmethod
    def _clip_is_windows(cls, given: object) -> object:
        """A range from low to high HU is a window, said otherwise."""
        if not isinstance(given, dict) or "clip" not in given:
            return given
        if "windows" in given:
            raise ValueError("clip and windows say the same; leave one of them out")
        try:
            windows = [[(low + high) / 2, high - low] for low, high in given["clip"]]
        except (TypeError, ValueError):
            windows = []
        if not windows or not all(width > 0 for _, width in windows):
            raise ValueError(
                "clip must be [[low, high], ...] in HU with low < high, one for each channel, "
                "such as [[-1000, 1000]]"
            )
        return {**given, "windows": windows}

    @model_validator(mode="before")
    @classmethod
    def _scale_of_z_scores(cls, given: object) -> object:
        """Return z-scores as they are where no scale is said."""
        if isinstance(given, dict) and given.get("normalise") == "z-score":
            deviations = given.get("deviations", Preparation().deviations)
            if isinstance(deviations, int | float):
                return {"scale": (-deviations, deviations), **given}
        return given

    @property
    def preparation(self) -> Preparation:
        """Return the keys that say how a part becomes channels."""
        return Preparation.model_validate(self.model_dump(include=set(Preparation.model_fields)))

    @model_validator(mode="after")
    def _part_is_said_once(self) -> Input:
        if self.crop == "centre" and self.spacing_mm is not None:
            raise ValueError(
                'crop = "centre" and spacing_mm both say how large the part is; with spacing_mm '
                'say crop = "none": it lies in the middle of the slice then'
            )
        if self.crop != "centre" and self.share != 1:
            raise ValueError('share does nothing without crop = "centre"; say that too')
        if self.fit == "stretch" and (self.crop == "centre" or self.spacing_mm is not None):
            raise ValueError(
                'fit = "stretch" does nothing where crop = "centre" or spacing_mm say the part: '
                "it has the aspect of size already; leave it out"
            )
        return self

    @property
    def channels(self) -> int:
        """Return how many channels the model takes: every window of each slice that it sees."""
        return len(self.windows) * (2 * self.neighbours + 1)

    @model_validator(mode="after")
    def _every_window_is_for_an_input(self) -> Input:
        if not self.tensors:
            return self
        windows, last = len(self.windows), self.channels - 1
        if len(self.tensors) < 2:
            raise ValueError("tensors names the inputs of a model with several; leave it out")
        for name, channels in self.tensors.items():
            if not set(channels) <= set(range(last + 1)) or len(set(channels)) < len(channels):
                raise ValueError(
                    f"tensors.{name} must list channels from 0 to {last}, each once: one for each "
                    f"window of each slice that the model sees (is {list(channels)})"
                )
        used = {channel % windows for these in self.tensors.values() for channel in these}
        if used != set(range(windows)):
            left = min(set(range(windows)) - used)
            raise ValueError(
                f"tensors gives window {left} (from 0) to no input; name one for it, or take it "
                "out of windows"
            )
        return self

    @model_validator(mode="after")
    def _part_is_no_larger_than_a_body(self) -> Input:
        side_mm = max(self.size) * (self.spacing_mm or 0.0)
        if side_mm > MAX_FIELD_MM:
            raise ValueError(
                f"spacing_mm {self.spacing_mm:g} makes {max(self.size)} pixels of the input "
                f"{side_mm:g} mm long, and no slice is longer than {MAX_FIELD_MM:g} mm; say how "
                "many mm one pixel of the input stands for"
            )
        return self

    @model_validator(mode="after")
    def _means_are_of_channels(self) -> Input:
        for key, values in (("mean", self.mean), ("deviation", self.deviation)):
            if len(values) not in {0, 1, self.channels}:
                raise ValueError(
                    f"{key} must have one number for all channels, or {self.channels}: one for "
                    f"each, in their order (has {len(values)})"
                )
        return self

    @model_validator(mode="after")
    def _scale_goes_up(self) -> Input:
        if self.scale[0] >= self.scale[1]:
            raise ValueError("scale must be [low, high] with low < high, such as [0, 1] or [-1, 1]")
        return self


class Output(_Section):
    """What the raw output of the model has to go through to be a probability."""

    activation: Activation = "none"
    inverted: bool = False


class Map(_Section):
    """An output of the model beside its answer: where in its input it looks, by its own account.

    A class activation map, say, or a head that was trained to mark. It is compared with what LIME
    says of ``decision.label``; nothing is found by it.

    Attributes
    ----------
    size
        Rows and columns of the map: one value for each cell, more where the model looks more.
    """

    output: _Text = Field(description="the name of the output of the model that is the map")
    size: tuple[_Cells, _Cells] = Field(description="[rows, columns] of the map")

    @property
    def cells(self) -> int:
        """Return how many values it has."""
        return self.size[0] * self.size[1]


class Calibration(_Section):
    temperature: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0


class Explain(_Section):
    """How LIME explains this model well; what the settings say goes before it."""

    mode: Literal["settled", "reference"] = "settled"
    samples: Annotated[int, Field(ge=20, le=100_000)] = 96
    superpixels: Annotated[int, Field(ge=4, le=1000)] = 20
    max_explained: Annotated[int, Field(ge=0)] = 5

    def overridden_by(self, settings: config.Explain) -> Explain:
        """Return what holds when ``settings`` are the node's."""
        asked = settings.model_dump(exclude={"seed"}, exclude_none=True)
        return self.model_copy(update=asked)


class Decision(_Section):
    label: _Text = Field(description="the name of the label that the finding is about")
    threshold: Annotated[
        float,
        Field(ge=0, le=1, allow_inf_nan=False, description="the least positive probability, 0..1"),
    ]
    chosen: _Text = Field(description="how the threshold was chosen, in words")


class Members(_Section):
    """Networks within the network, each with an answer of its own to ``decision.label``.

    Attributes
    ----------
    outputs
        Columns of the network's output, from 0: those after the labels.
    spread
        Where members lie on both sides of the threshold of the study and this far apart at
        least, they disagree.
    """

    outputs: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1000)], ...],
        Field(min_length=2, max_length=32, description="the columns after the labels, [1, 2, 3]"),
    ]
    spread: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.3


class StudyRule(_Section):
    """How a study gets its probability from those of its slices; see ``worker.study.rule``.

    Attributes
    ----------
    smooth_mm
        Standard deviation of the weights of neighbouring slices; 0: none.
    top
        The mean of so many highest smoothed logits is what counts.
    scale, shift
        The probability is that of the logit ``scale * mean + shift``.
    """

    smooth_mm: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    top: Annotated[int, Field(ge=1, le=1000)] = 1
    scale: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    shift: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 0.0
    threshold: Annotated[
        float,
        Field(ge=0, le=1, allow_inf_nan=False, description="the least positive probability, 0..1"),
    ]
    chosen: _Text = Field(description="how the rule and its threshold were chosen, in words")


class Preset(_Section):
    """A window that readers are offered on a key, and its name."""

    name: Annotated[str, Field(min_length=1, max_length=40, description="a name for people")]
    window: tuple[_LevelHu, _WidthHu] = Field(description="[centre, width] in HU")


class Golden(_Section):
    file: _Text = Field(description="the name of an .npz file in this folder")
    tolerance: Annotated[float, Field(gt=0, le=0.1, description="a difference, up to 0.1")]


class ExampleFile(_Section):
    """Slices with the probabilities that the author's own program told."""

    file: _Text = Field(description="the name of an .npz file in this folder")
    tolerance: Annotated[float, Field(gt=0, le=0.1, description="a difference, up to 0.1")]


class Variant(_Section):
    """One conversion of the weights, written by ``limen model convert``."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+\.xml$", description="an .xml file, here")]
    sha256: _Sha256 = Field(description="the SHA-256 of that file, 64 hexadecimal digits")
    weights_sha256: _Sha256 = Field(description="the SHA-256 of the .bin file beside it")
    made_from: _Sha256 = Field(description="weights.sha256 of the model it was made from")
    made_with: _Sha256 | None = Field(None, description="digest of the keys inside the file")
    tensors: Annotated[int, Field(ge=1, description="how many tensors the differences are of")]
    max_probability_difference: _Difference = Field(description="from the .keras file, 0..1")
    mean_probability_difference: _Difference = Field(description="from the .keras file, 0..1")
    same_decision: _Difference = Field(description="share of tensors on the same side, 0..1")


class OpenVINO(_Section):
    """The files for OpenVINO, and how exact int8 has to be to be taken unasked."""

    gate: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    fp32: Variant | None = None
    int8: Variant | None = None

    @property
    def variants(self) -> dict[Precision, Variant]:
        """What there is, by precision."""
        pairs: list[tuple[Precision, Variant | None]] = [("fp32", self.fp32), ("int8", self.int8)]
        return {name: found for name, found in pairs if found is not None}


class Manifest(_Section):
    name: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="a name in lower case")
    ]
    version: Annotated[
        str,
        Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$", description='a version, "1.0.0"'),
    ]
    licence: _Text = Field(description="the licence of the weights, in words")
    intended_use: _Text = Field(description="what the model is for, in words")
    training_data: _Text = Field(description="what the model has learned from, in words")
    weights: Weights | None = Field(None, description="a section with file and sha256")
    remote: Remote | None = Field(None, description="a section with url, model and version")
    input: Input = Field(description="a section with size and windows")
    label: Annotated[
        tuple[Label, ...],
        Field(min_length=1, description="one [[label]] for each output of the model"),
    ]
    decision: Decision = Field(description="a section with label, threshold and chosen")
    accepts: Accepts = Field(description="a section with modality, body_part and orientation")
    golden: Golden = Field(description="a section with file and tolerance")
    task: Task = Task.SLICES
    examples: ExampleFile | None = None
    preprocess: Preprocess | None = None
    output: Output = Output()
    map: Map | None = None
    calibration: Calibration = Calibration()
    members: Members | None = None
    study: StudyRule | None = None
    explain: Explain = Explain()
    openvino: OpenVINO = OpenVINO()
    preset: Annotated[tuple[Preset, ...], Field(max_length=MOST_PRESETS)] = ()
    metrics: tuple[dict[str, Metric], ...] = ()

    @property
    def presets(self) -> list[Window]:
        """Return the windows that readers are offered, the one to begin with first."""
        if self.preset:
            return [Window(one.name, *one.window) for one in self.preset]
        accepts = self.accepts
        windows = () if self.input.clip else self.input.windows
        return suggested(windows, accepts.modality, is_head=accepts.is_of_head)

    @model_validator(mode="after")
    def _labels_are_distinct_and_decision_names_one(self) -> Manifest:
        names = [label.name for label in self.label]
        if len(set(names)) < len(names):
            raise ValueError("each [[label]] needs a name of its own")
        if self.decision.label not in names:
            raise ValueError(f"decision.label must be one of the labels ({', '.join(names)})")
        return self

    @model_validator(mode="after")
    def _thresholds_are_said_once(self) -> Manifest:
        for label in self.label:
            if label.name == self.decision.label and label.threshold is not None:
                raise ValueError(
                    f"label {label.name}: decision.threshold is its threshold already; leave "
                    "threshold out there"
                )
            of_study = self.study is not None and label.threshold is not None
            if of_study and label.study_threshold is None:
                raise ValueError(
                    f"label {label.name}: [study] makes another probability of the study, so say "
                    "study_threshold for this label too"
                )
            if label.study_threshold is not None and not of_study:
                raise ValueError(
                    f"label {label.name}: study_threshold does nothing without its threshold and "
                    "[study]; leave it out"
                    + (", [study] has it" if label.name == self.decision.label else "")
                )
        return self

    @model_validator(mode="after")
    def _a_segmentation_has_volumes(self) -> Manifest:
        for label in self.label:
            sought = label.name == self.decision.label or label.threshold is not None
            if self.task is not Task.SEGMENTATION and (label.volume_ml or label.area_mm2):
                raise ValueError(
                    f'label {label.name}: volume_ml and area_mm2 are for task = "segmentation"; '
                    "say that too, or leave them out"
                )
            if self.task is Task.SEGMENTATION and sought and label.volume_ml is None:
                raise ValueError(
                    f"label {label.name}: a segmentation finds volumes; say volume_ml: from how "
                    "many ml on the study is positive"
                )
            if label.volume_ml is not None and not sought:
                raise ValueError(
                    f"label {label.name}: volume_ml needs threshold, too: from which probability "
                    "a pixel is of it"
                )
        return self

    @model_validator(mode="after")
    def _keys_fit_the_task(self) -> Manifest:
        if self.task is not Task.SLICES and (self.study or self.members):
            raise ValueError(
                "[study] and [members] weigh the slices of a classifier; leave them out with "
                f'task = "{self.task}"'
            )
        if (self.input.depth is not None) != (self.task is Task.VOLUME):
            raise ValueError(
                "input.depth says how many slices a model takes at once, and belongs to task = "
                '"volume"; say both, or none'
            )
        if self.input.depth is None and self.input.depth_mm is not None:
            raise ValueError("input.depth_mm does nothing without input.depth; say that too")
        if self.input.depth is not None and self.input.neighbours:
            raise ValueError(
                'input.neighbours does nothing in a volume (task = "volume"); leave it out'
            )
        if self.task is not Task.SLICES and self.preprocess is not None:
            raise ValueError(
                f"[preprocess] makes the input of a slice, and with task = {self.task.value!r} "
                "nobody could say where in the patient an answer lies; leave it away, or say it by "
                "the keys of [input]"
            )
        if self.input.depth is not None and self.input.over == "head":
            raise ValueError(
                'input.over = "head" is for slices; a volume is normalised by all of it: say '
                'input.over = "slice"'
            )
        return self

    @model_validator(mode="after")
    def _a_map_is_of_a_slice(self) -> Manifest:
        if self.map is not None and self.task is not Task.SLICES:
            raise ValueError(
                "[map] is where a model looks that judges a slice, and belongs to task = "
                f'"slices"; leave it out with task = "{self.task}"'
            )
        if self.map is not None and self.remote is not None:
            raise ValueError(
                "[map] is read from weights that are here, and a server is asked for one output; "
                "leave it out with [remote]"
            )
        return self

    @model_validator(mode="after")
    def _head_is_found_in_ct(self) -> Manifest:
        keys = {"crop": (self.input.crop, "none"), "over": (self.input.over, "slice")}
        for key, (value, instead) in keys.items():
            if value == "head" and set(self.accepts.modality) != {"CT"}:
                raise ValueError(
                    f'input.{key} = "head" finds the head by its HU, which only CT has; '
                    f"accepts.modality is {list(self.accepts.modality)}: leave "
                    f'["CT"], or say input.{key} = "{instead}"'
                )
        return self

    @model_validator(mode="after")
    def _layout_and_constants_are_of_their_formats(self) -> Manifest:
        weights = self.weights
        if weights is None:
            return self
        if self.input.layout == "nchw" and weights.format not in {"onnx", "openvino"}:
            raise ValueError(
                'input.layout = "nchw" is for weights.format "onnx" or "openvino"; a Keras model '
                'has its channels last: say "nhwc"'
            )
        if (weights.constants_sha256 is not None) != (weights.format == "openvino"):
            raise ValueError(
                "weights.constants_sha256 is the SHA-256 of the .bin file beside an .xml file, "
                'and belongs to weights.format = "openvino" only'
            )
        return self

    @model_validator(mode="after")
    def _code_or_keys_prepare_a_slice(self) -> Manifest:
        mine = {"fit", "padding", "share", "edges", "direction"}  # what is done before the code
        others = sorted(set(self.input.preparation.edited) - mine)
        if self.preprocess is not None and others:
            raise ValueError(
                f"input.{others[0]} does nothing where {self.preprocess.file} makes the input: do "
                "that in the code, or leave [preprocess] away"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_here_or_elsewhere(self) -> Manifest:
        if (self.weights is None) == (self.remote is None):
            raise ValueError(
                "[weights] (file, sha256) or [remote] (url, model, version) says what the model "
                f"is, and {'both are' if self.weights else 'neither is'} there: write one"
            )
        if self.remote is not None and self.remote.input and self.input.tensors:
            raise ValueError(
                "remote.input names one input, and input.tensors several; leave remote.input out"
            )
        if self.remote is not None and self.openvino.variants:
            raise ValueError(
                "[openvino] is made from [weights], and [remote] has none: take it away"
            )
        return self

    @model_validator(mode="after")
    def _output_fits_the_labels(self) -> Manifest:
        count = len(self.label)
        if self.output.inverted and count > 1:
            raise ValueError(
                f"output.inverted is for a single output where low means positive ({count} labels)"
            )
        if self.output.activation == "softmax" and count < 2:
            raise ValueError(
                "output.activation: a softmax needs two outputs or more; for one, say sigmoid"
            )
        return self

    @model_validator(mode="after")
    def _members_come_after_the_labels(self) -> Manifest:
        if self.members is None:
            return self
        first = len(self.label)
        wanted = list(range(first, first + len(self.members.outputs)))
        if sorted(self.members.outputs) != wanted:
            raise ValueError(
                f"members.outputs must name the columns after the labels, {wanted} "
                f"(got {list(self.members.outputs)})"
            )
        if self.output.activation == "softmax":
            raise ValueError(
                "members.outputs: a softmax over labels and members mixes them; save the model "
                'with its own activation and say output.activation = "none"'
            )
        return self


def read_toml(folder: Path) -> dict[str, Any]:
    """Return ``bundle.toml`` of a folder as it is written.

    Raises
    ------
    BundleError
        It is absent, cannot be read, or is no TOML.
    """
    path = folder / MANIFEST
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise BundleError(
            f"{path} does not exist; a model bundle is a folder with {MANIFEST}"
        ) from exc
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BundleError(f"{path} is not valid TOML: {exc}") from exc


def parse(tree: dict[str, Any]) -> tuple[Manifest | None, list[str]]:
    """Return the manifest, or None and every fault with its key and what was expected."""
    try:
        return Manifest.model_validate(tree), []
    except ValidationError as exc:
        return None, [_fault(error) for error in exc.errors()]


def _fault(error: Any) -> str:
    key = ".".join(str(p) for p in error["loc"]) or MANIFEST
    if error["type"] == "extra_forbidden":
        return f"{MANIFEST}: {key}: unknown key"
    if error["type"] == "missing":
        return f"{MANIFEST}: {key}: is missing; expected {_expected(error['loc'])}"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], dict) else f" (got {error['input']!r})"
    return f"{MANIFEST}: {key}: {message}{shown}"


def _expected(place: tuple[str | int, ...]) -> str:
    """Return what belongs at a key of the manifest, in words."""
    model: Any = Manifest
    text = "a value"
    for name in (part for part in place if isinstance(part, str)):
        field = model.model_fields[name]
        text = field.description or text
        inner = [field.annotation, *get_args(field.annotation)]
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), None)
    return text
