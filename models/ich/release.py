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
from models.ich.decision import Chosen
from models.ich.statistics import predict

__all__ = ["METRICS_MARK", "replace_metrics", "save_model", "write", "write_text"]

METRICS_MARK = "# Written by `python -m models.ich.evaluate`."

_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(
    folder: Path,
    model: Any,
    *,
    calibration: tuple[float, float],
    chosen: Chosen,
    golden: Slices,
    learned: Slices,
) -> None:
    """Write weights, golden tensors and manifest; the manifest comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.keras"
    _whole(weights, lambda part: save_model(model, part))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    p = predict(model, golden.tensor)[:, 0]
    rows = np.argsort(p)[[0, len(p) // 2, -2, -1]]  # both answers, and one in between
    tensor = golden.tensor[rows].astype(np.float32) / 255
    probability = np.asarray(model(tensor, training=False), np.float32)
    _whole(
        folder / "golden.npz",
        lambda path: np.savez_compressed(path, tensor=tensor, probability=probability),
    )
    write_text(folder / "bundle.toml", _manifest(digest, calibration, chosen, learned))


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


def _manifest(
    digest: str, calibration: tuple[float, float], chosen: Chosen, learned: Slices
) -> str:
    use = "Demonstration and testing of Limen. Trained on real heads of one hospital and on "
    use += "synthetic heads. Not for diagnostic use."
    count = {s: len(np.unique(learned.head[learned.source == s])) for s in set(learned.source)}
    data = (
        f"{count['real']} real heads (trauma, one hospital): Hssayeni et al., Intracranial "
        "Hemorrhage Segmentation Using a Deep Convolutional Model, Data 2020, 5(1), 14, CT-ICH "
        "1.0.0, CC BY 4.0, slices were cropped, degraded and given synthetic bleeds; "
        f"{count['graft']} synthetic bleeds in slices of them, of one normal adult (keinos, MIT) "
        f"and of the average head of Rorden 2012 (BSD-2); {count['template']} synthetic heads on "
        f"the MNI152 template and {count['analytic']} analytic heads; it began with the weights "
        "of EfficientNet-Lite0 (Tan and Le 2019, Apache-2.0), which learned from ImageNet"
    )
    quote = json.dumps  # TOML basic strings and arrays of numbers are JSON here
    return f"""\
# Written by `python -m models.ich.train`.
# Calibration: logit x {calibration[0]:.4f} + {calibration[1]:.4f}, fitted on development.
name = "ich"
version = "0.4.0"
licence = "Apache-2.0"
intended_use = {quote(use)}
training_data = {quote(data)}

[weights]
file = "model.keras"
sha256 = "{digest}"

[input]
size = {quote(INPUT.size)}  # rows, columns
windows = {quote(INPUT.windows)}  # centre, width in HU: one channel each
crop = "{INPUT.crop}"  # centred on the head of each slice
spacing_mm = {INPUT.spacing_mm}  # of a pixel of the input: every head at one scale

[[label]]
name = "any"
meaning = "Intracranial hemorrhage"
code = ["1386000", "SCT"]

[decision]
label = "any"
threshold = {chosen.slice_threshold}
chosen = {quote(chosen.slice_chosen)}

[study]  # how slices become the word about a study
smooth_mm = {chosen.rule.smooth_mm}
top = {chosen.rule.top}
scale = {chosen.rule.scale}
shift = {chosen.rule.shift}
threshold = {chosen.rule.threshold}
chosen = {quote(chosen.rule.chosen)}

[members]  # heads on one trunk; where they disagree the study is undetermined
outputs = {quote(chosen.members.outputs)}
spread = {chosen.members.spread}

[accepts]
modality = ["CT"]
body_part = ["HEAD", "BRAIN", "SKULL"]
orientation = "axial"
contrast = false  # enhanced series are left out
min_extent_mm = 80  # of 82 real heads the shortest has 95
min_slices = 3
looks_like = "head"  # asked of the pixels where the header names no part of the body
operated = false  # no head after surgery was learned from
min_age_years = 1  # three infants were learned from
max_metal_mm2 = 20  # inside the skull, 2500 HU and more

[golden]
file = "golden.npz"
tolerance = 1e-3
"""
