"""A cropped input is explained where it lies: in the picture of the whole slice."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset

from limen import config
from tests.support import synthetic
from tests.support.predictions import STAMP, instances, predict
from tests.support.synthetic import BrightBlood, fake_bundle
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study import render
from worker.study.explanation import explain_study

SIDE, PIXEL_MM = 256, 0.9375
"""A field of view of 240 mm."""

EXPLAIN = config.Explain(samples=200, superpixels=20, max_explained=1)
CROPPED = {"size": (112, 96), "crop": "head"}


def slice_hu(middle: tuple[int, int], blood: tuple[int, int]) -> np.ndarray:
    """Return (256, 256) int16, HU: a head of 150 x 120 mm around ``middle``, blood at ``blood``."""
    y, x = np.mgrid[:SIDE, :SIDE]
    far = np.hypot((y - middle[0]) / 80, (x - middle[1]) / 64)
    hu = np.full((SIDE, SIDE), -1000, np.int16)
    hu[far < 1] = 800
    hu[far < 0.9] = 35
    hu[np.hypot(y - blood[0], x - blood[1]) < 12] = 70
    return hu


def pixels(overlay: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(overlay)) as image:
        return np.asarray(image).astype(int)


def grey(slice_: bytes) -> np.ndarray:
    """Return a slice as people first see it."""
    return np.asarray(render.grey_of(slice_)).astype(int)


def explained(
    file: FileDataset, bundle: Bundle, tmp_path: Path, decoder: Decoder
) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture of a slice and its overlay, as they go to pages and archives."""
    path = tmp_path / "1.dcm"
    file.save_as(path, enforce_file_format=True)
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        predicted = predict([path], decoder, engine, bundle)
        then = explain_study(
            predicted.result, instances([path]), decoder, engine, bundle, EXPLAIN, STAMP
        )
    (image,) = then.result.images
    assert image.positive
    assert image.original is not None
    assert image.explanation is not None
    return grey(predicted.files[image.original]), pixels(then.files[image.explanation])


def warmest(overlay: np.ndarray) -> np.ndarray:
    """Return where the superpixel lies that speaks most for the finding."""
    warm = (overlay[..., :3] == render.FOR_RGB).all(axis=-1)
    return warm & (overlay[..., 3] == render.MAX_ALPHA)


@pytest.mark.parametrize("spacing_mm", [None, 1.9])
@pytest.mark.parametrize(
    ("middle", "blood"),
    [
        ((128, 128), (128, 100)),
        ((95, 170), (80, 200)),  # off the centre
        ((30, 215), (60, 230)),  # cut off by two edges
        ((230, 40), (200, 20)),
    ],
)
def test_the_part_that_speaks_for_blood_lies_over_the_blood_wherever_the_head_is(
    middle: tuple[int, int],
    blood: tuple[int, int],
    spacing_mm: float | None,
    tmp_path: Path,
    decoder: Decoder,
) -> None:
    bundle = fake_bundle(**CROPPED, spacing_mm=spacing_mm)
    file = synthetic.instance(pixels=slice_hu(middle, blood), PixelSpacing=[PIXEL_MM, PIXEL_MM])
    picture, overlay = explained(file, bundle, tmp_path, decoder)
    assert overlay.shape == (*picture.shape, 4)
    there = warmest(overlay)
    y, x = np.mgrid[:SIDE, :SIDE]
    is_blood = np.hypot(y - blood[0], x - blood[1]) < 12
    assert there[is_blood].mean() > 0.7
    assert (overlay[picture == 0][:, 3] > 0).mean() < 0.05  # air stays clear


def test_a_file_that_lies_on_its_side_is_explained_as_it_is_shown(
    tmp_path: Path, decoder: Decoder
) -> None:
    hu = slice_hu((95, 170), (80, 200))
    file = synthetic.instance(
        pixels=np.ascontiguousarray(hu.T),
        PixelSpacing=[PIXEL_MM, PIXEL_MM],
        ImageOrientationPatient=[0, 1, 0, 1, 0, 0],
    )
    bundle = fake_bundle(**CROPPED, spacing_mm=1.9)
    picture, overlay = explained(file, bundle, tmp_path, decoder)
    upright = grey(render.grey_png(hu.astype(np.float32)))
    np.testing.assert_array_equal(picture, upright)
    assert warmest(overlay)[80, 200]


def test_a_scale_without_a_crop_leaves_clear_what_the_model_did_not_see(
    tmp_path: Path, decoder: Decoder
) -> None:
    bundle = fake_bundle(size=(96, 96), crop="none", spacing_mm=1.25)  # 120 of 240 mm
    file = synthetic.instance(
        pixels=slice_hu((128, 128), (128, 100)), PixelSpacing=[PIXEL_MM, PIXEL_MM]
    )
    _, overlay = explained(file, bundle, tmp_path, decoder)
    assert warmest(overlay)[128, 100]
    seen = np.zeros((SIDE, SIDE), bool)
    seen[64:192, 64:192] = True
    assert not overlay[~seen][:, 3].any()
