"""Evaluate the committed bundle on held-out synthetic slices: ``python -m models.ich.evaluate``.

Writes ``EVALUATION.md`` and the ``[[metrics]]`` of ``bundle.toml``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from models.ich import dataset, release, synthetic, template
from models.ich.dataset import Slices, Study
from models.ich.statistics import auc, bootstrap, expected_calibration_error, predict, wilson
from models.ich.template import Template
from models.ich.train import FOLDER, slices_of
from worker import bundle as bundles
from worker.bundle import Bundle
from worker.explain import Mode, Settings, Tensor, explain

LIME_SLICES = 100
STUDIES = 60
_STUDY_SEED = 4_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One number, its interval, and what it should be."""

    name: str
    n: int
    value: float
    low: float
    high: float
    goal: str = ""

    def __str__(self) -> str:
        interval = f"{self.low:.3f}-{self.high:.3f}"
        return f"| {self.name} | {self.n} | {self.value:.3f} | {interval} | {self.goal} |"


def main(argv: list[str] | None = None) -> int:
    """Evaluate and write."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=FOLDER, help="folder of the bundle")
    parser.add_argument("--heads", type=int, default=9000, help="as the trainer was given")
    parser.add_argument("--analytic", type=int, default=150, help="as the trainer was given")
    parser.add_argument("--processes", type=int, default=2, help="processes that make heads")
    parser.add_argument("--lime", type=int, default=LIME_SLICES, help="positives to explain")
    parser.add_argument("--studies", type=int, default=STUDIES, help="whole studies to read")
    parser.add_argument("--cache", type=Path, help="keep the slices here between runs")
    args = parser.parse_args(argv)
    bundle = bundles.load(args.bundle)
    model = keras.models.load_model(bundle.weights, safe_mode=True, compile=False)
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        sizes = (args.heads, args.analytic, cache, args.processes)
        test, vertex = slices_of("test", *sizes), slices_of("test-vertex", *sizes)
        volumes = template.load(cache / "template.npz")
        seeds = range(_STUDY_SEED, _STUDY_SEED + args.studies)
        studies = dataset.make_studies(seeds, cache / "template.npz", args.processes)
    probability = predict(model, test.tensor)
    rows = _slices(test, probability, bundle.threshold)
    rows += _kinds(test, probability, bundle.threshold)
    # Seeds above those of the analytic heads belong to the template alone.
    drawn = test.head >= test.head.min() + args.analytic
    found = np.flatnonzero(test.label & drawn & (probability >= bundle.threshold))
    chosen = np.random.default_rng(5).permutation(found)[: args.lime]
    through = predict(model, vertex.tensor)
    rows.append(_share("specificity, vertex", through[~vertex.label] < bundle.threshold, ">= 0.95"))
    rows.append(_share("sensitivity, vertex", through[vertex.label] >= bundle.threshold))
    rows += _studies(studies, model, bundle.threshold)
    lime = _lime(test.take(chosen), volumes, model, bundle)
    speed_ms, size_mb = forward_ms(bundle), bundle.weights.stat().st_size / 1e6
    text = _page(bundle, [*rows, lime], speed_ms, size_mb, len(test.label))
    release.write_text(args.bundle / "EVALUATION.md", text)
    release.replace_metrics(args.bundle, _metrics([*rows, lime], speed_ms, size_mb))
    sys.stdout.write(text)
    return 0


def _share(name: str, hits: NDArray[np.bool_], goal: str = "") -> Row:
    low, high = wilson(int(hits.sum()), len(hits))
    return Row(name, len(hits), float(hits.mean()) if len(hits) else 0.0, low, high, goal)


def _slices(test: Slices, p: NDArray[np.float32], threshold: float) -> list[Row]:
    label, looks = test.label, test.lookalike != ""

    def row(name: str, value: Callable[[NDArray[np.int64]], float], goal: str) -> Row:
        low, high = bootstrap(value, test.head)
        return Row(name, len(label), value(np.arange(len(label))), low, high, goal)

    found = p >= threshold
    rows = [
        row("slice AUC", lambda i: auc(label[i], p[i]), ">= 0.98"),
        row("ECE", lambda i: expected_calibration_error(label[i], p[i]), "<= 0.03"),
        _share("sensitivity at the threshold", found[label]),
        _share("specificity at the threshold", ~found[~label]),
        _share("specificity, slices with look-alikes", ~found[~label & looks], ">= 0.95"),
    ]
    for name in ("calcification", "falx", "infarct", "sinus", "tentorium"):
        shows = np.array([name in marks.split(",") for marks in test.lookalike])
        rows.append(_share(f"specificity, {name}", ~found[~label & shows]))
    return rows


def _kinds(test: Slices, p: NDArray[np.float32], threshold: float) -> list[Row]:
    free, rows = ~test.label, []
    for kind in sorted(set(test.kind) - {""}):
        shown = np.flatnonzero(free | (test.kind == kind))

        def value(i: NDArray[np.int64], shown: NDArray[np.int64] = shown) -> float:
            return auc(test.label[shown[i]], p[shown[i]])

        low, high = bootstrap(value, test.head[shown], draws=200)
        n = int((test.kind == kind).sum())
        rows.append(Row(f"AUC, {kind}", n, value(np.arange(len(shown))), low, high))
        rows.append(_share(f"sensitivity, {kind}", p[test.kind == kind] >= threshold))
    for low_mm2, high_mm2 in ((50, 150), (150, 500), (500, 1e9)):
        part = test.label & (test.area_mm2 >= low_mm2) & (test.area_mm2 < high_mm2)
        name = f"{low_mm2:g}-{high_mm2:g} mm2" if high_mm2 < 1e9 else f"over {low_mm2:g} mm2"
        rows.append(_share(f"sensitivity, {name}", p[part] >= threshold))
    return rows


def _studies(studies: list[Study], model: Any, threshold: float) -> list[Row]:
    """Return how whole studies are called: positive when one slice is, as the worker does."""
    known = [s for s in studies if s.label is not None]
    label = np.array([s.label for s in known])
    p = np.array([predict(model, s.tensor).max() for s in known])

    def area(i: NDArray[np.int64]) -> float:
        return auc(label[i], p[i])

    low, high = bootstrap(area, np.arange(len(known)))
    return [
        Row("AUC, whole studies", len(known), area(np.arange(len(known))), low, high),
        _share("sensitivity, whole studies", p[label] >= threshold, ">= 0.90"),
        _share("specificity, whole studies", p[~label] < threshold, ">= 0.80"),
    ]


def _lime(positive: Slices, volumes: Template, model: Any, bundle: Bundle) -> Row:
    """Return how often the superpixel of highest weight touches the lesion."""
    forward = tf.function(lambda x: model(x, training=False))

    def classifier(tensors: Tensor) -> NDArray[np.float32]:
        return np.asarray(forward(tf.constant(tensors)), np.float32)

    how = Settings(Mode(bundle.explain.mode), bundle.explain.samples, bundle.explain.superpixels)
    hits = []
    for tensor, seed in zip(positive.tensor, positive.head, strict=True):
        lesion = Image.fromarray(synthetic.draw(volumes, int(seed)).lesion)
        blood = np.asarray(lesion.resize(bundle.size[::-1], Image.Resampling.NEAREST))
        found = explain(tensor.astype(np.float32) / 255, classifier, 0, how)
        hits.append(bool(blood[found.segments == int(found.weights.argmax())].any()))
    return _share("LIME: top superpixel touches the lesion", np.array(hits), ">= 0.90")


def forward_ms(bundle: Bundle, runs: int = 50) -> float:
    """Return the median time of one slice on one core, in a process of its own."""
    code = (
        "import sys,time,keras,numpy as np,tensorflow as tf\n"
        "tf.config.threading.set_intra_op_parallelism_threads(1)\n"
        "tf.config.threading.set_inter_op_parallelism_threads(1)\n"
        "m=keras.models.load_model(sys.argv[1],compile=False)\n"
        "f=tf.function(lambda x:m(x,training=False))\n"
        "x=tf.zeros((1,*m.input_shape[1:]));f(x);t=[]\n"
        "for _ in range(int(sys.argv[2])):\n"
        " s=time.perf_counter();f(x);t.append(time.perf_counter()-s)\n"
        "print(1000*float(np.median(t)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(bundle.weights), str(runs)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"},
    )
    return float(run.stdout.split()[-1])


def _metrics(rows: list[Row], speed_ms: float, size_mb: float) -> str:
    """Return the ``[[metrics]]`` tables."""
    tables = [
        f'[[metrics]]\nset = "held-out synthetic slices: {r.name}"\nn = {r.n}\n'
        f"value = {r.value:.4f}\nlow = {r.low:.4f}\nhigh = {r.high:.4f}\n"
        for r in rows
        if r.goal or "the threshold" in r.name
    ]
    tables.append(
        f'[[metrics]]\nset = "cost"\nforward_ms = {speed_ms:.1f}\nsize_mb = {size_mb:.2f}\n'
    )
    return "\n".join(tables)


def _page(bundle: Bundle, rows: list[Row], speed_ms: float, size_mb: float, slices: int) -> str:
    table = "\n".join(str(r) for r in rows)
    return f"""\
