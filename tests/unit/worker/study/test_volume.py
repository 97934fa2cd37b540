"""The volume of what is marked, by what is known of its shape."""

from __future__ import annotations

import numpy as np
import pytest

from worker.study.volume import Slab, slabs_mm, volume_ml


def ball(positions_mm: list[float], radius_mm: float, frame: str = "1") -> list[Slab]:
    """Return the slabs of a ball around 0."""
    edges = slabs_mm(positions_mm, 1.0)
    return [
        Slab(frame, low, high, float(np.pi * max(radius_mm**2 - at**2, 0)))
        for at, (low, high) in zip(positions_mm, edges, strict=True)
    ]


BALL_ML = 4 / 3 * np.pi * 15**3 / 1000


@pytest.mark.parametrize("spacing_mm", [0.6, 1.0, 2.5])
def test_a_ball_has_its_volume_however_finely_it_is_cut(spacing_mm: float) -> None:
    positions = [float(z) for z in np.arange(-40, 40, spacing_mm)]
    assert volume_ml(ball(positions, 15.0)) == pytest.approx(BALL_ML, rel=0.01)


def test_slices_that_are_not_equally_far_apart_count_for_what_they_stand_for() -> None:
    positions = [-30.0, -20.0, *np.arange(-15.5, 0, 1.0), *np.arange(0, 16, 0.5), 20.0, 30.0]
    assert volume_ml(ball(positions, 15.0)) == pytest.approx(BALL_ML, rel=0.01)


def test_what_several_series_show_counts_once() -> None:
    thick, thin = (list(np.arange(-40, 40, mm).astype(float)) for mm in (2.0, 1.0))
    both = [*ball(thick, 15.0), *ball(thin, 15.0)]
    assert BALL_ML * 0.99 < volume_ml(both) < BALL_ML * 1.04  # the larger area, of two
    halves = [*ball([z for z in thin if z < 0], 15.0), *ball([z for z in thin if z >= 0], 15.0)]
    assert volume_ml(halves) == pytest.approx(BALL_ML, rel=0.01)


def test_frames_of_reference_that_say_nothing_of_each_other_are_not_added_up() -> None:
    positions = list(np.arange(-40, 40, 1.0).astype(float))
    apart = [*ball(positions, 15.0, "1"), *ball(positions, 10.0, "2")]
    assert volume_ml(apart) == pytest.approx(BALL_ML, rel=0.01)


def test_each_slice_reaches_half_way_to_its_neighbours() -> None:
    assert slabs_mm([0.0, 2.0, 8.0], 1.0) == [(-1.0, 1.0), (1.0, 5.0), (5.0, 11.0)]
    assert slabs_mm([4.0], 5.0) == [(1.5, 6.5)]
    assert slabs_mm([0.0, 0.0, 2.0], 5.0) == [(-1.0, 1.0), (-1.0, 1.0), (1.0, 3.0)]
    assert slabs_mm([], 1.0) == []


def test_nothing_marked_is_no_volume() -> None:
    assert volume_ml([]) == 0
    assert volume_ml([Slab("1", 0, 5, 0.0)]) == 0
