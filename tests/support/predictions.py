"""Studies of synthetic slices, looked at by the fake bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from limen.result import Provenance, Timings
from tests.support.synthetic import SERIES, STUDY, fake_bundle
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Members, StudyRule
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study.parts import Instance, Stamp, StudyOutput, read_headers
from worker.study.prediction import predict_study

__all__ = ["BUNDLE", "MEMBERS", "NOW", "STAMP", "instances", "predict"]

BUNDLE = fake_bundle()
MEMBERS = fake_bundle(
    threshold=0.9,
    study=StudyRule(threshold=0.5, chosen="by hand"),
    members=Members(outputs=(1, 2), spread=0.3),
    golden_probability=np.full((1, 3), 0.01, np.float32),
)
"""For the backend ``TwoMembers``, of which one is never sure."""
NOW = "2026-01-02T03:04:05Z"
STAMP = Stamp(2, Timings(NOW, NOW), Provenance("0.1.0", "host", "0" * 64))


def instances(paths: list[Path]) -> list[Instance]:
    """Return where the files of ``synthetic.series`` are."""
    return [Instance(p, f"{SERIES}.{p.stem}", SERIES) for p in paths]


def predict(
    paths: list[Path], decoder: Decoder, engine: Engine, bundle: Bundle = BUNDLE
) -> StudyOutput:
    """Return what the bundle says of the files of a study."""
    read = read_headers(instances(paths), decoder)
    return predict_study(STUDY, read, decoder, engine, bundle, STAMP)
