"""Train the bundle on the phantom: ``python -m models.ich.train``.

Everything comes from one seed. Heads of training, validation and test have
different seeds, so no head is in two sets. The network sees each positive
slice together with the same slice of the same head without the lesion: what
differs between the two is blood and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.ich import dataset, evaluation, network
from models.ich.dataset import Slices

FOLDER = Path(__file__).parent
SEED = 20250301
TRAIN, VALIDATION, TEST = 1_000_000, 2_000_000, 3_000_000  # first seeds of the three sets


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Augmented batches: flip, shift, level, contrast and noise."""

    def __init__(self, slices: Slices, batch: int, seed: int) -> None:
        super().__init__()
        self.slices, self.batch, self.seed, self.epoch = slices, batch, seed, 0
        self.order = np.random.default_rng([seed, 0]).permutation(len(slices.label))

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
            x[k] = np.roll(x[k], (8 * down, 8 * right), (0, 1))
            cells[k] = np.roll(cells[k], (down, right), (0, 1))
        each = (len(chosen), 1, 1, 1)
        hu = rng.standard_normal((*x.shape[:3], 1), np.float32)
        hu *= rng.uniform(0, 2.5, each).astype(np.float32)
        hu += rng.normal(0, 2.5, each).astype(np.float32)
        widths = np.array([w for _, w in dataset.INPUT.windows], np.float32)
        x = x * rng.uniform(0.94, 1.06, each).astype(np.float32) + hu / widths
        label = self.slices.label[chosen].astype(np.float32)[:, None]
        target = {"logit": label, "cells": cells[..., None]}
        return np.clip(x, 0, 1), target

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self.epoch += 1
        rng = np.random.default_rng([self.seed, self.epoch])
        self.order = rng.permutation(len(self.order))


def fit(slices: Slices, epochs: int) -> Any:
    """Return the trained classifier."""
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
        keras.optimizers.AdamW(rate, weight_decay=1e-3),
        loss={
            "logit": bce(from_logits=True),
            "cells": bce(from_logits=True),
        },
        loss_weights={"logit": 1.0, "cells": 6.0},
    )
    # Order is kept within an epoch; PyDataset shuffles itself.
    trainer.fit(batches, epochs=epochs, verbose=2, shuffle=False)
    return classifier


def main(argv: list[str] | None = None) -> int:
    """Train, choose the threshold, evaluate, write the bundle."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.train", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the bundle")
    parser.add_argument("--heads", type=int, default=1000, help="training heads (default 1000)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over them (default 10)")
    parser.add_argument("--processes", type=int, default=2, help="processes that make heads")
    args = parser.parse_args(argv)
    os.nice(10)
    tf.config.experimental.enable_op_determinism()
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - started:5.0f} s] {text}\n")
        sys.stdout.flush()

    say(f"making {args.heads} training heads and their lesion-free twins")
    train = dataset.make(range(TRAIN, TRAIN + args.heads), args.processes)
    say(f"{len(train.label)} slices, {train.label.mean():.0%} positive; training")
    model = fit(train, args.epochs)
    say("making validation and test heads")
    held_out = max(args.heads // 10, 10)
    validation = dataset.make(range(VALIDATION, VALIDATION + held_out), args.processes)
    test = dataset.make(range(TEST, TEST + 2 * held_out), args.processes)
    say("evaluating")
    threshold = evaluation.choose_threshold(validation, evaluation.predict(model, validation))
    report = evaluation.evaluate(test, evaluation.predict(model, test), threshold)
    evaluation.write_bundle(
        args.output, model, threshold=threshold, report=report, test=test, heads=args.heads
    )
    say(
        f"threshold {threshold}, slice AUC {report.auc:.4f}, "
        f"sensitivity {report.sensitivity:.3f}, specificity {report.specificity:.3f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
