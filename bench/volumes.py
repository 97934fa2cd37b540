"""What the explanation of a volume costs: seconds, and memory beside that of the model.

    python -m bench.volumes [--rounds N] [--quick]

A head with a bleed, in noise, is cut into supervoxels and explained through the engine, for a small
network of three dimensions whose weights are drawn: what it says means nothing, what it costs does.
Told are medians; the memory is the most that the process had resident while it explained, less what
it had before, each size in a process of its own. Without a model that is what Limen itself takes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.receivers import status_bytes
from limen import config
from worker.lime import explain
from worker.lime.explain import Settings
from worker.lime.supervoxels import supervoxels_in_head
from worker.serving.engine import Engine, Lane
from worker.tools.model_convert import convert
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

SHAPES = {(32, 64, 64): (4.5, 3.5, 3.5), (64, 128, 128): (2.3, 1.8, 1.8)}
"""Of the input, and how far apart its voxels are, mm: a head either way."""

WANTED = 40


def head(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Return (depth, rows, columns, 1) float32, 0..1."""
    places = [(np.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(shape, voxel_mm, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij")
    far = (z / 85) ** 2 + (y / 95) ** 2 + (x / 75) ** 2
    blood = (z - 10) ** 2 + (y + 30) ** 2 + (x - 20) ** 2 < 15**2
    brain = 0.44 + 0.4 * blood + np.random.default_rng(1).normal(0, 0.05, shape)
    found = np.where(far < 0.8, brain, np.where(far < 1, 1, 0))
    return np.clip(found, 0, 1)[..., None].astype(np.float32)


def _engine(shape: tuple[int, int, int], folder: Path) -> Engine:
    """Return the engine of a small network, on OpenVINO."""
    from worker.bundles.bundle import load
    from worker.serving.backends.tensorflow import import_tensorflow

    _, keras = import_tensorflow()
    keras.utils.set_random_seed(1)
    image = keras.Input((*shape, 1))
    found: Any = image
    for filters in (8, 16, 32):
        found = keras.layers.Conv3D(filters, 3, strides=2, activation="relu")(found)
    pooled = keras.layers.GlobalAveragePooling3D()(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(pooled)).save(
            folder / "model.keras"
        )
    made = make(folder / "model.keras", folder / "bundle", Wishes(scale=(0.0, 1.0)))
    convert(made.bundle.folder)
    return Engine(load(made.bundle.folder), config.Engine())


def _mib(field: str) -> float:
    """Return VmRSS (resident now) or VmHWM (the most since ``_forget``)."""
    return status_bytes(os.getpid(), field) / (1 << 20)


def _forget() -> None:
    """Let the most that was resident be what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def _measure(shape: tuple[int, int, int], rounds: int, with_model: bool, results: Any) -> None:
    """Put (seconds of the cut, seconds of all of it, MiB) into ``results``."""
    voxel_mm = SHAPES[shape]
    tensor, settings = head(shape, voxel_mm), Settings(superpixels=WANTED, voxel_mm=voxel_mm)
    supervoxels_in_head(head((16, 32, 32), (9.0, 7.0, 7.0)), 8, (9.0, 7.0, 7.0))  # imports
    with tempfile.TemporaryDirectory() as scratch:
        if with_model:
            engine = _engine(shape, Path(scratch))

            def ask(batch: np.ndarray) -> np.ndarray:
                return engine.answer(engine.submit(batch, Lane.EXPLAIN))
        else:

            def ask(batch: np.ndarray) -> np.ndarray:
                return batch.mean(axis=(1, 2, 3))

        _forget()
        before_mib, cut_s, all_s = _mib("VmRSS"), [], []
        for _ in range(rounds):
            began_s = time.monotonic()
            supervoxels_in_head(tensor, WANTED, voxel_mm)
            cut_s.append(time.monotonic() - began_s)
            began_s = time.monotonic()
            explain.explain(tensor, ask, 0, settings)
            all_s.append(time.monotonic() - began_s)
        if with_model:
            engine.close()
    more_mib = _mib("VmHWM") - before_mib
    results.put((statistics.median(cut_s), statistics.median(all_s), more_mib))


def main(argv: Sequence[str]) -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.volumes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    args = parser.parse_args(argv)
    context = multiprocessing.get_context("spawn")
    for shape in list(SHAPES)[: 1 if args.quick else None]:
        for with_model in (False, True):
            results = context.Queue()
            given = (shape, 1 if args.quick else args.rounds, with_model, results)
            child = context.Process(target=_measure, args=given)
            child.start()
            cut_s, all_s, mib = results.get(timeout=900)
            child.join()
            what = "with a small network" if with_model else "without a model"
            sys.stdout.write(
                f"{' x '.join(map(str, shape)):14} {what:20}: cut {cut_s:.2f} s, all of it "
                f"{all_s:.2f} s, {mib:.0f} MiB\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
