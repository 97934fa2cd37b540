"""A model bundle: one folder with ``bundle.toml``, the Keras weights and golden tensors.

A model file is code, so nothing of it is opened before its SHA-256 agrees with
``bundle.toml``. ``load`` needs no TensorFlow; ``check`` also runs the model on
the golden tensors. Tensors are 0..1 and probabilities are those of the labels
everywhere in Limen: what the model itself wants and gives (``input.scale``,
``[output]``, ``[calibration]``) is translated by the engine, next to the model.
"""

from __future__ import annotations

import hashlib
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limen import config
from limen.errors import BundleError

__all__ = [
    "Accepts",
    "Activation",
    "Bundle",
    "Converted",
    "Explain",
    "Format",
    "Label",
    "check",
    "load",
    "refuse_altered",
    "sha256_of",
]

MANIFEST = "bundle.toml"
Format = Literal["keras", "h5-legacy"]
SUFFIXES: dict[str, tuple[str, ...]] = {"keras": (".keras",), "h5-legacy": (".h5", ".hdf5")}
"""Format of the weights -> how their file may end."""

Activation = Literal["none", "sigmoid", "softmax"]
"""What has to be applied to the raw output of a model to get probabilities."""

Precision = Literal["fp32", "int8"]

_Text = Annotated[str, Field(min_length=1)]
_Pixels = Annotated[int, Field(ge=8, le=4096)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_WidthHu = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_LevelHu = Annotated[float, Field(allow_inf_nan=False)]
_Metric = str | int | float | bool


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Difference = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Section):
    """One output of the model.

    Attributes
    ----------
    code
        Code value and coding scheme designator (PS3.16 Section 8).
    """

    name: Annotated[str, Field(pattern=_LABEL_NAME, description="a name of letters and digits")]
    meaning: _Text = Field(description="what the label stands for, for people")
    code: tuple[_Text, _Text] = Field(description='[code value, coding scheme], ["1386000", "SCT"]')


class Accepts(_Section):
    """Which series the model was made for. An empty BodyPartExamined is accepted."""

    modality: Annotated[
        tuple[_Text, ...], Field(min_length=1, description='a list of modalities, ["CT"]')
    ]
    body_part: tuple[_Text, ...] = Field(description="a list of body parts; [] accepts all")
    orientation: Annotated[str, Field(pattern=r"^axial$", description='"axial"')]


class _Weights(_Section):
    file: _Text = Field(description="the name of the model file in this folder")
    sha256: _Sha256 = Field(description="the SHA-256 of that file, 64 hexadecimal digits")
    format: Format = "keras"


class _Input(_Section):
    size: tuple[_Pixels, _Pixels] = Field(description="[rows, columns]")
    windows: Annotated[
        tuple[tuple[_LevelHu, _WidthHu], ...],
        Field(min_length=1, description="[[centre, width], ...] in HU, one for each channel"),
    ]
    dtype: Literal["float32"] = "float32"
    scale: tuple[_Number, _Number] = (0.0, 1.0)

    @model_validator(mode="after")
    def _scale_goes_up(self) -> _Input:
        if self.scale[0] >= self.scale[1]:
            raise ValueError("scale must be [low, high] with low < high, such as [0, 1] or [-1, 1]")
        return self


class Output(_Section):
    """What the raw output of the model has to go through to be a probability."""

    activation: Activation = "none"
    inverted: bool = False


class _Calibration(_Section):
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


class _Decision(_Section):
    label: _Text = Field(description="the name of the label that the finding is about")
    threshold: Annotated[
        float,
        Field(ge=0, le=1, allow_inf_nan=False, description="the least positive probability, 0..1"),
    ]
    chosen: _Text = Field(description="how the threshold was chosen, in words")


class _Golden(_Section):
    file: _Text = Field(description="the name of an .npz file in this folder")
    tolerance: Annotated[float, Field(gt=0, le=0.1, description="a difference, up to 0.1")]


