"""A bundle made from any image classifier: what the model says is read, the rest guessed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
from pydantic import ValidationError

from limen import config
from limen.durable import beside
from limen.errors import BundleError, ConfigError
from limen.result import Task
from worker.bundles import bundle as bundles
from worker.bundles.bundle import SUFFIXES, Bundle, sha256_of
from worker.bundles.code import FUNCTION, Code, refuse_unless_allowed
from worker.bundles.manifest import (
    MANIFEST,
    MAX_FIELD_MM,
    Accepts,
    Activation,
    Crop,
    Format,
    Input,
    Label,
    Layout,
    Output,
    Remote,
)
from worker.bundles.preparation import Preparation
from worker.dicom.decoder import Decoder
from worker.serving.backends.choice import OF_OPENVINO, installed
from worker.serving.backends.remote import read_facts as remote_facts
from worker.serving.facts import Facts
from worker.tools import model_golden, model_guesses, sources
from worker.tools.model_difference import Findings
from worker.tools.model_examples import Told
from worker.tools.model_guesses import Decision
from worker.tools.model_inputs import Windows, arranged
from worker.tools.model_manifest import text_of
from worker.tools.model_preprocess import try_out
from worker.tools.model_probes import View
from worker.tools.model_tasks import VOLUME_ML, depth_of, task_of

__all__ = ["Guess", "Made", "Wishes", "make"]

HEAD_WINDOWS: Final = ((40.0, 80.0), (80.0, 200.0), (40.0, 380.0))
"""Centre and width in HU: brain, subdural, soft tissue."""

_EXPORTS: Final = {
    ".pt": "export it where it was made: torch.onnx.export(model, image, 'model.onnx')",
    ".pth": "load it where it was made; torch.onnx.export(model, image, 'model.onnx')",
    "": "save the model with model.save('model.keras'), or export it as .onnx",
}
"""Ending of a file that is no model for us -> how to get one."""

HEAD_PARTS: Final = ("HEAD", "BRAIN", "SKULL")
ANY_SIZE: Final = (224, 224)
THRESHOLD: Final = 0.5
FIRST_VERSION: Final = "0.1.0"
_VERSION: Final = re.compile(r"\d+(\.[0-9A-Za-z+-]+)+")
TOLERANCE: Final = 1e-3
MOST_CHANNELS: Final = 32
"""A last axis that is longer holds columns."""

NOT_STATED: Final = "not stated"

_STEPS: Final = {
    "input.windows": {"windows", "channels"},
    "input.crop": {"part"},
    "input.scale": {"scale"},
    "output.activation": {"output"},
    "output.inverted": {"output"},
}
"""Keys that examples can prove -> the steps that they stand for."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person said; None or empty where nothing was said."""

    name: str | None = None
    labels: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    decision: str | None = None
    threshold: float | None = None
    windows: Windows = ()
    inputs: Mapping[str, Windows] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    crop: Crop | None = None
    spacing_mm: float | None = None
    neighbours: int | None = None
    preparation: Mapping[str, object] = field(default_factory=dict)
    depth: int | None = None
    depth_mm: float | None = None
    volume_ml: float | None = None
    layout: Layout | None = None
    scale: tuple[float, float] | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    activation: Activation | None = None
    inverted: bool = False
    modality: str | None = None
    body_part: tuple[str, ...] = ()
    licence: str | None = None
    code: Path | None = None


@dataclass(frozen=True, slots=True)
class Guess:
    """A value of the new manifest.

    Attributes
    ----------
    certain
        Read from the model, or said by the person; otherwise it has to be looked at.
    """

    key: str
    value: str
    why: str
    certain: bool


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """The bundle that was written, and where its values come from."""

    bundle: Bundle
    guesses: tuple[Guess, ...]


