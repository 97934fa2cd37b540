"""Pictures: same size as the slice, same bytes each time, no identity in their names."""

from __future__ import annotations

import hashlib
import io
import re

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from limen.result import HU_OFFSET
from tests.support.synthetic import fake_bundle
from worker.study import render
from worker.study.crop import Box, field_of


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_a_slice_keeps_its_hu_in_16_bits() -> None:
    hu = np.array([[-3000, -1024, -1000.4, 0, 40, 80.6, 3000, 70_000]], np.float32)
    found = imagecodecs.jpegls_decode(render.hu_jls(hu))
    assert found.dtype == np.uint16
    expected = [[-1024, -1024, -1000, 0, 40, 81, 3000, 2**16 - 1 - HU_OFFSET]]
    np.testing.assert_array_equal(found.astype(int) - HU_OFFSET, expected)


def test_the_noise_of_a_scanner_comes_back_bit_for_bit_in_fewer_bytes_than_as_a_png() -> None:
    noise = np.random.default_rng(17).normal(40, 12, (128, 96))
    hu = np.rint(noise).astype(np.float32)
    jls = render.hu_jls(hu)
    np.testing.assert_array_equal(imagecodecs.jpegls_decode(jls).astype(int) - HU_OFFSET, hu)
    png = io.BytesIO()
    Image.fromarray((hu + HU_OFFSET).astype(np.uint16)).save(png, "PNG", compress_level=9)
    assert len(jls) < 0.8 * len(png.getvalue())


def test_what_is_no_ct_is_grey_in_the_brain_window() -> None:
    found = pixels(render.grey_png(np.array([[-1000, 0, 40, 80, 3000]], np.float32)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[0, 0, 128, 255, 255]])


def test_the_hu_are_seen_through_the_same_window_and_a_grey_stays_what_it_is() -> None:
    hu = np.array([[-1000, 0, 40, 80, 3000]], np.float32)
    for picture in (render.hu_jls(hu), render.grey_png(hu), as_before(hu)):
        np.testing.assert_array_equal(render.grey_of(picture), [[0, 0, 128, 255, 255]])


def as_before(hu: np.ndarray) -> bytes:
    """Return a slice as results have it that an older Limen made: a PNG of 16 bits."""
    stream = io.BytesIO()
    Image.fromarray((hu + HU_OFFSET).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("picture", [b"", b"GIF89a", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(picture: bytes) -> None:
    with pytest.raises(OSError, match="picture|identify"):
        render.grey_of(picture)


def test_a_picture_that_was_cut_short_is_refused() -> None:
    jls = render.hu_jls(np.random.default_rng(1).normal(40, 30, (64, 64)).astype(np.float32))
    with pytest.raises(OSError, match="not a picture"):
        render.grey_of(jls[: len(jls) // 2])


def test_a_large_slice_is_reduced_to_512_in_hu_and_to_1024_in_grey() -> None:
    large = np.zeros((2048, 1024), np.float32)
    assert imagecodecs.jpegls_decode(render.hu_jls(large)).shape == (512, 256)
    assert pixels(render.grey_png(large)).shape == (1024, 512)


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
    field = Box(0, 0, 16, 32).padded((8, 8))
    found = pixels(render.overlay_png(segments, np.array([1.0]), (16, 32), field))
    assert found.shape == (16, 32, 4)
    assert (found[..., 3] == render.MAX_ALPHA).all()


def test_a_part_of_the_slice_is_coloured_where_it_lies() -> None:
    segments = np.zeros((4, 4), np.int64)
    segments[:, 2:] = 1
    field = Box(-8, 20, 32, 16)  # from above the picture; eight rows and four columns to a cell
    found = pixels(render.overlay_png(segments, np.array([-0.5, 1.0]), (40, 64), field))
    expected = np.zeros((40, 64, 4), np.uint8)
    expected[:24, 20:28] = (*render.AGAINST_RGB, render.MAX_ALPHA // 2)
    expected[:24, 28:36] = (*render.FOR_RGB, render.MAX_ALPHA)
    np.testing.assert_array_equal(found, expected)


def test_a_part_of_a_large_slice_is_coloured_where_its_reduced_picture_shows_it() -> None:
    found = pixels(
        render.overlay_png(
            np.zeros((8, 8), np.int64), np.array([1.0]), (2048, 1024), Box(1000, 500, 400, 400)
        )
    )
    assert found.shape == (1024, 512, 4)
    rows, columns = np.nonzero(found[..., 3])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (500, 700, 250, 450)


def test_a_part_that_lies_beside_the_slice_leaves_it_clear() -> None:
    found = render.overlay_png(
        np.zeros((8, 8), np.int64), np.array([1.0]), (16, 16), Box(-40, 0, 16, 16)
    )
    assert not pixels(found)[..., 3].any()


def test_the_blend_is_colour_over_grey() -> None:
    original = render.hu_jls(np.full((4, 4), 40, np.float32))
    overlay = render.overlay_png(np.zeros((4, 4), np.int64), np.array([1.0]), (4, 4))
    found = pixels(render.blended_png(original, overlay))
    assert found.shape == (4, 4, 3)
    assert found[0, 0, 0] > 128 > found[0, 0, 2]


def test_the_blend_of_a_large_slice_is_as_large_as_the_overlay() -> None:
    original = render.hu_jls(np.full((1000, 800), 40, np.float32))
    overlay = render.overlay_png(np.zeros((4, 4), np.int64), np.array([1.0]), (1000, 800))
    assert pixels(render.blended_png(original, overlay)).shape == (1000, 800, 3)


def test_the_same_arrays_give_the_same_bytes() -> None:
    hu = np.random.default_rng(6).normal(40, 30, (64, 64)).astype(np.float32)
    assert render.hu_jls(hu) == render.hu_jls(hu)


def test_names_hold_a_digest_and_the_frame() -> None:
    hu = np.zeros((2, 2), np.float32)
    slice_, grey = (
        render.file_name("1.2.3", 3, p) for p in (render.hu_jls(hu), render.grey_png(hu))
    )
    assert re.fullmatch(r"[0-9a-f]{32}-3\.jls", slice_)
    assert re.fullmatch(r"[0-9a-f]{32}-3\.png", grey)
    assert re.fullmatch(r"[0-9a-f]{32}-3-lime\.png", render.overlay_name("1.2.3", 3))


@pytest.mark.parametrize(
    ("shape", "digest"),
    [
        ((512, 512), "1697e87e39da9a7e"),
        ((512, 401), "f0938a77c128fc8e"),
        ((300, 512), "a8ba069be2f069c1"),
        ((1564, 1250), "66e1682aece1f74f"),
    ],
)
def test_the_overlay_of_a_whole_slice_keeps_its_bytes(shape: tuple[int, int], digest: str) -> None:
    """What was sent under a UID is never another picture: results are made again bit for bit."""
    segments = (np.arange(224 * 224).reshape(224, 224) // 97) % 20
    weights = np.linspace(-1, 1, 19)
    plain = fake_bundle(size=(224, 224))
    field = field_of(np.zeros(shape, np.float32), 0.5, plain)
    for found in (
        render.overlay_png(segments, weights, shape),
        render.overlay_png(segments, weights, shape, field),
    ):
        assert hashlib.sha256(pixels(found).tobytes()).hexdigest()[:16] == digest
