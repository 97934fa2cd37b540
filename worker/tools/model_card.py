"""The card of a bundle: what it is, what it was compared with, what its model is given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # --help does not wait for arrays
    from worker.bundles.bundle import Bundle

__all__ = ["card_of", "examples_of", "input_of", "told_of_examples"]

NEVER_COMPARED: Final = "never compared with its author's numbers"


def card_of(bundle: Bundle) -> dict[str, Any]:
    """Return everything that is said of a bundle, as JSON has it."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "format": bundle.weights_format,
        "remote": bundle.remote.model_dump(mode="json") if bundle.remote else None,
        "openvino": {
            precision: {
                "max_probability_difference": found.max_probability_difference,
                "exact_enough": found.exact_enough,
            }
            for precision, found in bundle.converted.items()
        },
        "licence": bundle.licence,
        "intended_use": bundle.intended_use,
        "training_data": bundle.training_data,
        "task": bundle.task.value,
        "input": input_of(bundle),
        "output": bundle.output.model_dump(mode="json"),
        "map": bundle.map.model_dump(mode="json") if bundle.map else None,
        "calibration": {"temperature": bundle.temperature},
        "labels": [label.model_dump(mode="json") for label in bundle.labels],
        "decision": {
            "label": bundle.decision_label,
            "threshold": bundle.threshold,
            "chosen": bundle.threshold_chosen,
        },
        "members": bundle.members.model_dump(mode="json") if bundle.members else None,
        "study": bundle.study.model_dump(mode="json") if bundle.study else None,
        "accepts": bundle.accepts.model_dump(mode="json"),
        "explain": bundle.explain.model_dump(mode="json"),
        "examples": examples_of(bundle),
        "metrics": list(bundle.metrics),
    }


def examples_of(bundle: Bundle) -> dict[str, Any] | str:
    """Return what the bundle was compared with."""
    kept = bundle.examples
    if kept is None:
        return NEVER_COMPARED
    names = bundle.label_names
    return {
        "count": len(kept.expected),
        "tolerance": kept.tolerance,
        "expected": [
            {
                name: round(float(value), 6)
                for name, value in zip(names, row, strict=True)
                if not math.isnan(value)
            }
            for row in kept.expected
        ],
        "instances": [dict(facts) for facts in kept.facts],
    }


def input_of(bundle: Bundle) -> dict[str, Any]:
    """Return how a slice becomes the input of the model."""
    return {
        "size": list(bundle.size),
        "channels": bundle.input_shape[-1],
        "windows_hu": [list(w) for w in bundle.windows],
        "dtype": "float32",
        "layout": bundle.layout,
        "scale": list(bundle.scale),
        "mean": list(bundle.mean),
        "deviation": list(bundle.deviation),
        "preprocess_sha256": bundle.code.sha256 if bundle.code else None,
        "crop": bundle.crop,
        "spacing_mm": bundle.spacing_mm,
        "neighbours": bundle.neighbours,
        "depth": bundle.depth,
        "depth_mm": bundle.depth_mm,
        "tensors": {name: list(those) for name, those in bundle.tensors.items()},
        **bundle.preparation.model_dump(mode="json"),
    }


def told_of_examples(bundle: Bundle) -> str:
    """Return whether it was compared with its author's numbers, in words."""
    if bundle.examples is None:
        return (
            f"{NEVER_COMPARED}; limen model golden {bundle.folder.name} --example FILE "
            "--expect NUMBER compares it"
        )
    count = len(bundle.examples.expected)
    which = "example has" if count == 1 else "examples have"
    return f"{count} {which} the author's number, within {bundle.examples.tolerance:g}"
