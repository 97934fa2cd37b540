"""Evaluate the committed bundle on slices it never saw: ``python -m models.ich.evaluate``.

Real heads that were set aside, synthetic bleeds in them, and synthetic heads.

Writes ``EVALUATION.md`` and the ``[[metrics]]`` of ``bundle.toml``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from models.ich import (
    dataset,
    development,
    randomised,
    real,
    release,
    synthetic,
    template,
    texture,
)
from models.ich.dataset import Slices, Study
from models.ich.statistics import predict
from models.ich.table import Row, area, share
from models.ich.train import ANALYTIC, FOLDER, HEADS, SEED, SETS, Batches, slices_of
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.lime.explain import Mode, Settings, Tensor, explain
from worker.study import rule as rules
from worker.study.crop import field_of

LIME_SLICES = 40
STUDIES = 20
TEXTURES = 400
REAL = "development heads (real)"
GRAFTS = "synthetic bleeds in development heads"
SYNTHETIC = "held-out synthetic slices"
_STUDY_SEED = 4_000_000


def main(argv: list[str] | None = None) -> int:
    """Evaluate and write."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=FOLDER, help="folder of the bundle")
    parser.add_argument("--data", type=Path, default=real.DATA, help="folder of the real heads")
    parser.add_argument("--heads", type=int, default=HEADS, help="as the trainer was given")
    parser.add_argument("--analytic", type=int, default=ANALYTIC, help="as the trainer was given")
    parser.add_argument("--grafts", type=int, default=400, help="bleeds tried in real slices")
    parser.add_argument("--processes", type=int, default=2, help="processes that make heads")
    parser.add_argument("--lime", type=int, default=LIME_SLICES, help="positives to explain")
    parser.add_argument("--studies", type=int, default=STUDIES, help="whole studies to read")
    parser.add_argument("--cache", type=Path, help="keep the slices here between runs")
    args = parser.parse_args(argv)
    try:
        real.require(args.data)
    except real.AbsentData as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    bundle = bundles.load(args.bundle)
    model = keras.models.load_model(bundle.weights, safe_mode=True, compile=False)
    threshold = bundle.threshold
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        sizes = (args.heads, args.analytic, cache, args.processes)
        test, vertex = slices_of("test", *sizes), slices_of("test-vertex", *sizes)
        volumes = template.load(cache / "template.npz")
        seeds = range(_STUDY_SEED, _STUDY_SEED + args.studies)
        studies = dataset.make_studies(seeds, cache / "template.npz", args.processes)
        textures = _textures(args.data, cache, args.processes)
    aside = dataset.make_real(args.data, "development")
    grafts = dataset.make_grafts(args.data, range(args.grafts), args.processes, "development")
    p_aside, p_grafts = predict(model, aside.tensor), predict(model, grafts.tensor)[:, 0]
    real_rows = development.rows(args.data, aside, p_aside, bundle)
    graft_rows = [
        area("slice AUC", grafts.label, p_grafts, grafts.head),
        share("slice sensitivity at the threshold", p_grafts[grafts.label] >= threshold),
        share("slice specificity at the threshold", p_grafts[~grafts.label] < threshold),
        _lime(
            "LIME: top superpixel touches the lesion",
            _found(grafts, p_grafts, threshold, args.lime),
            lambda head: _graft_lesion(args.data, head),
            bundle,
        ),
    ]
    probability, through = (predict(model, s.tensor)[:, 0] for s in (test, vertex))
    rows = _slices(test, probability, threshold) + _kinds(test, probability, threshold)
    rows.append(share("specificity, vertex", through[~vertex.label] < threshold, ">= 0.95"))
    rows.append(share("sensitivity, vertex", through[vertex.label] >= threshold))
    rows += _studies(studies, model, bundle)
    on_template = test.take(np.flatnonzero(test.source == "template"))
    rows.append(
        _lime(
            "LIME: top superpixel touches the lesion",
            _found(on_template, predict(model, on_template.tensor)[:, 0], threshold, args.lime),
            lambda head: _template_lesion(volumes, head),
            bundle,
        )
    )
    tables = {REAL: real_rows, GRAFTS: graft_rows, SYNTHETIC: rows}
    cost = forward_ms(bundle), bundle.weights.stat().st_size / 1e6
    charts = (
        development.reliability(aside, p_aside[:, 0]),
        development.risk_coverage(aside, p_aside, bundle),
    )
    forgotten = randomised.section(bundle, aside, p_aside[:, 0])
    text = _page(bundle, tables, charts, textures, forgotten, *cost)
    release.write_text(args.bundle / "EVALUATION.md", text)
    release.replace_metrics(args.bundle, _metrics(tables, *cost))
    sys.stdout.write(text)
    return 0


