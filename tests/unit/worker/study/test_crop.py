"""Which part of a slice becomes the model's input: the head, or the middle, at a common scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.bundles.preparation import Preparation
from worker.dicom.hounsfield import AIR_HU
from worker.study.crop import Box, field_of, head_box, head_in, is_known, pixel_of

PIXEL_MM = 1.0


@dataclass(frozen=True)
class View:
    size: tuple[int, int] = (224, 192)
    crop: str = "head"
    spacing_mm: float | None = 0.95
    preparation: Preparation = Preparation()


def ellipse(
    hu: NDArray[np.float32], middle: tuple[float, float], radii: tuple[float, float], value: float
) -> None:
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]] + 0.5
    inside = ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 <= 1
    hu[inside] = value


def head(
    middle: tuple[float, float] = (100, 130), side: int = 240, pixel_mm: float = PIXEL_MM
) -> NDArray[np.float32]:
    """Return a head of 180 x 140 mm, its middle in mm, in air of ``side`` mm."""
    count = round(side / pixel_mm)
    hu = np.full((count, count), -1000, np.float32)
    at = (middle[0] / pixel_mm, middle[1] / pixel_mm)
    ellipse(hu, at, (90 / pixel_mm, 70 / pixel_mm), 1000)
    ellipse(hu, at, (82 / pixel_mm, 62 / pixel_mm), 35)
    return hu


def is_box_of_head(box: Box | None, middle: tuple[float, float], pixel_mm: float = 1.0) -> bool:
    """Return True where a box is that of ``head``, to the 2 mm that it is looked for on."""
    if box is None:
        return False
    rows, columns = box.rows * pixel_mm, box.columns * pixel_mm
    off = [a * pixel_mm - b for a, b in zip(box.middle, middle, strict=True)]
    return abs(rows - 180) <= 4 and abs(columns - 140) <= 4 and max(map(abs, off)) <= 2.5


@pytest.mark.parametrize("pixel_mm", [0.25, 0.43, 0.5, 1.0, 1.7])
def test_the_head_is_found_wherever_it_lies_at_every_size_of_pixels(pixel_mm: float) -> None:
    hu = head((110, 140), pixel_mm=pixel_mm)
    assert is_box_of_head(head_box(hu, pixel_mm), (110, 140), pixel_mm)


def test_the_shell_of_a_head_rest_is_no_part_of_the_head() -> None:
    hu = head()
    y, x = np.mgrid[:240, :240] + 0.5
    far = np.hypot(y - 100, x - 130)
    hu[(far > 108) & (far < 113) & (y > 120)] = 200  # carbon, 5 mm thick
    hu[(far > 113) & (far < 130) & (y > 120)] = -850  # foam
    assert is_box_of_head(head_box(hu, PIXEL_MM), (100, 130))


def test_a_head_that_lies_on_its_rest_is_cut_from_it() -> None:
    hu = head()
    hu[188:192, 20:235] = 300  # a plate that touches the back of the head
    assert is_box_of_head(head_box(hu, PIXEL_MM), (100, 130))


def test_hands_beside_the_head_are_not_the_head() -> None:
    hu = head()
    ellipse(hu, (100, 30), (40, 15), 50)
    ellipse(hu, (110, 222), (40, 14), 50)
    assert is_box_of_head(head_box(hu, PIXEL_MM), (100, 130))


def test_a_tube_and_a_cable_on_the_head_are_not_the_head() -> None:
    hu = head()
    hu[4:40, 128:132] = 500
    hu[60:64, 2:70] = 3000
    assert is_box_of_head(head_box(hu, PIXEL_MM), (100, 130))


def test_a_head_that_is_cut_off_by_the_edge_is_the_part_that_is_there() -> None:
    found = head_box(head((30, 130)), PIXEL_MM)
    assert found is not None
    assert found.top <= 6
    assert abs(found.top + found.rows - 120) <= 4


@pytest.mark.parametrize("value", [-1024, -1000, -300])
def test_a_slice_without_a_body_has_no_head(value: float) -> None:
    assert head_box(np.full((240, 240), value, np.float32), PIXEL_MM) is None


def test_grain_in_air_is_no_head() -> None:
    grain = np.random.default_rng(3).normal(-1000, 400, (512, 512)).astype(np.float32)
    assert head_box(grain, 0.45) is None


def test_a_slice_full_of_body_is_all_of_it() -> None:
    box = head_box(np.full((200, 100), 40, np.float32), 2.0)
    assert box is not None
    assert box.middle == (100, 50)


def test_a_slice_of_a_few_pixels_is_looked_at() -> None:
    assert head_box(np.full((1, 1), 40, np.float32), 240.0) is None


# -- the field -------------------------------------------------------------------------------------


def test_the_field_is_centred_on_the_head_and_as_large_as_the_scale_says() -> None:
    found = field_of(head(), PIXEL_MM, View())
    assert (found.rows, found.columns) == (213, 183)
    assert found.middle == pytest.approx((100, 130), abs=2.5)
    assert found.top < 0


def test_the_scale_is_that_of_the_body_and_not_of_the_matrix() -> None:
    fine, coarse = (field_of(head(pixel_mm=mm), mm, View()) for mm in (0.5, 1.0))
    assert fine.rows == pytest.approx(2 * coarse.rows, abs=1)
    assert fine.middle == pytest.approx([2 * at for at in coarse.middle], abs=4)


def test_without_a_crop_the_scale_is_centred_on_the_middle_of_the_picture() -> None:
    found = field_of(head(), PIXEL_MM, View(crop="none"))
    assert (found.rows, found.columns) == (213, 183)
    assert found.middle == pytest.approx((120, 120), abs=0.5)


def test_without_a_scale_the_head_is_padded_to_the_aspect_of_the_input() -> None:
    found = field_of(head(), PIXEL_MM, View(size=(64, 64), spacing_mm=None))
    assert found.rows == found.columns
    assert found.rows == pytest.approx(180, abs=4)
    assert found.middle == pytest.approx((100, 130), abs=2.5)


def test_without_either_the_slice_is_padded_to_the_aspect_of_the_input() -> None:
    hu = np.zeros((32, 64), np.float32)
    assert field_of(hu, None, View((8, 8), "none", None)) == (-16, 0, 64, 64)
    assert field_of(hu, None, View((8, 16), "none", None)) == (0, 0, 32, 64)


def test_where_there_is_no_head_the_middle_of_the_picture_stands_for_it() -> None:
    air = np.full((240, 240), -1000, np.float32)
    assert field_of(air, PIXEL_MM, View()) == field_of(air, PIXEL_MM, View(crop="none"))


@pytest.mark.parametrize("pixel_mm", [None, 1e-4, 50.0])
def test_a_slice_of_an_unknown_or_impossible_size_is_taken_for_one_of_240_mm(
    pixel_mm: float | None,
) -> None:
    assert not is_known(pixel_mm, (512, 512))
    assert pixel_of(pixel_mm, (480, 240)) == 0.5
    hu = head(pixel_mm=0.5)
    assert field_of(hu, pixel_mm, View()) == field_of(hu, 0.5, View())


# -- cutting ---------------------------------------------------------------------------------------


def test_what_lies_outside_of_the_slice_is_air() -> None:
    hu = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = Box(-1, 2, 3, 4).cut(hu)
    air = AIR_HU
    assert found.tolist() == [[air] * 4, [2, 3, air, air], [6, 7, air, air]]


@pytest.mark.parametrize("box", [Box(-9, 0, 4, 4), Box(0, 50, 4, 4), Box(3, 0, 4, 4)])
def test_a_part_that_lies_wholly_outside_is_air(box: Box) -> None:
    assert (box.cut(np.zeros((3, 4), np.float32)) == AIR_HU).all()


def test_a_mask_is_cut_by_the_same_box_with_nothing_around_it() -> None:
    blood = np.zeros((240, 240), np.float32)
    blood[100, 130] = 1
    field = field_of(head(), PIXEL_MM, View())
    found = field.cut(blood, 0.0)
    assert found.shape == field.cut(head()).shape == (213, 183)
    assert np.argwhere(found).tolist() == [[100 - field.top, 130 - field.left]]


def test_a_part_that_is_far_larger_than_its_slice_takes_no_memory_for_it() -> None:
    hu = np.full((64, 64), 40, np.float32)
    found = Box(-20_000, -20_000, 40_000, 40_000).cut(hu)
    assert found.size <= 1 << 24
    assert (found == 40).any()


# -- the middle, and parts that are not padded -----------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "share", "expected"),
    [
        ((512, 512), (224, 224), 1.0, (0, 0, 512, 512)),
        ((512, 512), (224, 224), 0.875, (32, 32, 448, 448)),  # Resize(256), CenterCrop(224)
        ((512, 400), (224, 224), 1.0, (56, 0, 400, 400)),
        ((300, 400), (100, 50), 1.0, (0, 125, 300, 150)),
    ],
)
def test_the_middle_is_the_largest_part_with_the_aspect_of_the_input_or_less_of_it(
    shape: tuple[int, int], size: tuple[int, int], share: float, expected: tuple[int, ...]
) -> None:
    view = View(size, "centre", None, Preparation(share=share))
    assert field_of(np.zeros(shape, np.float32), 0.5, view) == expected


def test_a_stretched_part_keeps_no_aspect() -> None:
    hu = np.zeros((300, 400), np.float32)
    assert field_of(hu, 0.5, View((64, 64), "none", None, Preparation(fit="stretch"))) == (
        *(0, 0),
        *(300, 400),
    )
    whole = field_of(head(), PIXEL_MM, View((64, 64), "head", None, Preparation(fit="stretch")))
    assert whole.rows > whole.columns  # the box of the head, which is longer than it is wide


def test_the_edge_goes_on_outside_of_the_slice() -> None:
    hu = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = np.pad(hu, ((1, 2), (2, 1)), mode="edge")
    np.testing.assert_array_equal(Box(-1, -2, 5, 6).cut(hu, "edge"), expected)
    np.testing.assert_array_equal(Box(0, 0, 2, 3).cut(hu, "edge"), hu)
    beside = Box(10, 10, 2, 2).cut(hu, "edge")
    np.testing.assert_array_equal(beside, np.full((2, 2), 5))


def test_a_pixel_of_the_input_is_of_the_head_where_its_middle_is() -> None:
    hu = head()
    box = Box(-20, 30, 280, 200)
    found = head_in(box, hu, PIXEL_MM, (140, 100))
    at = np.argwhere(found).mean(axis=0) * 2 + (box.top + 1, box.left + 1)
    assert at == pytest.approx((100, 130), abs=2)
    share = found.mean() * box.rows * box.columns / (np.pi * 90 * 70)
    assert share == pytest.approx(1, abs=0.05)
    assert not found[:9].any()  # above the slice
    assert not head_in(box, np.full_like(hu, AIR_HU), PIXEL_MM, (14, 10)).any()
