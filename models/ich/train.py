"""Train the bundle on real and synthetic head CT: ``python -m models.ich.train``.

Everything comes from one seed and a fixed number of batches. The trunk begins with general image
weights (``imagenet``). Each batch is the same mixture of real slices, synthetic bleeds in real
slices, and synthetic heads; a synthetic bleed comes with the same slice without it: what differs
between the two is blood and nothing else. Each member learns from two thirds of the heads. Real
heads of the split "development" are never learned from: they calibrate, and choose the thresholds.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from models.ich import dataset, decision, imagenet, network, real, release
from models.ich.dataset import Slices
from models.ich.network import MEMBERS
from models.ich.statistics import auc, predict
from worker.tools.model_convert import convert

FOLDER = Path(__file__).parent
SEED = 20250301
RATE = 4e-4
HEADS, ANALYTIC, GRAFTS = 700, 24, 6000
PASSES, STEPS, AVERAGED = 18, 80, 8
SETS = {
    "train": (1_000_000, 1.0, 1.0),
    "validation": (2_000_000, 0.1, 0.1),
    "test": (3_000_000, 1.0, 0.5),
    "train-vertex": (1_500_000, 0.18, 0.0),
    "validation-vertex": (2_500_000, 0.03, 0.0),
    "test-vertex": (3_500_000, 0.2, 0.0),
}
"""First seed, and heads on the template and analytic heads as shares of what was asked for."""

QUOTA = {
    ("real", True): 9,
    ("real", False): 12,
    ("graft", True): 2,
    ("plain", False): 2,
    ("template", True): 1,
    ("template", False): 1,
    ("analytic", True): 1,
    ("analytic", False): 1,
}
"""Slices of each source in a batch; a positive of these brings its twin along:"""
TWINNED = {"graft", "template"}

_CELL = 8  # pixels of the input for one cell of the map
_UNKNOWN = -1.0  # what a member does not learn: a cell of a real slice with blood, another's head


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one mixture, each slice changed anew.

    Parameters
    ----------
    steps
        Batches of one pass.
    """

    def __init__(self, slices: Slices, steps: int, seed: int) -> None:
        super().__init__(workers=1)
        self.slices, self.steps, self.seed, self.epoch = slices, steps, seed, 0
        self.grain = _fields([seed, 1], 64, (0.5, 1.8))
        self.shading = _fields([seed, 2], 64, (18, 50))
        self.pools = {
            (source, label): np.flatnonzero((slices.source == source) & (slices.label == label))
            for source, label in QUOTA
        }

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
        number = self.epoch * self.steps + index
        rng = np.random.default_rng([self.seed, 3, number])
        chosen = np.array(self._rows(number))
        x = np.empty((len(chosen), *dataset.INPUT.size, 3), np.float32)
        cells = np.empty((len(chosen), *dataset.MAP), np.float32)
        for k, row in enumerate(chosen):
            x[k], cells[k] = self.changed(int(row), rng)
        label = self.slices.label[chosen].astype(np.float32)
        cells[(self.slices.source[chosen] == "real") & (label > 0)] = _UNKNOWN
        logit, map_ = np.repeat(label[:, None], MEMBERS, 1), np.repeat(cells[..., None], MEMBERS, 3)
        for row, member in enumerate(_left_out(self.slices.head[chosen])):
            logit[row, member], map_[row, ..., member] = _UNKNOWN, _UNKNOWN
        return x, {"logit": logit, "cells": map_}

    def _rows(self, number: int) -> list[int]:
        """Return the rows of a batch: each pool is gone through in a new order each time."""
        rows: list[int] = []
        for (source, label), count in QUOTA.items():
            pool = self.pools[source, label]
            if not len(pool):
                continue
            for place in range(number * count, (number + 1) * count):
                rounds, at = divmod(place, len(pool))
                row = int(_order(len(pool), self.seed, rounds)[at])
                rows.append(int(pool[row]))
                if label and source in TWINNED:
                    rows.append(rows[-1] + 1)
        return rows

    def changed(
        self, row: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a slice as another scanner, archive and export would show it, and its map."""
        u = rng.uniform
        where = _pose(rng)
        image = _placed(Image.fromarray(self.slices.tensor[row]), where, 1)
        cells = _placed(Image.fromarray(self.slices.area[row]), where, _CELL)
        if u() < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(u(0.3, 1.2)))
        if u() < 0.25:
            small, (rows, columns) = u(0.5, 0.95), dataset.INPUT.size
            size = int(columns * small), int(rows * small)
            image = image.resize(size, Image.Resampling.BILINEAR)
            image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        if u() < 0.2:
            image = _through_jpeg(image, int(u(50, 97)))
        x = np.asarray(image, np.float32) / 255
        # Air and bone are beyond the window, where noise does not show.
        shown = (x > 0.004) & (x < 0.996)
        extra_hu = u(0, 4) * self.shading[rng.integers(len(self.shading))]
        if u() < 0.6:
            extra_hu = extra_hu + u(0, 9) * self.grain[rng.integers(len(self.grain))]
        widths = np.array([w for _, w in dataset.INPUT.windows], np.float32)
        level_hu = np.float32(rng.normal(0, 4.5))
        x = x * np.float32(u(0.87, 1.13)) + (level_hu + extra_hu[..., None] * shown) / widths
        x = np.clip(x, 0, 1)
        if u() < 0.15:
            x = x ** np.float32(np.exp(u(-0.25, 0.25)))
        return x.astype(np.float32), np.asarray(cells, np.float32) / 255

    def on_epoch_end(self) -> None:
        """Go on where this pass ended."""
        self.epoch += 1


@lru_cache(maxsize=64)
def _order(count: int, seed: int, rounds: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 4, count, rounds]).permutation(count)


def _left_out(head: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the member that does not learn from each head (Knuth's multiplicative hash)."""
    return np.asarray((head * 2654435761 >> 7) % MEMBERS, np.int64)


def _pose(rng: np.random.Generator) -> tuple[float, ...]:
    """Return an affine map from the new picture to the old one, pixels of the input."""
    u, (down_px, right_px) = rng.uniform, (n / 2 for n in dataset.INPUT.size)
    angle = np.deg2rad(np.clip(rng.normal(0, 8), -25, 25))
    zoom, aspect = np.exp(u(-0.18, 0.18)), np.exp(u(-0.08, 0.08))
    mirror = -1.0 if u() < 0.5 else 1.0
    a, b = mirror * np.cos(angle) / (zoom * aspect), np.sin(angle) / zoom
    d, e = -mirror * np.sin(angle) / (zoom * aspect), np.cos(angle) / zoom
    right, down = right_px + u(-10, 10), down_px + u(-10, 10)
    return (
        a,
        b,
        right - (a * right_px + b * down_px),
        d,
        e,
        down - (d * right_px + e * down_px),
    )


def _placed(image: Image.Image, where: tuple[float, ...], pixels: int) -> Image.Image:
    a, b, c, d, e, f = where
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (a, b, c / pixels, d, e, f / pixels),
        resample=Image.Resampling.BILINEAR,
    )


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=quality)
    return Image.open(held)


