"""The text of bundle.toml for a new bundle; what was guessed says so on its line."""

from __future__ import annotations

import json

from limen.result import Task
from worker.bundles.bundle import Bundle
from worker.bundles.golden import EXAMPLES_FILE, GOLDEN_FILE
from worker.bundles.manifest import Remote

__all__ = ["examples_of", "text_of"]


def text_of(bundle: Bundle, source: str, doubtful: set[str]) -> str:
    """Return bundle.toml.

    Parameters
    ----------
    source
        The name of the file that the weights come from.
    doubtful
        Keys that were guessed.
    """

    def mark(key: str) -> str:
        return "  # guessed: check it" if key in doubtful else ""

    def line(key: str, value: object, section: str = "") -> str:
        text = json.dumps(value, ensure_ascii=False)
        return f"{key} = {text}{mark(f'{section}.{key}' if section else key)}"

    labels = [
        part
        for label in bundle.labels
        for part in (
            f"[[label]]{mark('label')}",
            line("name", label.name),
            line("meaning", label.meaning),
            line("code", list(label.code)) + "  # code value, coding scheme",
            *([line("threshold", label.threshold)] * (label.threshold is not None)),
            *([line("volume_ml", label.volume_ml)] * (label.volume_ml is not None)),
            "",
        )
    ]
    return "\n".join(
        [
            f"# Written by `limen model new` from {source}; see docs/bundles.md.",
            line("name", bundle.name),
            line("version", bundle.version),
            line("licence", bundle.licence),
            line("intended_use", bundle.intended_use),
            line("training_data", bundle.training_data),
            *([line("task", bundle.task.value)] * (bundle.task is not Task.SLICES)),
            "",
            *(_remote(bundle.remote) if bundle.remote else _weights(bundle)),
            "",
            "[input]",
            line("size", list(bundle.size), "input"),
            line("windows", [list(w) for w in bundle.windows], "input"),
            line("dtype", "float32"),
            *([line("layout", bundle.layout)] * (bundle.layout != "nhwc")),
            line("scale", list(bundle.scale), "input"),
            *([line("mean", list(bundle.mean))] * bool(bundle.mean)),
            *([line("deviation", list(bundle.deviation))] * bool(bundle.deviation)),
            line("crop", bundle.crop, "input"),
            _spacing(bundle.spacing_mm),
            line("neighbours", bundle.neighbours, "input"),
            *_tensors(bundle),
            *([line("depth", bundle.depth)] * (bundle.depth is not None)),
            *([line("depth_mm", bundle.depth_mm)] * (bundle.depth_mm is not None)),
            *[line(key, value) for key, value in bundle.preparation.edited.items()],
            "",
            *_code(bundle),
            "[output]",
            line("activation", bundle.output.activation, "output"),
            line("inverted", bundle.output.inverted, "output"),
            "",
            *_map(bundle),
            "[calibration]",
            line("temperature", bundle.temperature),
            "",
            *labels,
            "[decision]",
            line("label", bundle.decision_label, "decision"),
            line("threshold", bundle.threshold, "decision"),
            line("chosen", bundle.threshold_chosen),
            "",
            "# [study], [members]: what the slices say together, see docs/bundles.md (optional)",
            "",
            f"[accepts]{mark('accepts')}",
            line("modality", list(bundle.accepts.modality)),
            line("body_part", list(bundle.accepts.body_part)),
            line("orientation", bundle.accepts.orientation),
            "# optional, what it knows: contrast, operated, min_age_years, max_metal_mm2",
            "",
            "[explain]",
            line("mode", bundle.explain.mode),
            line("samples", bundle.explain.samples),
            line("superpixels", bundle.explain.superpixels),
            line("max_explained", bundle.explain.max_explained),
            "",
            "[golden]",
            line("file", GOLDEN_FILE),
            line("tolerance", bundle.golden_tolerance),
            "",
            *examples_of(bundle),
        ]
    )


def _weights(bundle: Bundle) -> list[str]:
    pairs = {
        "file": bundle.weights.name,
        "sha256": bundle.sha256,
        "format": bundle.weights_format,
        "constants_sha256": bundle.constants_sha256,
    }
    return ["[weights]", *(f"{key} = {json.dumps(text)}" for key, text in pairs.items() if text)]


def _tensors(bundle: Bundle) -> list[str]:
    """Return the line that says which channels each of several inputs is given."""
    if not bundle.tensors:
        return []
    pairs = (f"{json.dumps(name)} = {list(those)}" for name, those in bundle.tensors.items())
    return [f"tensors = {{ {', '.join(pairs)} }}"]


def _map(bundle: Bundle) -> list[str]:
    if bundle.map is None:
        return []
    return [
        "[map]  # the output that says where the model looks",
        f"output = {json.dumps(bundle.map.output)}",
        f"size = {list(bundle.map.size)}",
        "",
    ]


def _code(bundle: Bundle) -> list[str]:
    if bundle.code is None:
        return []
    return [
        "[preprocess]  # code that makes the input of a slice: engine.allow_code",
        f"file = {json.dumps(bundle.code.path.name)}",
        f"sha256 = {json.dumps(bundle.code.sha256)}",
        "",
    ]


def _remote(place: Remote) -> list[str]:
    said = place.model_dump(exclude_defaults=True)
    return [
        "[remote]  # a server that speaks the Open Inference Protocol v2",
        *(f"{key} = {json.dumps(text)}" for key, text in said.items()),
    ]


def examples_of(bundle: Bundle) -> list[str]:
    """Return the lines of ``[examples]``; none without."""
    if bundle.examples is None:
        return []
    return [
        "[examples]  # numbers of the author's own program",
        f"file = {json.dumps(EXAMPLES_FILE)}",
        f"tolerance = {bundle.examples.tolerance}",
        "",
    ]


def _spacing(spacing_mm: float | None) -> str:
    if spacing_mm is None:
        return "# spacing_mm = 0.95: so many mm is one pixel of the input (optional)"
    return f"spacing_mm = {spacing_mm}"
