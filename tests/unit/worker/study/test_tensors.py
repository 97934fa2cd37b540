"""The model's input: windows, padding, size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.synthetic import head_hu
from worker.bundles.preparation import Preparation
from worker.dicom.headers import Frame, Vector
from worker.study.crop import field_of
from worker.study.tensors import Stacker, Upright, stacked, to_tensor, upright

Vectors = tuple[Vector, Vector]

WINDOWS = ((40.0, 80.0), (80.0, 200.0))
WHOLE = {
    **{"size": (32, 32), "windows": WINDOWS, "crop": "none", "spacing_mm": None},
    "preparation": Preparation(),
}
INPUT = SimpleNamespace(**WHOLE, neighbours=0)


def test_each_channel_is_one_window_scaled_to_one() -> None:
    found = to_tensor(np.full((64, 64), 60, np.float32), INPUT)
    assert found.shape == (32, 32, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[5, 5], [0.75, 0.4], atol=1e-6)


def test_a_slice_that_is_not_square_is_padded_with_air_in_the_middle() -> None:
    found = to_tensor(np.full((32, 64), 60, np.float32), INPUT)
    assert (found[:7] == 0).all()
    assert (found[-7:] == 0).all()
    assert found[16, 16, 0] == pytest.approx(0.75)


def test_the_matrix_size_hardly_changes_the_tensor() -> None:
    hu = head_hu(side=128).astype(np.float32)
    small = to_tensor(hu, INPUT)
    large = to_tensor(hu.repeat(4, 0).repeat(4, 1), INPUT)
    assert np.abs(small - large).mean() < 0.01


def test_values_stay_within_zero_and_one() -> None:
    noise = np.random.default_rng(4).normal(0, 2000, (77, 51)).astype(np.float32)
    found = to_tensor(noise, INPUT)
    assert found.min() >= 0
    assert found.max() <= 1


# -- patient orientation and square pixels ---------------------------------------------------------

RIGHT, BACK = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
SIDE_MM = 240.0


def lopsided_hu(pixel_mm: float = 1.0) -> np.ndarray:
    """Return a head with blood on one side and a notch in front, so that no turn looks like it."""
    side = round(SIDE_MM / pixel_mm)
    hu = head_hu(side=side).astype(np.float32)
    y, x = (np.mgrid[:side, :side] + 0.5) * pixel_mm / SIDE_MM - 0.5
    hu[np.hypot(y, x + 0.2) < 0.09] = 70
    hu[np.hypot(y + 0.2, x) < 0.06] = 5
    return hu


def stored(hu: np.ndarray, turn: int, *, mirrored: bool) -> tuple[np.ndarray, Vectors]:
    """Return pixels turned by quarters, and the directions that say so."""
    cells = np.rot90(hu[:, ::-1] if mirrored else hu, turn)
    row, column = np.array(RIGHT) * (-1 if mirrored else 1), np.array(BACK)
    for _ in range(turn):  # a quarter to the left: rows run where columns ran
        row, column = column, -row
    return cells, (tuple(row), tuple(column))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("aspect", [1, 2, 3])
def test_a_head_gives_one_tensor_however_its_rows_and_columns_lie(
    turn: int, mirrored: bool, aspect: int
) -> None:
    hu = lopsided_hu()
    expected = to_tensor(hu, INPUT)
    cells, directions = stored(hu, turn, mirrored=mirrored)
    thinned = cells.reshape(len(cells) // aspect, aspect, -1).mean(axis=1)
    frame = Frame(1, directions, None, (), spacing_mm=(float(aspect), 1.0))
    shown = upright(np.float32(thinned), frame)
    assert (shown.oriented, shown.pixel_mm, shown.hu.shape) == (True, 1.0, hu.shape)
    found = to_tensor(shown.hu, INPUT)
    assert np.abs(found - expected).mean() < (1e-6 if aspect == 1 else 0.03)


def test_a_tilt_of_the_gantry_turns_nothing() -> None:
    hu = lopsided_hu()
    frame = Frame(1, (RIGHT, (0.0, 0.95, -0.31)), None, (), spacing_mm=(1.0, 1.0))
    assert np.array_equal(upright(hu, frame).hu, hu)


def test_a_file_that_does_not_say_how_it_lies_is_shown_as_it_is() -> None:
    hu = lopsided_hu()
    shown = upright(hu, Frame(1, None, None, ()))
    assert (shown.oriented, shown.pixel_mm) == (False, None)
    assert np.array_equal(shown.hu, hu)


def test_a_spacing_that_cannot_be_true_stretches_nothing() -> None:
    hu = lopsided_hu()
    shown = upright(hu, Frame(1, None, None, (), spacing_mm=(1e-6, 1.0)))
    assert (shown.pixel_mm, shown.hu.shape) == (None, hu.shape)


# -- neighbours ------------------------------------------------------------------------------------

BETWEEN = SimpleNamespace(**WHOLE, neighbours=1)
SCALED = SimpleNamespace(**WHOLE | {"crop": "head", "spacing_mm": 7.5}, neighbours=1)


def level(hu: float, side: int = 64) -> Upright:
    return Upright(np.full((side, side), hu, np.float32), 1.0, oriented=True)


def test_channels_come_slice_by_slice_each_with_all_its_windows() -> None:
    found = stacked([level(20), level(40), level(60)], BETWEEN)
    assert found.shape == (32, 32, 6)
    expected = [0.25, 0.2, 0.5, 0.3, 0.75, 0.4]
    np.testing.assert_allclose(found[16, 16], expected, atol=1e-6)


def test_a_slice_alone_is_its_own_neighbour() -> None:
    hu = lopsided_hu()
    alone, single = to_tensor(hu, BETWEEN, 1.0), to_tensor(hu, INPUT, 1.0)
    assert np.array_equal(alone, np.concatenate([single] * 3, axis=-1))


def test_neighbours_are_cut_where_the_slice_in_the_middle_is() -> None:
    hu = np.roll(lopsided_hu(), (15, -20), (0, 1))
    small = np.full_like(hu, -1000)
    small[40:60, 150:170] = 60  # the vertex, far from the middle of the head below it
    slices = [Upright(one, 1.0, oriented=True) for one in (small, hu, small)]
    found = stacked(slices, SCALED)
    field = field_of(hu, 1.0, SCALED)
    spot = np.argwhere(found[..., 0] > 0.5).mean(axis=0) + 0.5
    expected = (50 - field.top) / 7.5, (160 - field.left) / 7.5
    assert spot == pytest.approx(expected, abs=1)
    assert np.array_equal(found[..., :2], found[..., 4:])


def test_a_neighbour_of_another_matrix_lies_over_the_middle_one() -> None:
    fine = Upright(lopsided_hu(0.5), 0.5, oriented=True)
    coarse = Upright(lopsided_hu(1.0), 1.0, oriented=True)
    for view in (BETWEEN, SCALED):
        found = stacked([fine, coarse, fine], view)
        assert np.abs(found[..., :2] - found[..., 2:4]).mean() < 0.02


@pytest.mark.parametrize("view", [INPUT, BETWEEN, SCALED])
def test_slices_that_follow_each_other_give_the_tensors_that_each_gives_alone(
    view: SimpleNamespace,
) -> None:
    hu = [np.roll(lopsided_hu(), (2 * n, -3 * n), (0, 1)) for n in range(6)]
    slices = [Upright(one, 1.0, oriented=True) for one in hu]
    n = view.neighbours
    stack = Stacker(view)
    for at in range(n, len(slices) - n):
        around = slices[at - n : at + n + 1]
        assert np.array_equal(stack(around), stacked(around, view))


def test_what_is_outside_of_the_slice_is_what_the_bundle_says() -> None:
    hu = np.full((32, 64), 60, np.float32)

    def above(padding: str | float) -> float:
        view = SimpleNamespace(
            **WHOLE | {"preparation": Preparation(padding=padding)}, neighbours=0
        )
        return float(to_tensor(hu, view)[2, 16, 0])

    assert (above("air"), above("edge"), above(20.0)) == (0, 0.75, 0.25)


def test_slices_come_from_the_head_to_the_feet_where_the_bundle_says_so() -> None:
    slices = [level(20), level(40), level(60)]
    down = SimpleNamespace(**vars(BETWEEN) | {"preparation": Preparation(direction="down")})
    found = stacked(slices, down)
    np.testing.assert_array_equal(found, stacked(slices[::-1], BETWEEN))