def _fields(seed: list[int], count: int, smooth_px: tuple[float, float]) -> NDArray[np.float32]:
    """Return (count, rows, columns) float32 random fields of mean 0 and deviation 1."""
    rng = np.random.default_rng(seed)
    size = dataset.INPUT.size
    made = np.stack(
        [
            ndimage.gaussian_filter(
                rng.standard_normal(size, np.float32), rng.uniform(*smooth_px), mode="wrap"
            )
            for _ in range(count)
        ]
    )
    made -= made.mean((1, 2), keepdims=True)
    return np.asarray(made / made.std((1, 2), keepdims=True), np.float32)


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """After each pass: how development slices are told apart by the weights averaged so far."""

    def __init__(
        self, classifier: Any, aside: Slices, kept: Path, say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.classifier, self.aside, self.kept, self.say = classifier, aside, kept, say

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.classifier.save(self.kept / f"pass-{epoch + 1}.keras")
        p = predict(self.classifier, self.aside.tensor)
        label, called = decision.studies(self.aside, p[:, 0], decision.RULE)
        areas = auc(self.aside.label, p[:, 0]), auc(label, called)
        loss = (logs or {}).get("loss", float("nan"))
        self.say(
            f"pass {epoch + 1}: loss {loss:.3f}; development: slice AUC {areas[0]:.3f}, "
            f"study AUC {areas[1]:.3f}"
        )


def _cross_entropy(true: Any, logit: Any, smoothing: float) -> Any:
    """Return the cross-entropy of what is known, and 0 of the rest."""
    ops = keras.ops
    target = ops.maximum(true, 0.0) * (1 - 2 * smoothing) + smoothing
    loss = ops.relu(logit) - logit * target + ops.log1p(ops.exp(-ops.abs(logit)))
    return loss * ops.cast(true >= 0, logit.dtype)


def _slice_loss(true: Any, logit: Any) -> Any:
    """Return the loss of each slice: the mean of the members that learn from it."""
    return keras.ops.sum(_cross_entropy(true, logit, 0.02), -1) / (MEMBERS - 1)


def _cell_loss(true: Any, logit: Any) -> Any:
    """Return the loss of each map."""
    each = keras.ops.mean(_cross_entropy(true, logit, 0.0), (1, 2, 3))
    return each * MEMBERS / (MEMBERS - 1)


def fit(
    classifier: Any,
    slices: Slices,
    aside: Slices,
    passes: int,
    steps: int,
    kept: Path,
    say: Callable[[str], None],
) -> Any:
    """Return the classifier trained: the mean of its weights after each pass from ``AVERAGED`` on.

    One pass knows the hospital in its own way, the mean of many less so (Izmailov et al. 2018).
    """
    keras.utils.set_random_seed(SEED)
    trainer = network.with_map(classifier)
    network.hold(classifier)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, max(passes * steps, 1), alpha=0.05, warmup_target=RATE, warmup_steps=60
    )
    trainer.compile(
        keras.optimizers.AdamW(
            rate, weight_decay=2e-3, use_ema=True, ema_momentum=0.99, clipnorm=1.0
        ),
        loss={"logit": _slice_loss, "cells": _cell_loss},
        loss_weights={"logit": 1.0, "cells": 5.0},
        jit_compile=False,
    )
    trainer.fit(
        Batches(slices, steps, SEED),
        epochs=passes,
        verbose=0,
        shuffle=False,
        callbacks=[
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            _Watch(classifier, aside, kept, say),
        ],
    )
    return averaged([kept / f"pass-{n}.keras" for n in range(min(AVERAGED, passes), passes + 1)])