def _graft_lesion(data: Path, head: int) -> NDArray[np.bool_]:
    found = dataset.graft_of(data, head - dataset.GRAFT_HEADS, "development")
    if found is None:
        raise ValueError(f"head {head} has no bleed")
    return _shown(found.lesion, found.hu, found.pixel_mm)


def _template_lesion(volumes: template.Template, head: int) -> NDArray[np.bool_]:
    sample = synthetic.draw(volumes, head)
    return _shown(sample.lesion, sample.hu, sample.pixel_mm)


def _shown(
    lesion: NDArray[np.bool_], hu: NDArray[np.float32], pixel_mm: float
) -> NDArray[np.bool_]:
    """Return the lesion in the part of the slice that the model is shown."""
    return field_of(hu, pixel_mm, dataset.INPUT).cut(lesion.astype(np.float32), 0.0) > 0.5


def _textures(data: Path, cache: Path, processes: int) -> str:
    """Return what grain tells apart, in slices as the trainer makes and changes them."""
    first = SETS["train"][0]
    learned = (
        dataset.make_real(data, "train")
        .joined(dataset.make_grafts(data, range(TEXTURES), processes))
        .joined(dataset.make(range(first, first + TEXTURES), (), cache / "template.npz", processes))
    )
    batches = Batches(learned, 1, SEED)
    return texture.table(learned, lambda row, rng: batches.changed(row, rng)[0])


def _slices(test: Slices, p: NDArray[np.float32], threshold: float) -> list[Row]:
    label, looks = test.label, test.lookalike != ""
    found = p >= threshold
    rows = [
        area("slice AUC", label, p, test.head, ">= 0.96"),
        share("sensitivity at the threshold", found[label]),
        share("specificity at the threshold", ~found[~label]),
        share("specificity, slices with look-alikes", ~found[~label & looks], ">= 0.95"),
    ]
    for name in ("calcification", "falx", "infarct", "sinus", "tentorium"):
        shows = np.array([name in marks.split(",") for marks in test.lookalike])
        rows.append(share(f"specificity, {name}", ~found[~label & shows]))
    return rows


def _kinds(test: Slices, p: NDArray[np.float32], threshold: float) -> list[Row]:
    free, rows = ~test.label, []
    for kind in sorted(set(test.kind) - {""}):
        part = free | (test.kind == kind)
        goal = ">= 0.92" if kind == "subarachnoid" else ""
        rows.append(area(f"AUC, {kind}", test.label[part], p[part], test.head[part], goal))
        rows.append(share(f"sensitivity, {kind}", p[test.kind == kind] >= threshold))
    for low_mm2, high_mm2 in ((50, 150), (150, 500), (500, 1e9)):
        part = test.label & (test.area_mm2 >= low_mm2) & (test.area_mm2 < high_mm2)
        name = f"{low_mm2:g}-{high_mm2:g} mm2" if high_mm2 < 1e9 else f"over {low_mm2:g} mm2"
        rows.append(share(f"sensitivity, {name}", p[part] >= threshold))
    return rows


def _studies(studies: list[Study], model: Any, bundle: Bundle) -> list[Row]:
    """Return how whole studies are called, by the rule of the bundle as the worker does."""
    rule = rules.of_bundle(bundle)
    known = [s for s in studies if s.label is not None]
    label = np.array([s.label for s in known])
    called = []
    for study in known:
        places = [n * study.step_mm for n in range(len(study.tensor))]
        p = predict(model, study.tensor)[:, 0].astype(np.float64)
        called.append(rules.study_probability(rule, [(places, p)]))
    p = np.array(called, np.float32)
    return [
        area("AUC, whole studies", label, p, np.arange(len(known))),
        share("sensitivity, whole studies", p[label] >= rule.threshold),
        share("specificity, whole studies", p[~label] < rule.threshold),
    ]


