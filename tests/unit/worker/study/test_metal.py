"""Metal that lies where the brain is; not teeth, plates or what lies on the skin."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.heads import FIELD_MM, head_hu
from worker.study.metal import metal_mm2

SIDE = 240
PIXEL_MM = FIELD_MM / SIDE
HU = 3071.0


def slice_with(*discs: tuple[float, float, float], z_mm: float = 0.0) -> np.ndarray:
    """Return a slice of a head with discs of metal: x, y and radius in mm from the middle."""
    hu = head_hu(z_mm, bleeds=False, side=SIDE).astype(np.float32)
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    for at_x, at_y, radius in discs:
        hu[np.hypot(x - at_x, y - at_y) <= radius] = HU
    return hu


def test_a_clip_in_the_brain_is_measured() -> None:
    assert metal_mm2(slice_with((5, -10, 4)), PIXEL_MM) == pytest.approx(np.pi * 16, rel=0.1)


def test_the_size_of_a_pixel_makes_no_difference() -> None:
    fine = slice_with((5, -10, 6)).repeat(2, axis=0).repeat(2, axis=1)
    assert metal_mm2(fine, PIXEL_MM / 2) == pytest.approx(
        metal_mm2(slice_with((5, -10, 6)), PIXEL_MM), rel=0.05
    )


def test_streaks_that_join_it_to_the_skull_hide_nothing() -> None:
    hu = slice_with((5, -10, 5))
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    brain = np.hypot(x / 72, y / 90) < 0.94
    hu[brain & (np.abs(y + 10) < 1.5) & (hu < HU)] = 600.0
    assert metal_mm2(hu, PIXEL_MM) == pytest.approx(np.pi * 25, rel=0.1)


@pytest.mark.parametrize(
    "disc",
    [
        (0.0, -86.0, 4.0),  # a plate on the bone
        (0.0, -100.0, 4.0),  # a hairpin
        (95.0, 0.0, 5.0),  # an ear ring
    ],
)
def test_what_lies_on_the_skull_or_beside_it_does_not_count(
    disc: tuple[float, float, float],
) -> None:
    assert metal_mm2(slice_with(disc), PIXEL_MM) == 0


def test_a_skull_with_a_hole_is_still_one() -> None:
    hu = slice_with((5, -10, 4))
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    hu[(np.abs(x) < 4) & (y < 0) & (hu > 1000) & (hu < HU)] = 40.0
    assert metal_mm2(hu, PIXEL_MM) > 40


def test_fillings_in_a_jaw_do_not_count() -> None:
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    hu = np.full((SIDE, SIDE), -1000, np.float32)
    hu[np.hypot(x / 70, y / 85) < 1] = 40
    arch = np.hypot(x / 32, (y + 20) / 45)
    hu[(arch > 0.75) & (arch < 1.1) & (y < -10)] = 1200  # teeth and jaw, open at the back
    hu[np.hypot(x, y - 30) < 22] = 600  # the spine
    for at_x in (-26, 26):
        hu[np.hypot(x - at_x, y + 30) < 5] = HU
    assert metal_mm2(hu, PIXEL_MM) == 0


def test_a_slice_without_anything_dense_is_not_looked_at_further() -> None:
    assert metal_mm2(slice_with(), PIXEL_MM) == 0
    assert metal_mm2(np.full((8, 8), HU, np.float32), None) == 0  # a test pattern