def averaged(paths: Sequence[Path]) -> Any:
    """Return the classifier with the mean of the weights of these files."""
    models = [keras.models.load_model(path, compile=False) for path in paths]
    each = zip(*(model.get_weights() for model in models), strict=True)
    models[0].set_weights([np.mean(same, axis=0) for same in each])
    return models[0]


def cached(stored: Path, make: Callable[[], Slices]) -> Slices:
    """Return one set, from ``stored`` when it is there."""
    if stored.is_file():
        with np.load(stored) as arrays:
            return Slices(**{n: arrays[n] for n in Slices.__dataclass_fields__})
    made = make()
    np.savez(stored, **{n: getattr(made, n) for n in Slices.__dataclass_fields__})
    return made


def slices_of(name: str, heads: int, analytic: int, cache: Path, processes: int) -> Slices:
    """Return one synthetic set, from ``cache`` when it is there."""
    first, share, analytic_share = SETS[name]
    return cached(
        cache / f"{name}-{heads}-{analytic}.npz",
        lambda: dataset.make(
            range(first, first + int(heads * share)),
            range(first, first + int(analytic * analytic_share)),
            cache / "template.npz",
            processes,
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Train, calibrate, choose the threshold, write the bundle."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.train", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the bundle")
    parser.add_argument("--data", type=Path, default=real.DATA, help="folder of the real heads")
    parser.add_argument("--heads", type=int, default=HEADS, help="heads on the template")
    parser.add_argument("--analytic", type=int, default=ANALYTIC, help="analytic heads, 12 slices")
    parser.add_argument("--grafts", type=int, default=GRAFTS, help="bleeds tried in real slices")
    parser.add_argument("--passes", type=int, default=PASSES, help="passes of --steps batches")
    parser.add_argument("--steps", type=int, default=STEPS, help="batches of one pass")
    parser.add_argument("--processes", type=int, default=2, help="processes that make heads")
    parser.add_argument("--cache", type=Path, help="keep the slices here between runs")
    parser.add_argument("--weights", type=Path, help="train nothing: calibrate and write these")
    args = parser.parse_args(argv)
    os.nice(10)
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - started:5.0f} s] {text}\n")
        sys.stdout.flush()

    try:
        real.require(args.data)
        keras.utils.set_random_seed(SEED)
        classifier = network.build(dataset.INPUT.size)
    except (real.AbsentData, imagenet.AbsentWeights) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        sizes = (args.heads, args.analytic, cache, args.processes)
        say("preparing real heads and bleeds in them")
        development = dataset.make_real(args.data, "development")
        train = dataset.make_real(args.data, "train").joined(
            cached(
                cache / f"grafts-{args.grafts}.npz",
                lambda: dataset.make_grafts(args.data, range(args.grafts), args.processes),
            )
        )
        say(f"making {args.heads} slices on the template and {args.analytic} analytic heads")
        train = train.joined(slices_of("train", *sizes)).joined(slices_of("train-vertex", *sizes))
        validation = slices_of("validation", *sizes).joined(slices_of("validation-vertex", *sizes))
        say(f"{len(train.label)} slices, {train.label.mean():.0%} positive; training")
        if args.weights is not None:
            model = keras.models.load_model(args.weights, compile=False)
        else:
            model = fit(classifier, train, development, args.passes, args.steps, cache, say)
    calibration = decision.calibrate(model, development)
    chosen = decision.choose(development, predict(model, development.tensor))
    release.write(
        args.output,
        model,
        calibration=calibration,
        chosen=chosen,
        golden=validation,
        learned=train,
    )
    say("converting for OpenVINO")
    convert(args.output, int8=False)
    say(
        f"logits x {calibration[0]:.3f} + {calibration[1]:.3f}, study threshold "
        f"{chosen.rule.threshold}; next: python -m models.ich.evaluate"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
