"""How long the DICOM objects of a study take, and how large they are: ``python -m bench.objects``.

A head of 32 slices of 512 x 512, five of them explained; each kind is built by itself, with and
without ``dciodvfy``, and the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from limen import config
from tests.support import heads
from tests.support.explained import Studies, Study
from tests.support.synthetic import BrightBlood
from worker.dicom.decoder import Decoder
from worker.objects import Kind
from worker.serving.engine import Engine

SIDE, SLICES, ROUNDS = 512, 32, 7


def main() -> int:
    """Print milliseconds and bytes of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    rounds = parser.parse_args().rounds
    bundle = heads.head_bundle()
    with (
        tempfile.TemporaryDirectory() as folder,
        Decoder(processes=1) as decoder,
        Engine(bundle, config.Engine(), backend=BrightBlood()) as engine,
    ):
        study = Studies(Path(folder), decoder, engine)(_head())
        print(f"{'kind':5} {'objects':>7} {'bytes':>12} {'ms':>7} {'ms with dciodvfy':>17}")
        whole = 0
        for kind in Kind:
            built, plain_ms = _timed(study, kind, rounds, validate=False)
            _, checked_ms = _timed(study, kind, rounds, validate=True)
            size = sum(len(one.body) for one in built)
            whole += size
            print(f"{kind:5} {len(built):7} {size:12,} {plain_ms:7.0f} {checked_ms:17.0f}")
        print(f"all {whole:22,} bytes; reading the headers is part of each line")
    return 0


def _head() -> list:
    heights = np.linspace(-60, 90, SLICES)
    return [
        heads.slice_of(heads.head_hu(z, bleeds=abs(z) < 20, side=SIDE), z, n)
        for n, z in enumerate(map(float, heights), start=1)
    ]


def _timed(study: Study, kind: Kind, rounds: int, *, validate: bool) -> tuple[tuple, float]:
    result = study.prediction if kind is Kind.KO else study.explanation
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        objects = study.objects(result, wanted={kind}, validate=validate)
        times.append((time.perf_counter() - begun) * 1000)
    return objects.built, statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
