"""Objects of a model that was shown a part of a slice: they are about the whole instance."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from limen import config
from tests.support import heads
from tests.support.heads import STAMP, Reader, head_bundle
from tests.support.synthetic import BrightBlood
from worker.dicom import hounsfield
from worker.dicom.decoder import Decoder
from worker.objects import Kind
from worker.objects.build import build
from worker.serving.engine import Engine
from worker.study.explanation import explain_study

BLOOD_HU = 70
HEIGHTS_MM = (-30.0, -10.0, 10.0, 30.0)
EXPLAIN = config.Explain(samples=200, superpixels=30, max_explained=1)


class InTheMiddle(BrightBlood):
    """Calls blood in the slice itself, whatever its neighbours show."""

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return super().predict(batch[..., 3:6])


def moved(hu: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return a slice with the patient elsewhere on the table; what leaves the picture is gone."""
    wide = np.pad(hu, 96, constant_values=-1000)
    return wide[96 - down : 192 - down, 96 - right : 192 - right].copy()


@pytest.mark.parametrize("spacing_mm", [None, 3.0])
@pytest.mark.parametrize(
    ("down", "right", "turned"),
    [(0, 0, False), (-20, -30, False), (25, 12, False), (-20, -30, True)],
)
def test_the_segmentation_covers_the_bleeding_of_a_head_that_was_cropped(
    down: int,
    right: int,
    turned: bool,
    spacing_mm: float | None,
    tmp_path: Path,
    decoder: Decoder,
) -> None:
    bundle = replace(head_bundle(), crop="head", spacing_mm=spacing_mm, neighbours=1, size=(80, 64))
    files = []
    for number, z in enumerate(HEIGHTS_MM, start=1):
        hu = moved(heads.head_hu(z, bleeds=z == 10.0), down, right)
        way = [0, 1, 0, 1, 0, 0] if turned else [1, 0, 0, 0, 1, 0]
        pixels = np.ascontiguousarray(hu.T if turned else hu)
        files.append(heads.slice_of(pixels, z, number, ImageOrientationPatient=way))

    with Engine(bundle, config.Engine(max_wait_ms=1), backend=InTheMiddle()) as engine:
        reader = Reader(decoder, engine, bundle)
        instances = reader.written(tmp_path, files)
        predicted = reader.predict(instances)
        explained = explain_study(
            predicted.result, instances, decoder, engine, bundle, EXPLAIN, STAMP
        )
    paths = {}
    for name, body in (predicted.files | explained.files).items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(body)
    found = build(explained.result, paths, instances, decoder, {Kind.SEG})
    assert found.refused == ()
    segmentation = dcmread(BytesIO(found.built[0].body))
    bleeding = hounsfield.read(instances[2].path, 1, heads.MAX_PIXELS) == BLOOD_HU
    mask = _mask(segmentation)
    assert mask.shape == bleeding.shape
    assert mask[bleeding].mean() > 0.8
    assert mask.sum() < 8 * bleeding.sum()


def _mask(segmentation: Dataset) -> np.ndarray:
    pixels = segmentation.pixel_array.astype(bool)
    return pixels if pixels.ndim == 2 else pixels[0]