def _lime(
    name: str, positive: Slices, lesion_of: Callable[[int], NDArray[np.bool_]], bundle: Bundle
) -> Row:
    """Return how often the superpixel of highest weight touches the lesion."""
    model = keras.models.load_model(bundle.weights, safe_mode=True, compile=False)
    forward = tf.function(lambda x: model(x, training=False))

    def classifier(tensors: Tensor) -> NDArray[np.float32]:
        return np.asarray(forward(tf.constant(tensors)), np.float32)

    how = Settings(Mode(bundle.explain.mode), bundle.explain.samples, bundle.explain.superpixels)
    hits = []
    for tensor, head in zip(positive.tensor, positive.head, strict=True):
        lesion = Image.fromarray(lesion_of(int(head)))
        blood = np.asarray(lesion.resize(bundle.size[::-1], Image.Resampling.NEAREST))
        found = explain(tensor.astype(np.float32) / 255, classifier, 0, how)
        hits.append(bool(blood[found.segments == int(found.weights.argmax())].any()))
    return share(name, np.array(hits), ">= 0.95")


def _found(slices: Slices, p: NDArray[np.float32], threshold: float, count: int) -> Slices:
    """Return so many of the positive slices that were found, drawn at random."""
    found = np.flatnonzero(slices.label & (p >= threshold))
    return slices.take(np.random.default_rng(5).permutation(found)[:count])


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


def _metrics(tables: dict[str, list[Row]], speed_ms: float, size_mb: float) -> str:
    """Return the ``[[metrics]]`` tables."""
    made = [
        f'[[metrics]]\nset = "{name}: {r.name}"\nn = {r.n}\n'
        f"value = {r.value:.4f}\nlow = {r.low:.4f}\nhigh = {r.high:.4f}\n"
        for name, rows in tables.items()
        for r in rows
        if r.goal or "the threshold" in r.name
    ]
    made.append(
        f'[[metrics]]\nset = "cost"\nforward_ms = {speed_ms:.1f}\nsize_mb = {size_mb:.2f}\n'
    )
    return "\n".join(made)


def _page(
    bundle: Bundle,
    tables: dict[str, list[Row]],
    charts: tuple[str, str],
    textures: str,
    forgotten: str,
    speed_ms: float,
    size_mb: float,
) -> str:
    rule, (reliability, coverage) = rules.of_bundle(bundle), charts
    head = "| n | value | 95 % interval | goal |\n| --- | --- | --- | --- | --- |"
    first, second, third = (
        f"| {name} {head}\n" + "\n".join(str(r) for r in rows) for name, rows in tables.items()
    )
    return f"""\
# Evaluation of the `ich` bundle {bundle.version}

Written by `python -m models.ich.evaluate`. **Not for diagnostic use.**

{bundle.training_data}.

Threshold of a slice {bundle.threshold}: {bundle.threshold_chosen}.
A study: logits averaged over {rule.smooth_mm:g} mm, mean of the highest {rule.top}; threshold
{rule.threshold}; {rule.chosen}.

## Real heads of the hospital that was learned from

25 patients that were not learned from, 5 mm slices, one hospital. **The threshold and the
calibration were chosen on these heads, so their numbers flatter**, and they say nothing about
another hospital. Intervals: bootstrap over heads for AUC and ECE, Wilson for shares. Blood of one
kind is set against all slices without blood. Base, middle and vertex: up to 0.4, 0.75 and 1 of the
way up. All slices are 5 mm thick.

{first}

Reliability of the slices' probabilities:

{reliability}

Risk and coverage: a study is undetermined where the members lie on both sides of the threshold, at
least a spread apart; `bundle.toml` says which spread ships.

{coverage}

## Synthetic bleeds in slices of the same heads

{second}

## Synthetic heads

In no other set, lesion-free twins of the positive slices included. These numbers say how well the
network knows the generators.

{third}

A slice is positive when it shows at least 50 mm2 of blood. Slices of template heads that show
8 to 50 mm2 are left out, with their twin kept; so are analytic slices below 50 mm2. Whole studies
are other heads, half of them without blood; a study whose bleed shows on no slice as 50 mm2 is left
out. The vertex slices are a set of their own (z 52-88 mm in MNI152).
LIME, {bundle.explain.mode}: at most {bundle.explain.samples} samples on positive slices that were
found.

## What a small classifier tells by texture alone

A logistic regression on the statistics of fine grain in the brain (nothing of shape or level),
tried on heads that it did not learn from. 0.5 is chance: what it tells apart, a network could, too.

{textures}

{forgotten}## Cost

| | value | goal |
| --- | --- | --- |
| forward pass of one slice on one core, ms | {speed_ms:.1f} | <= 20 |
| weights, MB | {size_mb:.2f} | <= 20 |
"""


if __name__ == "__main__":
    raise SystemExit(main())