def make(
    source: Path,
    folder: Path,
    wishes: Wishes,
    *,
    allow_legacy_h5: bool = False,
    examples: Sequence[Told] = (),
    tolerance: float = model_golden.EXAMPLE_TOLERANCE,
    settings: config.Config | None = None,
    remote: Remote | None = None,
) -> Made:
    """Write a bundle into a new folder; when anything fails, the folder is not there.

    Parameters
    ----------
    source
        The file of the model; of one that a server runs, what people call it.
    examples
        Files with the numbers that the author's own program says of them.
    tolerance
        Largest difference from these.
    settings
        For the decoder of the examples, and the server of models.
    remote
        The model on that server, in place of a file.

    Raises
    ------
    ConfigError
        The folder exists, or a wish contradicts the model.
    Delayed
        The server is away.
    BundleError
        The model cannot be loaded, is no image classifier, or says other numbers of the examples
        than their author; the text names the step that differs.
    """
    settings = settings or config.Config()
    asked = settings.engine.remote
    file_format = _format_of(source, allow_legacy_h5=allow_legacy_h5) if not remote else "remote"
    with _new_folder(folder) as part:
        if remote is None:
            facts = _facts_of(source, file_format, wishes.layout)
        else:
            facts = remote_facts(remote, asked, wishes.layout)
        bundle, guesses, decided = _plan(facts, wishes, source, folder, file_format)
        if decided.others and not examples:
            raise ConfigError(decided.question)
        if remote is None:
            weights, constants = _copied(source, part, file_format)
            bundle = replace(
                bundle, weights=weights, sha256=sha256_of(weights), constants_sha256=constants
            )
        bundle = replace(
            bundle, folder=part, remote=remote, code=_code_of(wishes.code, part, settings)
        )
        findings = None
        if bundle.code is not None:
            with sources.open_decoder(settings) as decoder:
                try_out(bundle, decoder)
        if examples:
            with sources.open_decoder(settings) as decoder:
                bundle, findings = _held_to(bundle, decided, examples, decoder, tolerance, asked)
            guesses = [_proven(guess, findings) for guess in guesses]
        else:
            bundle = model_golden.answered(bundle, asked)
        guesses.insert(2, _scale_guess(bundle, decided, findings))
        doubtful = {guess.key for guess in guesses if not guess.certain}
        (part / MANIFEST).write_text(text_of(bundle, source.name, doubtful), "utf-8")
        model_golden.write(bundle)
        bundles.load(part, allow_legacy_h5=allow_legacy_h5)
    guesses.append(_compared(findings))
    if np.ptp(bundle.golden_probability, axis=0).max() < TOLERANCE:
        why = "the model says the same of every test tensor: is it trained, is the scale right?"
        guesses.append(Guess("golden", "no contrast", why, certain=False))
    return Made(bundles.load(folder, allow_legacy_h5=allow_legacy_h5), tuple(guesses))


def _held_to(
    bundle: Bundle,
    decided: Decision,
    examples: Sequence[Told],
    decoder: Decoder,
    tolerance: float,
    remote: config.RemoteModels,
) -> tuple[Bundle, Findings]:
    """Return the bundle with its examples, and with the scale that they decide where it is open.

    Raises
    ------
    BundleError
        No scale gives the numbers of their author.
    ConfigError
        Several do.
    """
    found = []
    for scale in (decided.scale, *decided.others):
        one = replace(bundle, scale=scale)
        try:
            found.append(model_golden.with_examples(one, examples, decoder, tolerance, remote))
        except BundleError:
            if not decided.others:
                raise
    if not found:
        raise BundleError(
            f"{decided.question}. None of these ranges gives the numbers of the examples within "
            f"{tolerance:g}: say one with --scale, and you are told which other step differs"
        )
    if len(found) > 1:
        several = f"{len(found)} of these give the numbers of the examples: more examples tell"
        raise ConfigError(f"{decided.question}. {several}")
    held, findings = found[0]
    return model_golden.answered(held, remote), findings