# Evaluation of the `ich` bundle {bundle.version}

Written by `python -m models.ich.evaluate`. **Not for diagnostic use.**

{slices} slices of synthetic heads that are in no other set, lesion-free twins of the positive
slices included. {bundle.training_data}.
The numbers say how well the network learned the generators; they say nothing about its accuracy on
patients.

| held-out synthetic slices | n | value | 95 % interval | goal |
| --- | --- | --- | --- | --- |
{table}
| forward pass of one slice on one core, ms | | {speed_ms:.1f} | | <= 15 |
| weights, MB | | {size_mb:.2f} | | <= 10 |

Threshold {bundle.threshold}: {bundle.threshold_chosen}.

A slice is positive when it shows at least 50 mm2 of blood. Slices of template heads that show
8 to 50 mm2 are left out, with their twin kept; so are analytic slices below 50 mm2. AUC of a kind:
its positive slices against all negative ones. Intervals: bootstrap over heads for AUC and ECE,
Wilson for shares. Whole studies are other heads, half of them without blood; a study whose bleed
shows on no slice as 50 mm2 is left out. The vertex slices are a set of their own (z 52-88 mm in
MNI152).
LIME, {bundle.explain.mode}: at most {bundle.explain.samples} samples on positive slices of
template heads that were found.
"""


if __name__ == "__main__":
    raise SystemExit(main())
