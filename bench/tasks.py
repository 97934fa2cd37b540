"""What a task costs a study: slices, slices between neighbours, marks, and all slices at once.

    python -m bench.tasks [--slices N] [--rounds N] [--quick]

A synthetic head of 512 x 512 pixels goes through decoder, engine and rule as in a worker, with
models of one trunk whose weights are drawn: what they say means nothing, what they cost does. The
tasks take turns; told are medians, and each over that of slices alone. The goal: neighbours at most
1.3 times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limen import config
from tests.support import synthetic
from tests.support.predictions import STAMP
from worker.bundles.bundle import Bundle, load
from worker.dicom.decoder import Decoder
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine
from worker.study.parts import Instance, read_headers
from worker.study.prediction import predict_study
from worker.tools.model_convert import convert
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

SIDE_PX, INPUT_PX, DEPTH = 512, 224, 32
PIXEL_MM, SPACING_MM = 0.47, 5.0


def _trunk(keras: Any, channels: int) -> Any:
    return keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(INPUT_PX, INPUT_PX, channels)
    )


def _classifier(keras: Any, channels: int) -> Any:
    trunk = _trunk(keras, channels)
    pooled = keras.layers.GlobalAveragePooling2D()(trunk.output)
    return keras.Model(trunk.input, keras.layers.Dense(1, activation="sigmoid")(pooled))


def _marks(keras: Any) -> Any:
    trunk = _trunk(keras, 3)
    layers = keras.layers
    coarse = layers.Conv2D(8, 1)(trunk.output)
    fine = layers.UpSampling2D(32, interpolation="bilinear")(coarse)
    return keras.Model(trunk.input, layers.Conv2D(1, 1, activation="sigmoid")(fine))


def _volume(keras: Any) -> Any:
    image = keras.Input((DEPTH, INPUT_PX, INPUT_PX, 1))
    found = image
    for filters in (8, 16, 32):
        found = keras.layers.Conv3D(filters, 3, strides=2, activation="relu")(found)
    pooled = keras.layers.GlobalAveragePooling3D()(found)
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(pooled))


MODELS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "slices": (lambda keras: _classifier(keras, 3), {}),
    "neighbours": (lambda keras: _classifier(keras, 9), {"neighbours": 1}),
    "segmentation": (_marks, {}),
    "volume": (_volume, {}),
}


def _bundle(name: str, folder: Path) -> Bundle:
    """Return the bundle of a task, with its file for OpenVINO."""
    _, keras = import_tensorflow()
    keras.utils.set_random_seed(1)
    model, wishes = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(keras).save(folder / f"{name}.keras")
    made = make(folder / f"{name}.keras", folder / name, Wishes(scale=(-1.0, 1.0), **wishes))
    convert(made.bundle.folder)
    accepts = made.bundle.accepts.model_copy(update={"looks_like": "", "min_extent_mm": 0.0})
    return replace(load(made.bundle.folder), accepts=accepts)


def _study(folder: Path, count: int) -> list[Instance]:
    random = np.random.default_rng(1)
    found = []
    for number in range(1, count + 1):
        hu = synthetic.head_hu(side=SIDE_PX) + random.normal(0, 5, (SIDE_PX, SIDE_PX))
        dataset = synthetic.instance(
            number,
            SPACING_MM * number,
            pixels=hu.astype(np.int16),
            PixelSpacing=[PIXEL_MM, PIXEL_MM],
            SliceThickness=SPACING_MM,
        )
        path = synthetic.save(dataset, folder, f"{number}.dcm")
        found.append(Instance(path, f"{synthetic.SERIES}.{number}", synthetic.SERIES))
    return found


def main(argv: Sequence[str]) -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    args = parser.parse_args(argv)
    rounds, slices = (1, 8) if args.quick else (args.rounds, args.slices)
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        instances = _study(Path(scratch), slices)
        decoder = stack.enter_context(Decoder(processes=2, timeout_s=60))
        read = read_headers(instances, decoder)
        engines = {}
        for name in MODELS:
            bundle = _bundle(name, Path(scratch))
            engines[name] = bundle, stack.enter_context(Engine(bundle, config.Engine()))
        for _ in range(rounds + 1):  # the first of each is not counted
            for name, (bundle, engine) in engines.items():
                began_s = time.monotonic()
                predict_study(synthetic.STUDY, read, decoder, engine, bundle, STAMP)
                seconds[name].append(time.monotonic() - began_s)
    base = statistics.median(seconds["slices"][1:])
    for name, took in seconds.items():
        median = statistics.median(took[1:])
        sys.stdout.write(
            f"{name:13} {slices} slices: {median:.3f} s, {median / base:.2f} x slices "
            f"({min(took[1:]):.3f} to {max(took[1:]):.3f})\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
