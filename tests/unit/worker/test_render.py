"""Pictures: same size as the slice, same bytes each time, no identity in their names."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from worker import render


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_the_slice_is_grey_in_the_brain_window() -> None:
    found = pixels(render.original_png(np.array([[-1000, 0, 40, 80, 3000]], np.float32)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[0, 0, 128, 255, 255]])


def test_a_large_slice_is_reduced_to_1024() -> None:
    assert pixels(render.original_png(np.zeros((2048, 1024), np.float32))).shape == (1024, 512)


def test_warm_speaks_for_blue_against_and_the_rest_is_clear() -> None:
    segments = np.array([[0, 1], [2, 3]], np.int64)
    found = pixels(render.overlay_png(segments, np.array([0.4, -0.2, 0.0]), (4, 4)))
    assert found.shape == (4, 4, 4)
    assert tuple(found[0, 0]) == (*render.FOR_RGB, render.MAX_ALPHA)
    assert tuple(found[0, 3]) == (*render.AGAINST_RGB, render.MAX_ALPHA // 2)
    assert found[3, 0, 3] == 0
    assert found[3, 3, 3] == 0


def test_only_the_strongest_superpixels_are_shown() -> None:
    segments = np.arange(30, dtype=np.int64).reshape(5, 6)
    found = pixels(render.overlay_png(segments, np.linspace(0.1, 1, 29), (5, 6)))
    assert (found[..., 3] > 0).sum() == render.SHOWN_SUPERPIXELS


def test_padding_is_cut_off_where_the_slice_is_not_square() -> None:
    segments = np.full((8, 8), 1, np.int64)
    segments[2:6] = 0
    found = pixels(render.overlay_png(segments, np.array([1.0]), (16, 32)))
    assert found.shape == (16, 32, 4)
    assert (found[..., 3] == render.MAX_ALPHA).all()


def test_the_blend_is_colour_over_grey() -> None:
    original = render.original_png(np.full((4, 4), 40, np.float32))
    overlay = render.overlay_png(np.zeros((4, 4), np.int64), np.array([1.0]), (4, 4))
    found = pixels(render.blended_png(original, overlay))
    assert found.shape == (4, 4, 3)
    assert found[0, 0, 0] > 128 > found[0, 0, 2]


def test_the_same_arrays_give_the_same_bytes() -> None:
    hu = np.random.default_rng(6).normal(40, 30, (64, 64)).astype(np.float32)
    assert render.original_png(hu) == render.original_png(hu)


def test_names_hold_a_digest_and_the_frame() -> None:
    assert re.fullmatch(r"[0-9a-f]{32}-3\.png", render.file_name("1.2.3", 3))
    assert re.fullmatch(r"[0-9a-f]{32}-3-lime\.png", render.file_name("1.2.3", 3, overlay=True))
