"""The files of the bundle: weights, golden tensors, manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.ich.dataset import INPUT, Slices
from models.ich.statistics import SPECIFICITY

__all__ = ["METRICS_MARK", "replace_metrics", "save_model", "write", "write_text"]

METRICS_MARK = "# Written by `python -m models.ich.evaluate`."

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHOSEN = (
    f"lowest threshold with a slice specificity of at least {SPECIFICITY} on validation slices "
    "(synthetic heads in no other set), kept within 0.3 to 0.95; no real study was used"
)


def write(
    folder: Path,
    model: Any,
    *,
    temperature: float,
    threshold: float,
    golden: Slices,
    heads: tuple[int, int],
) -> None:
    """Write weights, golden tensors and manifest; the manifest comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.keras"
    _whole(weights, lambda part: save_model(model, part))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    positive, negative = np.flatnonzero(golden.label), np.flatnonzero(~golden.label)
    chosen = np.concatenate([positive[[0, len(positive) // 2]], negative[[0, len(negative) // 2]]])
    tensor = golden.tensor[chosen].astype(np.float32) / 255
    probability = np.asarray(model(tensor, training=False), np.float32)
    _whole(
        folder / "golden.npz",
        lambda path: np.savez_compressed(path, tensor=tensor, probability=probability),
    )
    write_text(folder / "bundle.toml", _manifest(digest, temperature, threshold, heads))


def save_model(model: Any, path: Path) -> None:
    """Save a ``.keras`` file without dates: the same weights are the same bytes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        dated = Path(scratch) / "dated.keras"
        model.save(dated)
        with zipfile.ZipFile(dated) as source, zipfile.ZipFile(path, "w") as target:
            for name in sorted(source.namelist()):
                data = source.read(name)
                if name == "metadata.json":
                    facts = json.loads(data)
                    facts["date_saved"] = "1980-01-01@00:00:00"
                    data = json.dumps(facts).encode()
                target.writestr(zipfile.ZipInfo(name, _EPOCH), data)


def replace_metrics(folder: Path, metrics: str) -> None:
    """Put these ``[[metrics]]`` tables at the end of the manifest."""
    path = folder / "bundle.toml"
    kept = path.read_text("utf-8").split(METRICS_MARK)[0].rstrip()
    write_text(path, f"{kept}\n\n{METRICS_MARK}\n{metrics}")


def write_text(path: Path, text: str) -> None:
    """Write beside and rename."""
    _whole(path, lambda part: part.write_text(text, "utf-8"))


def _whole(path: Path, save: Callable[[Path], Any]) -> None:
    """Save beside and rename: a reader sees the old file or the new one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        save(part)
        os.replace(part, path)


def _manifest(digest: str, temperature: float, threshold: float, heads: tuple[int, int]) -> str:
    use = "Demonstration and testing of Limen. Trained on synthetic heads. Not for diagnostic use."
    data = f"Synthetic head CT: {heads[0]} slices of as many heads on the MNI152 template, "
    data += f"{heads[1]} analytic heads; no patient data"
    quote = json.dumps  # TOML basic strings and arrays of numbers are JSON here
    return f"""\
# Written by `python -m models.ich.train`.
# Calibration: the last layer is divided by the temperature {temperature:.4f}, fitted on validation.
name = "ich"
version = "0.3.0"
licence = "Apache-2.0"
intended_use = {quote(use)}
training_data = {quote(data)}

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
"""
