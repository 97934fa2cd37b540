"""Train the bundle on synthetic head CT: ``python -m models.ich.train``.

Everything comes from one seed. Heads of training, validation and test have
different seeds, so no head is in two sets. The network sees each positive
slice together with the same slice of the same head without the lesion: what
differs between the two is blood and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.ich import dataset, network, release
from models.ich.dataset import Slices
from models.ich.statistics import calibrate, choose_threshold
from worker.model_convert import convert

FOLDER = Path(__file__).parent
SEED = 20250301
SETS = {
    "train": (1_000_000, 1.0, 1.0),
    "validation": (2_000_000, 0.1, 0.1),
    "test": (3_000_000, 0.2, 0.2),
    "train-vertex": (1_500_000, 0.18, 0.0),
    "validation-vertex": (2_500_000, 0.03, 0.0),
    "test-vertex": (3_500_000, 0.05, 0.0),
}
"""First seed, and heads on the template and analytic heads as shares of what was asked for."""

_CELL = 8  # pixels of the input for one cell of the map


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Augmented batches: flip, shift, level, contrast, shading, noise."""

    def __init__(self, slices: Slices, batch: int, seed: int) -> None:
        super().__init__(workers=1)
        self.slices, self.batch, self.seed, self.epoch = slices, batch, seed, 0
        self.order = np.random.default_rng([seed, 0]).permutation(len(slices.label))
        self.grain = _fields([seed, 1], 64, (0.5, 1.8))
        self.shading = _fields([seed, 2], 64, (18, 50))

    def __len__(self) -> int:
        return len(self.order) // self.batch

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = self.order[index * self.batch : (index + 1) * self.batch]
        x = self.slices.tensor[chosen].astype(np.float32) / 255
        cells = self.slices.area[chosen].astype(np.float32) / 255
        for k in range(len(chosen)):
            if rng.uniform() < 0.5:
                x[k], cells[k] = x[k, :, ::-1], cells[k, :, ::-1]
            # Whole cells, so that the map stays true; what rolls over is air.
            down, right = rng.integers(-1, 2, 2)
            x[k] = np.roll(x[k], (_CELL * down, _CELL * right), (0, 1))
            cells[k] = np.roll(cells[k], (down, right), (0, 1))
        widths = np.array([w for _, w in dataset.INPUT.windows], np.float32)
        shape = (len(chosen), 1, 1, 1)
        level_hu = rng.normal(0, 2.0, shape).astype(np.float32)
        x = x * rng.uniform(0.94, 1.06, shape).astype(np.float32) + level_hu / widths
        for k in range(len(chosen)):
            extra_hu = rng.uniform(0, 4) * self.shading[rng.integers(len(self.shading))]
            if rng.uniform() < 0.4:
                extra_hu = extra_hu + rng.uniform(0, 5) * self.grain[rng.integers(len(self.grain))]
            # Air and bone are beyond the window, where noise does not show.
            shown = (x[k] > 0) & (x[k] < 1)
            x[k] += shown * (extra_hu.astype(np.float32)[..., None] / widths)
        label = self.slices.label[chosen].astype(np.float32)[:, None]
        return np.clip(x, 0, 1, out=x), {"logit": label, "cells": cells[..., None]}

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self.epoch += 1
        rng = np.random.default_rng([self.seed, self.epoch])
        self.order = rng.permutation(len(self.order))


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


def fit(slices: Slices, epochs: int) -> Any:
    """Return the trained classifier: the moving average of its weights."""
    keras.utils.set_random_seed(SEED)
    classifier, trainer = network.build()
    batches = Batches(slices, 32, SEED)
    steps = len(batches) * epochs
    warm = min(200, steps // 5)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-4, steps - warm, alpha=0.01, warmup_target=2.5e-3, warmup_steps=warm
    )
    bce = keras.losses.BinaryCrossentropy
    trainer.compile(
        keras.optimizers.AdamW(rate, weight_decay=2e-3, use_ema=True, ema_momentum=0.995),
        loss={"logit": bce(from_logits=True), "cells": bce(from_logits=True)},
        loss_weights={"logit": 1.0, "cells": 6.0},
    )
    # Order is kept within an epoch; the batches shuffle themselves.
    trainer.fit(batches, epochs=epochs, verbose=2, shuffle=False)
    trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
    return classifier


def slices_of(name: str, heads: int, analytic: int, cache: Path, processes: int) -> Slices:
    """Return one set, from ``cache`` when it is there."""
    stored = cache / f"{name}-{heads}-{analytic}.npz"
    if stored.is_file():
        with np.load(stored) as arrays:
            return Slices(**{n: arrays[n] for n in Slices.__dataclass_fields__})
    first, share, analytic_share = SETS[name]
    made = dataset.make(
        range(first, first + int(heads * share)),
        range(first, first + int(analytic * analytic_share)),
        cache / "template.npz",
        processes,
    )
    np.savez(stored, **{n: getattr(made, n) for n in Slices.__dataclass_fields__})
    return made


def main(argv: list[str] | None = None) -> int:
    """Train, calibrate, choose the threshold, write the bundle."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.train", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the bundle")
    parser.add_argument("--heads", type=int, default=9000, help="heads on the template")
    parser.add_argument("--analytic", type=int, default=150, help="analytic heads, 12 slices each")
    parser.add_argument("--epochs", type=int, default=10, help="passes over them (default 10)")
    parser.add_argument("--processes", type=int, default=2, help="processes that make heads")
    parser.add_argument("--cache", type=Path, help="keep the slices here between runs")
    args = parser.parse_args(argv)
    os.nice(10)
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - started:5.0f} s] {text}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        sizes = (args.heads, args.analytic, cache, args.processes)
        say(f"making {args.heads} slices on the template and {args.analytic} analytic heads")
        train = slices_of("train", *sizes).joined(slices_of("train-vertex", *sizes))
        say(f"{len(train.label)} slices, {train.label.mean():.0%} positive; training")
        model = fit(train, args.epochs)
        say("making validation slices")
        validation = slices_of("validation", *sizes).joined(slices_of("validation-vertex", *sizes))
    temperature = calibrate(model, validation)
    threshold = choose_threshold(model, validation)
    release.write(
        args.output,
        model,
        temperature=temperature,
        threshold=threshold,
        golden=validation,
        heads=(int(args.heads * (1 + SETS["train-vertex"][1])), args.analytic),
    )
    say("converting for OpenVINO")
    convert(args.output, int8=True, tensors=validation.tensor)
    say(
        f"temperature {temperature:.3f}, threshold {threshold}; next: python -m models.ich.evaluate"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
