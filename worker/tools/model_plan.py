"""What the manifest of a new bundle will say: what was said, read from the model, or guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from limen.errors import ConfigError
from limen.result import Task
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import (
    MAX_FIELD_MM,
    Accepts,
    Activation,
    Crop,
    Format,
    Input,
    Label,
    Layout,
    Map,
    Output,
)
from worker.bundles.preparation import Preparation
from worker.serving.facts import Facts
from worker.tools import model_guesses
from worker.tools.model_guesses import Decision
from worker.tools.model_inputs import Windows, arranged
from worker.tools.model_probes import View
from worker.tools.model_tasks import VOLUME_ML, depth_of, map_of, task_of

__all__ = ["HEAD_WINDOWS", "NOT_STATED", "TOLERANCE", "Guess", "Wishes", "planned"]

HEAD_WINDOWS: Final = ((40.0, 80.0), (80.0, 200.0), (40.0, 380.0))
"""Centre and width in HU: brain, subdural, soft tissue."""

HEAD_PARTS: Final = ("HEAD", "BRAIN", "SKULL")
ANY_SIZE: Final = (224, 224)
THRESHOLD: Final = 0.5
FIRST_VERSION: Final = "0.1.0"
_VERSION: Final = re.compile(r"\d+(\.[0-9A-Za-z+-]+)+")
TOLERANCE: Final = 1e-3
MOST_CHANNELS: Final = 32
"""A last axis that is longer holds columns."""

NOT_STATED: Final = "not stated"


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
    map: str = ""
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


def planned(
    facts: Facts, wishes: Wishes, source: Path, folder: Path, file_format: Format
) -> tuple[Bundle, list[Guess], Decision]:
    """Return the bundle without weights and golden tensors, and where its values come from.

    The scale comes for itself: it may be open until examples are compared.
    """
    if wishes.map and file_format == "remote":
        raise ConfigError(
            "--map is read from weights that are here, and a server is asked for one output; leave "
            "it out with --remote"
        )
    own_map = map_of(facts, wishes.map, source)
    task = task_of(facts, source)
    if own_map is not None and task is not Task.SLICES:
        raise ConfigError(
            f"--map {wishes.map}: a map is where a model looks that judges a slice, and {source} "
            f"is a {task}; leave it out, and save the model without that output"
        )
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
        map=own_map,
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
        *(activation_guess, direction, *_map_guess(own_map)),
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


def _map_guess(own_map: Map | None) -> list[Guess]:
    if own_map is None:
        return []
    rows, columns = own_map.size
    return [Guess("map", f"{own_map.output}, {rows} x {columns}", "by --map", certain=True)]


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
