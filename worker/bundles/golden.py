"""What a model is held to: golden tensors, and examples with the numbers of its author.

Golden tensors are made up, and what the model answered to them is recorded: they prove that it
still does here what it did when its bundle was made. Examples are slices whose probability the
author's own program told: they prove that Limen prepares a slice as the author does. Both files
say under which keys of the manifest they were made, so that an edit is told from a fault.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXAMPLES_FILE",
    "GOLDEN_FILE",
    "Examples",
    "Golden",
    "changed",
    "read_examples",
    "read_golden",
    "write",
]

GOLDEN_FILE: Final = "golden.npz"
EXAMPLES_FILE: Final = "examples.npz"
_BROKEN: Final = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)

Tensors = NDArray[np.float32]
Keys = Mapping[str, Any]
"""Keys of bundle.toml with dots, and their values as JSON has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Made-up tensors and what the model answered to them.

    Attributes
    ----------
    tensor
        (n, rows, columns, channels) float32, 0..1.
    probability
        (n, outputs) float32, 0..1; of a segmentation (n, rows, columns, outputs). Of a model with
        a map of its own its cells come behind the outputs.
    made_with
        The keys of the manifest that the answers depend on, as they were; None where the file
        does not say.
    """

    tensor: Tensors
    probability: Tensors
    made_with: Keys | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Slices of which the author's program told the probability.

    Attributes
    ----------
    tensor
        (n, rows, columns, channels) float32, 0..1.
    expected
        (n, labels) float32, 0..1; NaN where nothing was told.
    facts
        What the header of each instance said that matters to its pixels; nothing that names
        anybody.
    made_with
        The keys of the manifest that the tensors depend on, as they were.
    tolerance
        Largest difference from ``expected``.
    """

    tensor: Tensors
    expected: Tensors
    facts: tuple[Keys, ...]
    made_with: Keys
    tolerance: float


def changed(made_with: Keys, now: Keys) -> list[str]:
    """Return the keys that are no more what they were, each with both values, in words."""
    return [
        f"{key} is {_shown(now.get(key))}, was {_shown(made_with.get(key))}"
        for key in sorted({*made_with, *now})
        if made_with.get(key) != now.get(key)
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def read_golden(
    path: Path, shape: tuple[int, ...], answer: tuple[int, ...]
) -> tuple[Golden | None, list[str]]:
    """Return the golden tensors, or what is wrong with their file.

    Parameters
    ----------
    shape, answer
        Of one tensor and of what is answered to it, as the manifest describes them.
    """
    arrays, faults = _arrays(path, ("tensor", "probability"), shape, answer)
    if arrays is None or faults:
        return None, faults
    made_with = _texts(arrays, "made_with")
    return Golden(
        arrays["tensor"], arrays["probability"], json.loads(made_with[0]) if made_with else None
    ), []


def read_examples(path: Path, labels: int, tolerance: float) -> tuple[Examples | None, list[str]]:
    """Return the examples, or what is wrong with their file.

    Their tensors may have another shape than the manifest describes now: ``made_with`` says so.
    """
    arrays, faults = _arrays(path, ("tensor", "expected"), None, (labels,))
    if arrays is None or faults:
        return None, faults
    facts, made_with = _texts(arrays, "facts"), _texts(arrays, "made_with")
    if len(facts) != len(arrays["tensor"]) or len(made_with) != 1:
        return None, [
            f"{path.name}: has no text 'made_with', or not one of 'facts' for each tensor"
        ]
    found = Examples(
        tensor=arrays["tensor"],
        expected=arrays["expected"],
        facts=tuple(json.loads(text) for text in facts),
        made_with=json.loads(made_with[0]),
        tolerance=tolerance,
    )
    return found, []


def write(path: Path, found: Golden | Examples) -> None:
    """Write one of the two files."""
    arrays: dict[str, Any] = {"tensor": found.tensor}
    if isinstance(found, Golden):
        arrays["probability"] = found.probability
    else:
        arrays["expected"] = found.expected
        arrays["facts"] = np.array([json.dumps(f, sort_keys=True) for f in found.facts])
    if found.made_with is not None:
        arrays["made_with"] = np.array([json.dumps(found.made_with, sort_keys=True)])
    np.savez_compressed(path, **arrays)


def _arrays(
    path: Path, names: tuple[str, str], shape: tuple[int, ...] | None, answered: tuple[int, ...]
) -> tuple[dict[str, NDArray[Any]] | None, list[str]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            tensor, answer = (arrays[name] for name in names)
    except _BROKEN as exc:
        wanted = " and ".join(f"'{name}'" for name in names)
        return None, [
            f"{path.name}: must be an .npz file with arrays {wanted} ({type(exc).__name__})"
        ]
    count = max(len(tensor) if tensor.ndim else 0, 1)
    given = shape or (tensor.shape[1:] if tensor.ndim in {4, 5} else (0, 0, 0))
    wanted_shapes = ((count, *given), (count, *answered))
    faults = []
    for name, array, expected in zip(names, (tensor, answer), wanted_shapes, strict=True):
        if array.shape != expected or array.dtype != np.float32:
            faults.append(
                f"{path.name}: {name} must be float32 of shape {expected} "
                f"(got {array.dtype} {array.shape})"
            )
        elif not _within(array, may_be_absent=name == "expected"):
            faults.append(f"{path.name}: {name} must lie within 0..1")
    return arrays, faults


def _within(array: NDArray[Any], *, may_be_absent: bool) -> bool:
    said = array[~np.isnan(array)] if may_be_absent else array
    return bool(said.size and np.isfinite(said).all() and said.min() >= 0 and said.max() <= 1)


def _texts(arrays: Mapping[str, NDArray[Any]], name: str) -> Sequence[str]:
    found = arrays.get(name)
    if found is None or found.dtype.kind != "U" or found.ndim != 1:
        return []
    return [str(text) for text in found]
