"""Numbers about the model on held-out phantoms, and the files of the bundle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.ich.dataset import INPUT, Slices
from models.ich.lesion import Kind

__all__ = ["Report", "auc", "choose_threshold", "evaluate", "predict", "write_bundle"]

_SPECIFICITY = 0.995
_LICENCE = "Apache-2.0"
_CHOSEN = (
    f"lowest threshold with a slice specificity of at least {_SPECIFICITY} on validation phantoms "
    "(heads in no other set), kept within 0.5 to 0.95; no real study was used"
)


@dataclass(frozen=True, slots=True)
class Report:
    """Slice results on held-out phantoms.

    Attributes
    ----------
    auc, low, high
        Area under the ROC curve and its 95 % interval (bootstrap over heads).
    groups
        Name, positive slices, sensitivity.
    """

    heads: int
    slices: int
    auc: float
    low: float
    high: float
    sensitivity: float
    specificity: float
    groups: tuple[tuple[str, int, float], ...]


def predict(model: Any, slices: Slices) -> NDArray[np.float32]:
    """Return the probability of each slice: (n,) float32."""
    parts = [
        np.asarray(model(slices.tensor[i : i + 64].astype(np.float32) / 255, training=False))
        for i in range(0, len(slices.label), 64)
    ]
    return np.asarray(np.concatenate(parts)[:, 0], np.float32)


def auc(label: NDArray[np.bool_], probability: NDArray[np.float32]) -> float:
    """Return the area under the ROC curve (Mann-Whitney)."""
    ranks, positives = rankdata(probability), int(label.sum())
    negatives = len(label) - positives
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def choose_threshold(slices: Slices, probability: NDArray[np.float32]) -> float:
    """Return the threshold, rounded up to two digits."""
    free = probability[~slices.label]
    lowest = float(np.quantile(free, _SPECIFICITY))
    return min(max(math.ceil(lowest * 100) / 100, 0.5), 0.95)


def evaluate(slices: Slices, probability: NDArray[np.float32], threshold: float) -> Report:
    """Compare probabilities with the truth of the phantom."""
    label = slices.label
    found = probability >= threshold
    heads = np.unique(slices.head)
    rows = {int(h): np.flatnonzero(slices.head == h) for h in heads}
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(500):
        chosen = np.concatenate([rows[int(h)] for h in rng.choice(heads, len(heads))])
        draws.append(auc(label[chosen], probability[chosen]))
    groups = [(str(k), slices.kind == str(k)) for k in Kind]
    for low, high in ((0, 5), (5, 20), (20, 1000)):
        name = f"{low}-{high} ml" if high < 1000 else f"over {low} ml"
        groups.append((name, label & (slices.size_ml >= low) & (slices.size_ml < high)))
    return Report(
        heads=len(heads),
        slices=len(label),
        auc=auc(label, probability),
        low=float(np.quantile(draws, 0.025)),
        high=float(np.quantile(draws, 0.975)),
        sensitivity=float(found[label].mean()),
        specificity=float((~found[~label]).mean()),
        groups=tuple((n, int(m.sum()), float(found[m].mean())) for n, m in groups if m.any()),
    )


def write_bundle(
    folder: Path, model: Any, *, threshold: float, report: Report, test: Slices, heads: int
) -> None:
    """Write weights, golden tensors, manifest and evaluation; the manifest comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "model.keras", model.save)
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    positive, negative = np.flatnonzero(test.label), np.flatnonzero(~test.label)
    chosen = np.concatenate([positive[[0, len(positive) // 2]], negative[[4, len(negative) // 2]]])
    tensor = test.tensor[chosen].astype(np.float32) / 255
    probability = np.asarray(model(tensor, training=False), np.float32)
    _write(
        folder / "golden.npz",
        lambda path: np.savez_compressed(path, tensor=tensor, probability=probability),
    )
    _write_text(folder / "EVALUATION.md", _evaluation(report, threshold, heads))
    _write_text(folder / "bundle.toml", _manifest(digest, threshold, report, heads))


def _write(path: Path, save: Callable[[Path], Any]) -> None:
    """Save beside and rename: a reader sees the old file or the new one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        save(part)
        os.replace(part, path)


def _write_text(path: Path, text: str) -> None:
    _write(path, lambda part: part.write_text(text, "utf-8"))


def _manifest(digest: str, threshold: float, report: Report, heads: int) -> str:
    quote = json.dumps  # TOML basic strings and arrays of numbers are JSON here
    return f"""\
# Written by `python -m models.ich.train`.
name = "ich"
version = "0.1.0"
licence = "{_LICENCE}"
intended_use = "Demonstration and testing of Limen. Trained on a phantom. Not for diagnostic use."
training_data = "Synthetic head CT made by models/ich/phantom.py: {heads} heads, no patient data"

[weights]
file = "model.keras"
sha256 = "{digest}"

[input]
size = {quote(INPUT.size)}  # rows, columns
windows = {quote(INPUT.windows)}  # centre, width in HU: one channel each

[[label]]
name = "any"
meaning = "Intracranial hemorrhage"
code = ["1386000", "SCT"]

[decision]
label = "any"
threshold = {threshold}
chosen = {quote(_CHOSEN)}

[accepts]
modality = ["CT"]
body_part = ["HEAD", "BRAIN", "SKULL"]
orientation = "axial"

[golden]
file = "golden.npz"
tolerance = 1e-3

[[metrics]]
set = "held-out phantom, slices"
n = {report.slices}
heads = {report.heads}
auc = {report.auc:.4f}
auc_low = {report.low:.4f}
auc_high = {report.high:.4f}
sensitivity = {report.sensitivity:.4f}
specificity = {report.specificity:.4f}
"""


def _evaluation(report: Report, threshold: float, heads: int) -> str:
    interval = f"{report.low:.4f}-{report.high:.4f}"
    rows = "\n".join(f"| {name} | {n} | {value:.3f} |" for name, n, value in report.groups)
    return f"""\
# Evaluation of the `ich` bundle

Written by `python -m models.ich.train`. **Not for diagnostic use.**

Trained on {heads} synthetic heads of `models/ich/phantom.py` and tested on {report.heads} others
({report.slices} slices; lesion-free twins of the positive slices included). No patient data was
used for training, for the threshold or for the numbers below. They say how well the network
learned the phantom; they say nothing about its accuracy on patients.

| held-out phantom slices | |
| --- | --- |
| AUC (95 % interval, bootstrap over heads) | {report.auc:.4f} ({interval}) |
| threshold | {threshold} |
| sensitivity | {report.sensitivity:.3f} |
| specificity | {report.specificity:.3f} |

Threshold: {_CHOSEN}.

| positive slices | n | sensitivity |
| --- | --- | --- |
{rows}

A slice is positive when it shows at least 80 mm2 of blood; slices that show less are left out.
Size is the volume of the whole bleed.
"""