class _Variant(_Section):
    """One conversion of the weights, written by ``limen model convert``."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+\.xml$", description="an .xml file, here")]
    sha256: _Sha256 = Field(description="the SHA-256 of that file, 64 hexadecimal digits")
    weights_sha256: _Sha256 = Field(description="the SHA-256 of the .bin file beside it")
    made_from: _Sha256 = Field(description="weights.sha256 of the model it was made from")
    tensors: Annotated[int, Field(ge=1, description="how many tensors the differences are of")]
    max_probability_difference: _Difference = Field(description="from the .keras file, 0..1")
    mean_probability_difference: _Difference = Field(description="from the .keras file, 0..1")
    same_decision: _Difference = Field(description="share of tensors on the same side, 0..1")


class _OpenVINO(_Section):
    """The files for OpenVINO, and how exact int8 has to be to be taken unasked."""

    gate: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    fp32: _Variant | None = None
    int8: _Variant | None = None

    @property
    def variants(self) -> dict[Precision, _Variant]:
        """What there is, by precision."""
        pairs: list[tuple[Precision, _Variant | None]] = [("fp32", self.fp32), ("int8", self.int8)]
        return {name: found for name, found in pairs if found is not None}


class _Manifest(_Section):
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
    weights: _Weights = Field(description="a section with file and sha256")
    input: _Input = Field(description="a section with size and windows")
    label: Annotated[
        tuple[Label, ...],
        Field(min_length=1, description="one [[label]] for each output of the model"),
    ]
    decision: _Decision = Field(description="a section with label, threshold and chosen")
    accepts: Accepts = Field(description="a section with modality, body_part and orientation")
    golden: _Golden = Field(description="a section with file and tolerance")
    output: Output = Output()
    calibration: _Calibration = _Calibration()
    explain: Explain = Explain()
    openvino: _OpenVINO = _OpenVINO()
    metrics: tuple[dict[str, _Metric], ...] = ()

    @model_validator(mode="after")
    def _labels_are_distinct_and_decision_names_one(self) -> _Manifest:
        names = [label.name for label in self.label]
        if len(set(names)) < len(names):
            raise ValueError("each [[label]] needs a name of its own")
        if self.decision.label not in names:
            raise ValueError(f"decision.label must be one of the labels ({', '.join(names)})")
        return self

    @model_validator(mode="after")
    def _output_fits_the_labels(self) -> _Manifest:
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
        Absolute path of the Keras model.
    sha256
        Digest of the weights; the identity of the model in every result.
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
        (n, rows, columns, channels) float32, 0..1.
    golden_probability
        (n, labels) float32, 0..1: what the model answered when it was made.
    golden_tolerance
        Largest absolute difference that the self-test accepts.
    weights_format
        How the file of the weights is to be opened.
    scale
        Range that 0..1 is mapped to before the model sees it.
    output
        What follows the model's raw output.
    temperature
        Each logit is divided by it.
    explain
        Defaults of LIME.
    converted
        By precision, ``fp32`` and ``int8``: what OpenVINO runs instead of the weights.
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
    metrics: tuple[dict[str, _Metric], ...]
    weights_format: Format = "keras"
    scale: tuple[float, float] = (0.0, 1.0)
    output: Output = Output()
    temperature: float = 1.0
    explain: Explain = Explain()
    converted: Mapping[str, Converted] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of one input tensor."""
        return (*self.size, len(self.windows))

    @property
    def label_names(self) -> list[str]:
        """Names of the outputs, in the order of the model."""
        return [label.name for label in self.labels]

    @property
    def decision_index(self) -> int:
        """Place of the decision label among the outputs."""
        return self.label_names.index(self.decision_label)


def load(folder: Path, *, allow_legacy_h5: bool = False, converted: bool = True) -> Bundle:
    """Read and verify a bundle without running it.

    Parameters
    ----------
    allow_legacy_h5
        ``engine.allow_legacy_h5`` of the settings.
    converted
        False leaves ``[openvino]`` unread: it is about to be written again.

    Raises
    ------
    BundleError
        With every fault, one a line: the file, the key, what was expected.
    """
    folder = folder.resolve()
    tree = _read_toml(folder)
    if not converted:
        tree.pop("openvino", None)
    faults = _file_faults(folder, tree)
    manifest = None
    try:
        manifest = _Manifest.model_validate(tree)
    except ValidationError as exc:
        faults = [_fault(e) for e in exc.errors()] + faults
    if manifest is not None:
        faults += _format_faults(manifest.weights, allowed=allow_legacy_h5)
        faults += _variant_faults(folder, manifest)
    golden = None
    if manifest is not None and not faults:
        golden, faults = _read_golden(folder / manifest.golden.file, manifest)
    if manifest is None or golden is None or faults:
        raise BundleError("\n  ".join([f"model bundle {folder} cannot be used:", *faults]))
    return Bundle(
        folder=folder,
        name=manifest.name,
        version=manifest.version,
        licence=manifest.licence,
        intended_use=manifest.intended_use,
        training_data=manifest.training_data,
        weights=folder / manifest.weights.file,
        sha256=manifest.weights.sha256,
        size=manifest.input.size,
        windows=manifest.input.windows,
        labels=manifest.label,
        decision_label=manifest.decision.label,
        threshold=manifest.decision.threshold,
        threshold_chosen=manifest.decision.chosen,
        accepts=manifest.accepts,
        golden_tensor=golden[0],
        golden_probability=golden[1],
        golden_tolerance=manifest.golden.tolerance,
        metrics=manifest.metrics,
        weights_format=manifest.weights.format,
        scale=manifest.input.scale,
        output=manifest.output,
        temperature=manifest.calibration.temperature,
        explain=manifest.explain,
        converted={
            n: _converted(folder, v, manifest) for n, v in manifest.openvino.variants.items()
        },
    )