def _proven(guess: Guess, findings: Findings) -> Guess:
    """Return a guess as the examples leave it: proven, or with what they agree with as well."""
    if guess.key not in _STEPS or guess.certain:
        return guess
    also = [way[0] for way in findings.agreeing if way[0].step in _STEPS[guess.key]]
    if not also:
        return replace(guess, why="no other one tried gives the author's numbers", certain=True)
    return replace(guess, why=f"{guess.why}; the examples agree with {also[0].words} too")


def _compared(findings: Findings | None) -> Guess:
    if findings is None:
        why = "never compared with its author's numbers; --example FILE --expect NUMBER"
        return Guess("examples", "none", why, certain=False)
    count = len(findings.expected)
    why = f"the author's numbers within {findings.difference:.4f}, of {findings.tolerance:g}"
    return Guess("examples", str(count), why, certain=True)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder`` that takes its name when the block ends well."""
    if folder.exists() or folder.is_symlink():
        raise ConfigError(
            f"{folder} exists, and a bundle is never written over; name another folder, or "
            "remove this one"
        )
    try:
        with beside(folder) as part:
            part.mkdir(parents=True)
            yield part
    except OSError as exc:
        raise ConfigError(f"{folder} cannot be written: {exc.strerror}; name another") from exc


def _format_of(source: Path, *, allow_legacy_h5: bool) -> Format:
    if source.is_dir():
        raise ConfigError(
            f"{source} is a folder (a SavedModel?); load it where it was made and save it with "
            "model.save('model.keras')"
        )
    if not source.is_file():
        raise ConfigError(f"{source} does not exist; give the model's file with --from")
    formats = [name for name, suffixes in SUFFIXES.items() if source.suffix.lower() in suffixes]
    if not formats:
        raise ConfigError(
            f"{source} is no .keras file, no .onnx file, and no .xml file of OpenVINO; "
            f"{_EXPORTS.get(source.suffix.lower(), _EXPORTS[''])}"
        )
    if formats == ["openvino"] and not source.with_suffix(".bin").is_file():
        raise ConfigError(
            f"{source.with_suffix('.bin')} does not exist; an .xml file of OpenVINO needs the "
            "weights beside it: copy both, or write them with openvino.save_model"
        )
    if formats[0] in OF_OPENVINO and not installed("openvino"):
        raise ConfigError(f"{source} runs on OpenVINO, which is missing; install limen[openvino]")
    if formats == ["h5-legacy"] and not allow_legacy_h5:
        raise ConfigError(
            f"{source} is an .h5 file, which is not held to Keras's safe mode; save the model as "
            ".keras, or, when you trust its origin, set engine.allow_legacy_h5 = true in "
            "config.toml (LIMEN_ENGINE__ALLOW_LEGACY_H5=true)"
        )
    return cast(Format, formats[0])


def _facts_of(source: Path, file_format: Format, layout: Layout | None) -> Facts:
    if file_format in OF_OPENVINO:
        from worker.serving.backends import openvino_file  # noqa: PLC0415 - only where it is used

        return openvino_file.read_facts(source, layout)
    from worker.serving.backends.tensorflow import read_facts  # noqa: PLC0415 - seconds

    if layout == "nchw":
        raise ConfigError(
            f"--layout nchw is for ONNX and OpenVINO; a Keras model such as {source} has its "
            "channels last"
        )
    return read_facts(source, file_format)


def _code_of(source: Path | None, part: Path, settings: config.Config) -> Code | None:
    """Copy the code into the folder, where it is allowed."""
    if source is None:
        return None
    if source.suffix != ".py" or not source.is_file():
        raise ConfigError(
            f"--preprocess {source}: no such .py file; give one with a function "
            f"{FUNCTION}(hu, spacing_mm, facts)"
        )
    refuse_unless_allowed(Code(source, ""), allowed=settings.engine.allow_code)
    path = Path(shutil.copyfile(source, part / f"{FUNCTION}.py"))
    return Code(path, sha256_of(path))


def _copied(source: Path, part: Path, file_format: Format) -> tuple[Path, str]:
    """Copy the weights into the folder; return where they are, and the digest of their .bin."""
    weights = Path(shutil.copyfile(source, part / f"model{SUFFIXES[file_format][0]}"))
    if file_format != "openvino":
        return weights, ""
    constants = shutil.copyfile(source.with_suffix(".bin"), weights.with_suffix(".bin"))
    return weights, sha256_of(Path(constants))


# -- what the manifest will say --------------------------------------------------------------------


def _plan(
    facts: Facts, wishes: Wishes, source: Path, folder: Path, file_format: Format
) -> tuple[Bundle, list[Guess], Decision]:
    """Return the bundle without weights and golden tensors, and where its values come from.

    The scale comes for itself: it may be open until examples are compared.
    """
    task = task_of(facts, source)
    depth = depth_of(facts, task, wishes.depth, source)
    size, size_guess = _size(facts, wishes, source)
    slices = 2 * (wishes.neighbours or 0) + 1
    several = arranged(facts, wishes.inputs, wishes.windows, slices, source)
    facts, wishes = several.facts, replace(wishes, windows=several.windows)
    windows, windows_guess = _windows(facts, wishes, source)
    preparation = _preparation(wishes)
    view = View(
        size,
        windows,
        wishes.crop or "none",
        wishes.spacing_mm,
        wishes.neighbours or 0,
        preparation,
        depth,
    )
    said = wishes.scale
    if preparation.normalise == "z-score" and said is None:
        said = preparation.usual_scale
    decided = model_guesses.scale_of(facts, said, view, source)
    activation, why, certain = model_guesses.activation_of(facts, wishes.activation, view, source)
    activation_guess = Guess("output.activation", activation, why, certain=certain)
    names, decision, label_guesses = _labels(facts, wishes, activation)
    if wishes.inverted and len(names) > 1:
        raise ConfigError(
            f"--inverted is for a single output where low means positive; {source} has {len(names)}"
        )
    neighbours = wishes.neighbours or 0
    volume_ml = _volume_ml(wishes, task)
    _refuse_means(wishes, len(windows) * (2 * neighbours + 1))
    threshold = THRESHOLD if wishes.threshold is None else wishes.threshold
    head = windows[0] == HEAD_WINDOWS[0] and wishes.modality in {None, "CT"}
    parts = wishes.body_part or (HEAD_PARTS if head else ())
    modality = wishes.modality or "CT"
    if wishes.crop == "head" and modality != "CT":
        raise ConfigError(
            "--crop head finds the head by its HU, which only CT has; leave --modality "
            f"{modality} out, or say --crop none"
        )
    if wishes.spacing_mm and max(size) * wishes.spacing_mm > MAX_FIELD_MM:
        raise ConfigError(
            f"--spacing-mm {wishes.spacing_mm:g}: {max(size)} pixels of the input would be "
            f"{max(size) * wishes.spacing_mm:g} mm, and no slice is longer than {MAX_FIELD_MM:g}"
        )
    bundle = _bundle(
        folder=folder,
        name=wishes.name or _name_of(folder),
        version=_version_of(folder) or FIRST_VERSION,
        licence=wishes.licence or NOT_STATED,
        intended_use="Not stated. Research only. Not for diagnostic use.",
        training_data=NOT_STATED,
        weights=source,
        sha256="",
        size=size,
        windows=windows,
        labels=tuple(
            _label(
                name,
                wishes.thresholds.get(name),
                volume_ml if name == decision or name in wishes.thresholds else None,
            )
            for name in names
        ),
        decision_label=decision,
        threshold=threshold,
        threshold_chosen=(
            "the default of limen model new" if wishes.threshold is None else "by hand"
        ),
        accepts=Accepts(modality=(modality,), body_part=parts, orientation="axial"),
        golden_tensor=np.zeros((0, 0), np.float32),
        golden_probability=np.zeros((0, len(names)), np.float32),
        golden_tolerance=TOLERANCE,
        metrics=(),
        weights_format=file_format,
        layout=facts.layout,
        scale=decided.scale,
        mean=wishes.mean,
        deviation=wishes.deviation,
        crop=wishes.crop or "none",
        spacing_mm=wishes.spacing_mm,
        neighbours=neighbours,
        preparation=preparation,
        task=task,
        depth=depth,
        depth_mm=wishes.depth_mm,
        tensors=several.tensors,
        output=Output(activation=activation, inverted=wishes.inverted),
    )
    accepts_guess = Guess(
        "accepts",
        f"{modality}, {', '.join(parts) or 'any body part'}, axial",
        "as the windows suggest" if head and not wishes.body_part else "as said, else any",
        certain=bool(wishes.modality and wishes.body_part),
    )
    threshold_guess = Guess(
        "decision.threshold",
        f"{threshold:g}",
        "as said" if wishes.threshold is not None else "a default; choose it on validation data",
        certain=wishes.threshold is not None,
    )
    direction = Guess(
        "output.inverted",
        str(wishes.inverted).lower(),
        "as said" if wishes.inverted else "high means positive; --inverted if low does",
        certain=wishes.inverted or len(names) > 1,
    )
    guesses = [
        *(size_guess, windows_guess, *_inputs(several.tensors), *_part(wishes)),
        *(activation_guess, direction),
        *(*label_guesses, threshold_guess, *_task_guesses(task, depth, wishes), accepts_guess),
    ]
    return bundle, guesses, decided


def _volume_ml(wishes: Wishes, task: Task) -> float | None:
    if task is not Task.SEGMENTATION:
        if wishes.volume_ml is not None:
            raise ConfigError(
                "--volume-ml is for a segmentation, whose output has pixels; leave it out"
            )
        return None
    return VOLUME_ML if wishes.volume_ml is None else wishes.volume_ml


def _task_guesses(task: Task, depth: int | None, wishes: Wishes) -> list[Guess]:
    """Return what is told of a model that does not judge slice by slice."""
    if task is Task.SLICES:
        return []
    found = [Guess("task", task.value, "by what the model takes and gives", certain=True)]
    if task is Task.SEGMENTATION:
        said = wishes.volume_ml is not None
        why = "as said" if said else "a default; choose it on validation data, --volume-ml"
        volume_ml = VOLUME_ML if wishes.volume_ml is None else wishes.volume_ml
        found.append(Guess("label.volume_ml", f"{volume_ml:g} ml", why, certain=said))
    else:
        apart = "as long as the acquisition is; --depth-mm"
        found += [
            Guess("input.depth", f"{depth}", "read from the model, or said", certain=True),
            Guess("input.depth_mm", f"{wishes.depth_mm:g}", "as said", certain=True)
            if wishes.depth_mm
            else Guess("input.depth_mm", "not set", apart, certain=False),
        ]
    return found


def _preparation(wishes: Wishes) -> Preparation:
    """Return what was said of how a slice becomes channels.

    Raises
    ------
    ConfigError
        One of it makes no sense.
    """
    parts = {"size": ANY_SIZE, "windows": HEAD_WINDOWS[:1], "crop": wishes.crop or "none"}
    try:
        # The rules of the whole section hold; what is not said here is another option's.
        found = Input.model_validate(
            {**parts, "spacing_mm": wishes.spacing_mm and 1.0, **wishes.preparation}
        )
    except ValidationError as exc:
        error = exc.errors()[0]
        key = ".".join(str(part) for part in error["loc"])
        message = error["msg"].removeprefix("Value error, ")
        option = f"--{key.replace('_', '-')}: " if key else ""
        raise ConfigError(f"{option}{message}; say another, or leave it out") from exc
    if found.over == "head" and wishes.modality not in {None, "CT"}:
        raise ConfigError(
            "--over head finds the head by its HU, which only CT has; leave --modality "
            f"{wishes.modality} out, or say --over slice"
        )
    return found.preparation


def _refuse_means(wishes: Wishes, channels: int) -> None:
    for option, values in (("--mean", wishes.mean), ("--deviation", wishes.deviation)):
        if len(values) not in {0, 1, channels}:
            raise ConfigError(
                f"{option} has {len(values)} numbers, and the model has {channels} channels; give "
                "one for each, in their order, or one for all"
            )


def _bundle(**values: object) -> Bundle:
    return Bundle(**values)  # type: ignore[arg-type]


def _version_of(folder: Path) -> str:
    """Return the version that a folder is called after, as ``heads/1.2.0``; "": it is no such."""
    name = folder.absolute().name
    return name if _VERSION.fullmatch(name) else ""


def _name_of(folder: Path) -> str:
    named = folder.absolute().parent if _version_of(folder) else folder.absolute()
    name = re.sub(r"[^a-z0-9_-]+", "-", named.name.lower()).strip("-_")
    return name[:64] or "model"


def _label(name: str, threshold: float | None, volume_ml: float | None) -> Label:
    try:
        meaning = name.replace("_", " ").replace("-", " ").strip().capitalize()
        code = (name[:16], "99LIMEN")
        return Label(
            name=name, meaning=meaning, code=code, threshold=threshold, volume_ml=volume_ml
        )
    except ValidationError as exc:
        raise ConfigError(f"--label {name!r}: letters, digits, - and _ make a label") from exc


def _size(facts: Facts, wishes: Wishes, source: Path) -> tuple[tuple[int, int], Guess]:
    rows, columns = facts.input_shape[-3:-1]
    wanted = wishes.size or (rows or ANY_SIZE[0], columns or ANY_SIZE[1])
    if (rows or wanted[0], columns or wanted[1]) != wanted:
        raise ConfigError(
            f"--size {wanted[0]} {wanted[1]}: {source} takes {rows or 'any'} x {columns or 'any'}"
        )
    fixed = rows is not None and columns is not None
    why = "read from the model" if fixed else "the model takes any size; --size"
    return wanted, Guess(
        "input.size", f"{wanted[0]} x {wanted[1]}", why, certain=fixed or wishes.size is not None
    )


def _windows(
    facts: Facts, wishes: Wishes, source: Path
) -> tuple[tuple[tuple[float, float], ...], Guess]:
    channels, slices = facts.input_shape[-1], 2 * (wishes.neighbours or 0) + 1
    takes = f"{source} takes {channels} channels"
    if slices > 1:
        takes += f" for {slices} slices (2 x {wishes.neighbours} neighbours + 1)"
    turned = channels is not None and channels > MOST_CHANNELS
    by_channels = {slices: HEAD_WINDOWS[:1], 3 * slices: HEAD_WINDOWS, None: HEAD_WINDOWS}
    windows = wishes.windows or by_channels.get(channels, ())
    if channels is not None and channels % slices:
        raise ConfigError(
            f"--neighbours {wishes.neighbours}: {takes}, which is no multiple of {slices}; each "
            "slice has all windows"
        )
    if not windows:
        raise ConfigError(
            f"{takes}, and there is no usual set of windows for that; give one CENTRE/WIDTH in HU "
            "for each channel of a slice with --windows, such as --windows 40/80,80/200, or say "
            "with --neighbours how many slices on each side are channels too"
            + ("; a model with its channels first is not supported" if turned else "")
        )
    if channels not in {None, len(windows) * slices}:
        wanted = f"--windows lists {len(windows)}, but {takes}; "
        raise ConfigError(wanted + _one_for_each(len(windows), slices))
    shown = ", ".join(f"{centre:g}/{width:g}" for centre, width in windows)
    why = "as said" if wishes.windows else _usual(channels, slices)
    return windows, Guess("input.windows", f"{shown} HU", why, certain=bool(wishes.windows))


def _one_for_each(windows: int, slices: int) -> str:
    if slices == 1:
        return "give one for each"
    return f"{windows} windows x {slices} slices make {windows * slices}"


def _usual(channels: int | None, slices: int) -> str:
    each = len(HEAD_WINDOWS) if channels is None else channels // slices
    of = " of each slice" if slices > 1 else ""
    return f"usual for head CT with {each} channels{of}"


def _inputs(tensors: Mapping[str, tuple[int, ...]]) -> list[Guess]:
    """Return which channels each of several inputs is given; none of a model with one."""
    if not tensors:
        return []
    shown = "; ".join(f"{name} {', '.join(map(str, those))}" for name, those in tensors.items())
    return [Guess("input.tensors", f"channels: {shown}", "by --input", certain=True)]


def _part(wishes: Wishes) -> list[Guess]:
    """Return what of a study the model is shown at once; the model does not say."""
    said = {
        "crop": wishes.crop,
        "spacing_mm": None if wishes.spacing_mm is None else f"{wishes.spacing_mm:g}",
        "neighbours": None if wishes.neighbours is None else str(wishes.neighbours),
        **{key: str(value) for key, value in wishes.preparation.items()},
    }
    found = [
        Guess(f"input.{key}", value, "as said", certain=True)
        for key, value in said.items()
        if value is not None
    ]
    if found:
        return found
    why = "all of one slice, as large as it comes; --crop, --spacing-mm, --neighbours"
    return [Guess("input.crop", "none", why, certain=False)]


def _scale_guess(bundle: Bundle, decided: Decision, findings: Findings | None) -> Guess:
    low, high = bundle.scale
    guess = Guess("input.scale", f"{low:g} to {high:g}", decided.why, certain=decided.certain)
    return guess if findings is None else _proven(guess, findings)


def _labels(
    facts: Facts, wishes: Wishes, activation: Activation
) -> tuple[tuple[str, ...], str, list[Guess]]:
    """Return the names of the outputs, the one that decides, and how sure that is."""
    outputs = facts.output_shape[-1] or 0
    either_or = activation == "softmax" or facts.ending.activation == "softmax"
    names = wishes.labels
    if not names:
        usual = {1: ("positive",), 2: ("negative", "positive") if either_or else ()}
        names = usual.get(outputs, ()) or tuple(f"output-{n}" for n in range(1, outputs + 1))
    if len(names) != outputs or len(set(names)) != outputs:
        raise ConfigError(
            f"the model gives {outputs} outputs; give --label {outputs} times, each with a name "
            f"of its own, in their order (got {', '.join(names)})"
        )
    decision = wishes.decision or next(
        (name for name in names if name in {"positive", "any"}), names[-1 if either_or else 0]
    )
    if decision not in names:
        raise ConfigError(f"--decision {decision}: no such label; they are {', '.join(names)}")
    if decision in wishes.thresholds:
        raise ConfigError(
            f"--label {decision}={wishes.thresholds[decision]:g}: the label that decides has its "
            "threshold by --threshold; say it there, or name another one with --decision"
        )
    kind = "one of them is true" if either_or else "each for itself"
    shown = ", ".join(names) + (f" ({kind})" if outputs > 1 else "")
    named, only = bool(wishes.labels), "the only one" if outputs == 1 else ""
    why = "as said; their meaning and code are placeholders" if named else "names are placeholders"
    return (
        names,
        decision,
        [
            Guess("label", shown, why, certain=False),
            Guess(
                "decision.label",
                decision,
                "as said" if wishes.decision else only or "the finding is about it; --decision",
                certain=bool(wishes.decision) or outputs == 1,
            ),
        ],
    )
