"""A verified bundle: one folder with ``bundle.toml``, the Keras weights and golden tensors.

A model file is code, so nothing of it is opened before its SHA-256 agrees with ``bundle.toml``.
Nothing here runs a model: ``worker.serving.self_test`` does. Tensors are 0..1 and probabilities
are those of the labels everywhere in Limen: what the model itself wants and gives
(``input.scale``, ``[output]``, ``[calibration]``) is translated by the engine, next to the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError
from limen.result import Task, Window
from worker.bundles.code import Code
from worker.bundles.golden import Examples, Golden, Keys, read_examples, read_golden
from worker.bundles.manifest import (
    MANIFEST,
    Accepts,
    Crop,
    Explain,
    Format,
    Label,
    Layout,
    Manifest,
    Map,
    Members,
    Metric,
    Output,
    Remote,
    StudyRule,
    Variant,
    Weights,
    parse,
    read_toml,
)
from worker.bundles.preparation import Preparation

__all__ = ["Bundle", "Converted", "Sought", "load", "refuse_altered", "sha256_of"]

SUFFIXES: Final[dict[str, tuple[str, ...]]] = {
    "keras": (".keras",),
    "h5-legacy": (".h5", ".hdf5"),
    "onnx": (".onnx",),
    "openvino": (".xml",),
}
"""Format of the weights -> how their file may end."""


@dataclass(frozen=True, slots=True)
class Sought:
    """A label that is a finding: what is said of a study depends on it.

    Attributes
    ----------
    index
        Its column of the model's output.
    threshold, study_threshold
        From which probability a slice is positive for it, and the study; of a segmentation a
        pixel.
    volume_ml
        Of a segmentation: from which volume the study is positive; else None.
    """

    label: Label
    index: int
    threshold: float
    study_threshold: float
    volume_ml: float | None = None

    @property
    def name(self) -> str:
        """The name of the label."""
        return self.label.name


@dataclass(frozen=True, slots=True)
class Converted:
    """The weights as OpenVINO reads them.

    Attributes
    ----------
    path, sha256
        The network (.xml).
    weights, weights_sha256
        Its constants (.bin).
    max_probability_difference
        From the Keras file, over the tensors that were compared when it was made.
    exact_enough
        The difference is within the gate of the bundle.
    """

    path: Path
    sha256: str
    weights: Path
    weights_sha256: str
    max_probability_difference: float
    exact_enough: bool


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified bundle.

    Attributes
    ----------
    folder
        Absolute folder of the bundle.
    weights
        Absolute path of the model; of one that a server runs, of the manifest that says so.
    sha256
        Digest of the weights; the identity of the model in every result. Of one that a server
        runs, of its name, its version and what it answered to the golden tensors.
    size
        Rows and columns of the model's input.
    windows
        Centre and width in HU, one pair for each channel.
    labels
        One for each output of the model, in its order.
    decision_label, threshold
        The label that the study finding is about, and the probability (0..1)
        from which a slice is positive.
    golden_tensor
        (n, *input_shape) float32, 0..1.
    golden_probability
        (n, *answer_shape) float32, 0..1: what the model answered when it was made.
    golden_tolerance
        Largest absolute difference that the self-test accepts.
    golden_made_with
        ``answer_keys`` as they were when the golden tensors were answered; None: not known.
    examples
        Slices with the probabilities that the author's own program told; None without.
    weights_format
        How the file of the weights is to be opened.
    constants_sha256
        Digest of the .bin file beside the weights, where they are OpenVINO's; else empty.
    scale, mean, deviation
        Range that 0..1 is mapped to before the model sees it, and what is subtracted and divided
        by after that: one number for each channel, one for all, or none.
    layout
        Where the model itself has the channels; tensors have them last everywhere else.
    crop, spacing_mm
        Which part of a slice becomes the input, and the side of a pixel of it (None: as it comes).
    neighbours
        So many slices on each side are further channels.
    preparation
        How a part of a slice becomes channels, beside that.
    task
        What it does with the slices of a study.
    depth, depth_mm
        Of a volume: its slices, and how far apart they are (None: as the acquisition is long).
    tensors
        Of a model with several inputs: the channels that each is given; empty for one input.
    output
        What follows the model's raw output.
    map
        The output of the model that says where it looks; None where it has none.
    temperature
        Each logit is divided by it.
    members
        Outputs after those of the labels, with an answer of their own each; None without.
    study
        How a study gets its probability; None: the highest slice against ``threshold``.
    explain
        Defaults of LIME.
    converted
        By precision, ``fp32`` and ``int8``: what OpenVINO runs instead of the weights.
    presets
        Windows that readers are offered, the one to begin with first.
    remote
        Who runs the model, where that is another server.
    code
        What makes the input of a slice, where the declaration cannot say it.
    """

    folder: Path
    name: str
    version: str
    licence: str
    intended_use: str
    training_data: str
    weights: Path
    sha256: str
    size: tuple[int, int]
    windows: tuple[tuple[float, float], ...]
    labels: tuple[Label, ...]
    decision_label: str
    threshold: float
    threshold_chosen: str
    accepts: Accepts
    golden_tensor: NDArray[np.float32]
    golden_probability: NDArray[np.float32]
    golden_tolerance: float
    metrics: tuple[dict[str, Metric], ...]
    weights_format: Format = "keras"
    constants_sha256: str = ""
    layout: Layout = "nhwc"
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    scale: tuple[float, float] = (0.0, 1.0)
    crop: Crop = "none"
    spacing_mm: float | None = None
    neighbours: int = 0
    preparation: Preparation = Preparation()
    task: Task = Task.SLICES
    depth: int | None = None
    depth_mm: float | None = None
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: Output = Output()
    map: Map | None = None
    temperature: float = 1.0
    members: Members | None = None
    study: StudyRule | None = None
    explain: Explain = Explain()
    converted: Mapping[str, Converted] = field(default_factory=dict)
    golden_made_with: Keys | None = None
    examples: Examples | None = None
    presets: tuple[Window, ...] = ()
    remote: Remote | None = None
    code: Code | None = None

    @property
    def tensor_keys(self) -> dict[str, Any]:
        """The keys of the manifest that say how a slice becomes a tensor, as JSON has them."""
        return {
            "input.size": list(self.size),
            "input.windows": [list(window) for window in self.windows],
            "input.crop": self.crop,
            "input.spacing_mm": self.spacing_mm,
            "input.neighbours": self.neighbours,
            **({"input.depth": self.depth} if self.depth else {}),
            **({"input.depth_mm": self.depth_mm} if self.depth_mm else {}),
            **{f"input.{key}": value for key, value in self.preparation.edited.items()},
            **({"preprocess.sha256": self.code.sha256} if self.code else {}),
        }

    @property
    def answer_keys(self) -> dict[str, Any]:
        """The keys that say how a tensor becomes probabilities, as JSON has them."""
        return {
            "input.scale": list(self.scale),
            **({"input.tensors": self._listed_tensors} if self.tensors else {}),
            **({"input.mean": list(self.mean)} if self.mean else {}),
            **({"input.deviation": list(self.deviation)} if self.deviation else {}),
            "output.activation": self.output.activation,
            "output.inverted": self.output.inverted,
            **({"map": self.map.model_dump(mode="json")} if self.map else {}),
            "calibration.temperature": self.temperature,
        }

    @property
    def _listed_tensors(self) -> dict[str, list[int]]:
        return {name: list(channels) for name, channels in self.tensors.items()}

    @property
    def answer_sha256(self) -> str:
        """A digest of ``answer_keys``."""
        text = json.dumps(self.answer_keys, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Rows, columns and channels of one input tensor; of a volume its depth before them."""
        of_slice = (*self.size, len(self.windows) * self.slices)
        return of_slice if self.depth is None else (self.depth, *of_slice)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What is answered to one input tensor: values, or those of each pixel."""
        if self.task is Task.SEGMENTATION:
            return (*self.size, self.outputs)
        return (self.outputs,)

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """What a backend gives for one input tensor: behind the values, the cells of the map."""
        return (self.outputs + self.cells,) if self.map else self.output_shape

    @property
    def cells(self) -> int:
        """How many the model's own map has; 0 without one."""
        return self.map.cells if self.map else 0

    @property
    def slices(self) -> int:
        """How many slices the channels of one tensor are of: one, and its neighbours."""
        return 2 * self.neighbours + 1

    @property
    def as_pictured(self) -> Bundle:
        """The bundle for a picture of a slice: its part and windows, alone, as they are."""
        how = self.preparation.model_copy(update={"normalise": "none", "padding": "air"})
        return replace(self, neighbours=0, preparation=how, code=None)

    @property
    def part(self) -> str:
        """What of a study is shown to the model at once, in words; empty for a whole slice."""
        parts = {"head": "the head", "centre": "the middle of the slice", "none": "the slice"}
        said = [parts[self.crop]] if self.crop != "none" or self.spacing_mm is not None else []
        if self.spacing_mm is not None:
            said.append(f"{self.spacing_mm:g} mm a pixel")
        if self.neighbours:
            which = "slice" if self.neighbours == 1 else "slices"
            said.append(f"{self.neighbours} more {which} on each side")
        if self.depth:
            apart = f", {self.depth_mm:g} mm apart" if self.depth_mm else " of each acquisition"
            said.append(f"{self.depth} slices at once{apart}")
        return ", ".join(said)

    @property
    def label_names(self) -> list[str]:
        """Names of the outputs, in the order of the model."""
        return [label.name for label in self.labels]

    @property
    def outputs(self) -> int:
        """Columns of the model's answer: one for each label, then one for each member."""
        return len(self.labels) + len(self.member_outputs)

    @property
    def member_outputs(self) -> tuple[int, ...]:
        """Columns of the members; empty without."""
        return self.members.outputs if self.members else ()

    @property
    def sought(self) -> tuple[Sought, ...]:
        """Labels that are findings, in the order of the model: that of the decision is one."""
        found = []
        for index, label in enumerate(self.labels):
            decides = label.name == self.decision_label
            threshold = self.threshold if decides else label.threshold
            if threshold is None:
                continue
            of_study = label.study_threshold
            if self.study is not None and decides:
                of_study = self.study.threshold
            study_threshold = threshold if of_study is None else of_study
            found.append(Sought(label, index, threshold, study_threshold, label.volume_ml))
        return tuple(found)

    @property
    def decision_index(self) -> int:
        """Place of the decision label among the outputs."""
        return self.label_names.index(self.decision_label)


def load(
    folder: Path,
    *,
    allow_legacy_h5: bool = False,
    converted: bool = True,
    golden: bool = True,
) -> Bundle:
    """Read and verify a bundle without running it.

    Parameters
    ----------
    allow_legacy_h5
        ``engine.allow_legacy_h5`` of the settings.
    converted
        False leaves ``[openvino]`` unread: it is about to be written again.
    golden
        False leaves golden tensors and examples unread: they are about to be written again.

    Raises
    ------
    BundleError
        With every fault, one a line: the file, the key, what was expected.
    """
    folder = folder.resolve()
    tree = read_toml(folder)
    if not converted:
        tree.pop("openvino", None)
    manifest, faults = parse(tree)
    faults += _file_faults(folder, tree)
    if manifest is not None:
        if manifest.weights is not None:
            faults += _format_faults(manifest.weights, allowed=allow_legacy_h5)
        faults += _variant_faults(folder, manifest)
    truth = None
    if manifest is not None and not faults:
        truth, faults = _truth(folder, manifest) if golden else (_untold(manifest), [])
    if manifest is None or truth is None or faults:
        raise BundleError("\n  ".join([f"model bundle {folder} cannot be used:", *faults]))
    told, examples = truth
    weights = manifest.weights
    found = Bundle(
        folder=folder,
        name=manifest.name,
        version=manifest.version,
        licence=manifest.licence,
        intended_use=manifest.intended_use,
        training_data=manifest.training_data,
        weights=folder / (weights.file if weights else MANIFEST),
        sha256=weights.sha256 if weights else _identity(manifest, told),
        size=manifest.input.size,
        windows=manifest.input.windows,
        labels=manifest.label,
        decision_label=manifest.decision.label,
        threshold=manifest.decision.threshold,
        threshold_chosen=manifest.decision.chosen,
        accepts=manifest.accepts,
        golden_tensor=told.tensor,
        golden_probability=told.probability,
        golden_tolerance=manifest.golden.tolerance,
        metrics=manifest.metrics,
        weights_format=weights.format if weights else "remote",
        constants_sha256=(weights.constants_sha256 if weights else None) or "",
        layout=manifest.input.layout,
        mean=manifest.input.mean,
        deviation=manifest.input.deviation,
        scale=manifest.input.scale,
        crop=manifest.input.crop,
        spacing_mm=manifest.input.spacing_mm,
        neighbours=manifest.input.neighbours,
        preparation=manifest.input.preparation,
        task=manifest.task,
        depth=manifest.input.depth,
        depth_mm=manifest.input.depth_mm,
        tensors=manifest.input.tensors,
        output=manifest.output,
        map=manifest.map,
        temperature=manifest.calibration.temperature,
        members=manifest.members,
        study=manifest.study,
        explain=manifest.explain,
        converted={
            n: _converted(folder, v, manifest) for n, v in manifest.openvino.variants.items()
        },
        golden_made_with=told.made_with,
        examples=examples,
        presets=tuple(manifest.presets),
        remote=manifest.remote,
        code=_code(folder, manifest),
    )
    _refuse_other_conversions(found, manifest)
    return found


def _truth(
    folder: Path, manifest: Manifest
) -> tuple[tuple[Golden, Examples | None] | None, list[str]]:
    """Return golden tensors and examples, or what is wrong with their files."""
    shape, answer = _shapes(manifest)
    golden, faults = read_golden(folder / manifest.golden.file, shape, answer)
    examples = None
    if manifest.examples is not None:
        path, tolerance = folder / manifest.examples.file, manifest.examples.tolerance
        examples, wrong = read_examples(path, len(manifest.label), tolerance)
        faults += wrong
    if golden is None or faults:
        remedy = f"; make it again with: limen model golden {folder} --renew"
        return None, [fault + remedy for fault in faults]
    return (golden, examples), []


def _untold(manifest: Manifest) -> tuple[Golden, Examples | None]:
    shape, answer = _shapes(manifest)
    return Golden(np.zeros((0, *shape), np.float32), np.zeros((0, *answer), np.float32)), None


def _shapes(manifest: Manifest) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of one tensor and of what is answered to it."""
    shape: tuple[int, ...] = (*manifest.input.size, manifest.input.channels)
    if manifest.input.depth is not None:
        shape = (manifest.input.depth, *shape)
    outputs = len(manifest.label) + _members(manifest)
    if manifest.task is Task.SEGMENTATION:
        return shape, (*manifest.input.size, outputs)
    return shape, (outputs + (manifest.map.cells if manifest.map else 0),)


def _refuse_other_conversions(found: Bundle, manifest: Manifest) -> None:
    """What OpenVINO runs holds scale, activation, temperature and direction: an edit is no edit."""
    for name, variant in manifest.openvino.variants.items():
        if variant.made_with not in {None, found.answer_sha256}:
            raise BundleError(
                f"model bundle {found.folder} cannot be used:\n  {MANIFEST}: openvino.{name}: was "
                "made with another input.scale, input.tensors, [output], [map] or [calibration] "
                "than it says now, which are inside the file; make it again with: "
                f"limen model convert {found.folder}"
            )


def _identity(manifest: Manifest, golden: Golden) -> str:
    """Return what stands in for the digest of weights that are not here."""
    assert manifest.remote is not None  # noqa: S101 - the manifest has weights or this
    named = f"{manifest.remote.model} {manifest.remote.version} {golden.tensor.shape}\n"
    parts = (named.encode(), golden.tensor.tobytes(), golden.probability.tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _members(manifest: Manifest) -> int:
    return len(manifest.members.outputs) if manifest.members else 0


def _format_faults(weights: Weights, *, allowed: bool) -> list[str]:
    """Return why the weights must not be opened in the way that the manifest says."""
    wanted = SUFFIXES[weights.format]
    if Path(weights.file).suffix not in wanted:
        return [
            f"{MANIFEST}: weights.file: must be a {' or '.join(wanted)} file with "
            f"weights.format = {weights.format!r} (got {weights.file!r})"
        ]
    if weights.format == "h5-legacy" and not allowed:
        return [
            f"{MANIFEST}: weights.format: 'h5-legacy' is not allowed here, because an .h5 file is "
            "not held to Keras's safe mode; save the model as .keras, or, when you trust its "
            "origin, set engine.allow_legacy_h5 = true (LIMEN_ENGINE__ALLOW_LEGACY_H5=true)"
        ]
    return []


def _file_faults(folder: Path, tree: dict[str, Any]) -> list[str]:
    """Return what is wrong with the files that the manifest names."""
    faults: list[str] = []
    for section in ("weights", "golden", "examples", "preprocess"):
        part = tree.get(section)
        name = part.get("file") if isinstance(part, dict) else None
        if isinstance(name, str) and name:
            faults += _one_file_faults(folder, section, name)
    if not faults:
        faults += _digest_faults(folder, tree.get("weights"))
        faults += _code_faults(folder, tree.get("preprocess"))
    return faults


def _code(folder: Path, manifest: Manifest) -> Code | None:
    said = manifest.preprocess
    return None if said is None else Code(folder / said.file, said.sha256)


def _code_faults(folder: Path, section: Any) -> list[str]:
    if not isinstance(section, dict) or not isinstance(section.get("file"), str):
        return []
    path = folder / section["file"]
    found = sha256_of(path) if path.is_file() else "missing"
    if found == section.get("sha256"):
        return []
    return [
        f"{path.name}: SHA-256 is {found}, but preprocess.sha256 of {MANIFEST} is "
        f"{section.get('sha256')!r}; the code is not the one that was released: put that file "
        "back; or read this one, write its SHA-256 there, and say limen model golden --renew"
    ]


def _one_file_faults(folder: Path, section: str, name: str) -> list[str]:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        return [f"{MANIFEST}: {section}.file: must stay inside the folder of the bundle"]
    known = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    if section == "weights" and path.suffix not in known:
        return [
            f"{MANIFEST}: weights.file: must be a .keras or .onnx file, or an .xml file of "
            f"OpenVINO (got {name!r}); other formats can run code when they are loaded"
        ]
    if not path.is_file():
        return [f"{name}: does not exist, but {section}.file of {MANIFEST} names it"]
    return []


def _variant_faults(folder: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files for OpenVINO."""
    faults = []
    for name, variant in manifest.openvino.variants.items():
        section = f"openvino.{name}"
        if manifest.weights is None or variant.made_from != manifest.weights.sha256:
            faults.append(f"{MANIFEST}: {section}: was made from other weights than weights.file")
            continue
        network = folder / variant.file
        for path, sha256 in (
            (network, variant.sha256),
            (network.with_suffix(".bin"), variant.weights_sha256),
        ):
            wrong = _one_file_faults(folder, section, path.name)
            if not wrong and sha256_of(path) != sha256:
                wrong = [f"{path.name}: its SHA-256 is not that of {section} in {MANIFEST}"]
            faults += wrong
    remedy = f"; make the files again with: limen model convert {folder}"
    return [fault + remedy for fault in faults]


def _converted(folder: Path, variant: Variant, manifest: Manifest) -> Converted:
    path = folder / variant.file
    return Converted(
        path=path,
        sha256=variant.sha256,
        weights=path.with_suffix(".bin"),
        weights_sha256=variant.weights_sha256,
        max_probability_difference=variant.max_probability_difference,
        exact_enough=variant.max_probability_difference <= manifest.openvino.gate,
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_altered(path: Path, sha256: str) -> None:
    """Look again before a file is run: between ``load`` and now it may have been replaced.

    Raises
    ------
    BundleError
        It is not the file that was verified.
    """
    if sha256_of(path) != sha256:
        raise BundleError(
            f"{path} was altered after the bundle was verified; start again, and copy "
            "bundles with nothing running"
        )


def _digest_faults(folder: Path, weights: Any) -> list[str]:
    if not isinstance(weights, dict) or not isinstance(weights.get("file"), str):
        return []
    pinned = [(folder / weights["file"], "sha256")]
    if "constants_sha256" in weights:
        pinned.append((pinned[0][0].with_suffix(".bin"), "constants_sha256"))
    faults = []
    for path, key in pinned:
        found = sha256_of(path) if path.is_file() else "missing"
        if found != weights.get(key):
            faults.append(
                f"{path.name}: SHA-256 is {found}, but weights.{key} of {MANIFEST} is "
                f"{weights.get(key)!r}; the weights are not the ones that were released: put that "
                "file back, or make a bundle of this one with limen model new"
            )
    return faults