def check(folder: Path, *, allow_legacy_h5: bool = False) -> Bundle:
    """Verify a bundle and run its model on the golden tensors, with every backend it can have.

    Raises
    ------
    BundleError
        The bundle cannot be loaded, or its model answers differently from
        when it was made.
    """
    bundle = load(folder, allow_legacy_h5=allow_legacy_h5)
    from worker.backends.choice import installed  # noqa: PLC0415 - imports this module
    from worker.engine import Engine, golden_check  # noqa: PLC0415

    wanted: list[config.Engine] = []
    if installed("tensorflow"):
        wanted.append(config.Engine(backend="tensorflow", precision="fp32"))
    if installed("openvino"):
        precisions = sorted(bundle.converted)
        wanted += [config.Engine(backend="openvino", precision=p) for p in precisions]
    for settings in wanted or [config.Engine()]:
        with Engine(bundle, settings) as engine:
            golden_check(engine, bundle)
    return bundle


def _read_toml(folder: Path) -> dict[str, Any]:
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
    model: Any = _Manifest
    text = "a value"
    for name in (part for part in place if isinstance(part, str)):
        field = model.model_fields[name]
        text = field.description or text
        inner = [field.annotation, *get_args(field.annotation)]
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), None)
    return text


def _format_faults(weights: _Weights, *, allowed: bool) -> list[str]:
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
    for section in ("weights", "golden"):
        part = tree.get(section)
        name = part.get("file") if isinstance(part, dict) else None
        if isinstance(name, str) and name:
            faults += _one_file_faults(folder, section, name)
    if not faults:
        faults += _digest_faults(folder, tree.get("weights"))
    return faults


def _one_file_faults(folder: Path, section: str, name: str) -> list[str]:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        return [f"{MANIFEST}: {section}.file: must stay inside the folder of the bundle"]
    known = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    if section == "weights" and path.suffix not in known:
        return [
            f"{MANIFEST}: weights.file: must be a .keras file (got {name!r}); "
            "other formats can run code when they are loaded"
        ]
    if not path.is_file():
        return [f"{name}: does not exist, but {section}.file of {MANIFEST} names it"]
    return []


def _variant_faults(folder: Path, manifest: _Manifest) -> list[str]:
    """Return what is wrong with the files for OpenVINO."""
    faults = []
    for name, variant in manifest.openvino.variants.items():
        section = f"openvino.{name}"
        if variant.made_from != manifest.weights.sha256:
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


def _converted(folder: Path, variant: _Variant, manifest: _Manifest) -> Converted:
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
        raise BundleError(f"{path} was altered after the bundle was verified")


def _digest_faults(folder: Path, weights: Any) -> list[str]:
    if not isinstance(weights, dict) or not isinstance(weights.get("file"), str):
        return []
    found = sha256_of(folder / weights["file"])
    if found == weights.get("sha256"):
        return []
    return [
        f"{weights['file']}: SHA-256 is {found}, but weights.sha256 of {MANIFEST} is "
        f"{weights.get('sha256')!r}; the weights are not the ones that were released"
    ]


def _read_golden(
    path: Path, manifest: _Manifest
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]] | None, list[str]]:
    """Return the golden tensors and probabilities, or what is wrong with them."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tensor, probability = arrays["tensor"], arrays["probability"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as exc:
        return None, [
            f"{path.name}: must be an .npz file with arrays 'tensor' and 'probability' "
            f"({type(exc).__name__})"
        ]
    count = len(tensor) if tensor.ndim else 0
    wanted = {
        "tensor": (max(count, 1), *manifest.input.size, len(manifest.input.windows)),
        "probability": (max(count, 1), len(manifest.label)),
    }
    faults = []
    for name, array in (("tensor", tensor), ("probability", probability)):
        if array.shape != wanted[name] or array.dtype != np.float32:
            faults.append(
                f"{path.name}: {name} must be float32 of shape {wanted[name]} "
                f"(got {array.dtype} {array.shape})"
            )
        elif not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            faults.append(f"{path.name}: {name} must lie within 0..1")
    return (None if faults else (tensor, probability)), faults
