"""A channel is brought to size as those do it whose names the ways have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from worker.bundles.preparation import Resize
from worker.study.resize import resized

OPENCV: dict[str, Any] = json.loads(
    Path(__file__).with_name("resized_by_opencv.json").read_text("utf-8")
)
IMAGE = np.array(OPENCV["image"], np.float32)


@pytest.mark.parametrize(
    "told", OPENCV["resized"], ids=lambda one: f"{one['how']}-{len(one['image'])}"
)
def test_it_is_what_opencv_does_with_the_filter_of_that_name(told: dict[str, Any]) -> None:
    expected = np.array(told["image"])
    found = resized(IMAGE, (expected.shape[0], expected.shape[1]), told["how"])
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("how", "name"),
    [("bilinear-antialias", "BILINEAR"), ("bicubic-antialias", "BICUBIC"), ("lanczos", "LANCZOS")],
)
def test_it_is_what_pillow_does_with_the_filter_of_that_name(how: Resize, name: str) -> None:
    expected = Image.fromarray(IMAGE).resize((6, 5), Image.Resampling[name])
    np.testing.assert_array_equal(resized(IMAGE, (5, 6), how), np.clip(expected, 0, 1))


@pytest.mark.parametrize("how", get_args(Resize))
def test_every_way_keeps_what_is_the_same_everywhere_and_stays_within_0_and_1(how: Resize) -> None:
    flat = np.full((11, 7), 0.25, np.float32)
    for size in ((5, 3), (11, 7), (20, 9), (1, 1)):
        np.testing.assert_allclose(resized(flat, size, how), np.full(size, 0.25), atol=1e-6)
    steps = (np.random.default_rng(1).random((31, 17)) > 0.5).astype(np.float32)
    found = resized(steps, (13, 23), how)
    assert (found.dtype, found.shape) == (np.float32, (13, 23))
    assert found.min() >= 0
    assert found.max() <= 1
