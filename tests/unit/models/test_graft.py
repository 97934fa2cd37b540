"""Synthetic bleeds in slices of others: on a made-up slice, so that no patient is needed."""

from __future__ import annotations

import numpy as np
import pytest

from models.ich import graft

PIXEL_MM = 0.9


@pytest.fixture(scope="module")
def slice_hu() -> np.ndarray:
    """A ring of bone around grey brain with two ventricles and a film of fluid, and its grain."""
    y, x = np.indices((200, 200), np.float32) - 99.5
    away = np.hypot(x / 0.85, y) * PIXEL_MM
    hu = np.full(away.shape, -1000, np.float32)
    hu[away < 88], hu[away < 82], hu[away < 76], hu[away < 74] = 20, 900, 8, 33
    hu[np.hypot(np.abs(x) - 10, (y - 2) / 3) < 7] = 7
    grain = np.random.default_rng(1).normal(0, 3, away.shape)
    return np.asarray(hu + grain, np.float32)


@pytest.fixture(scope="module")
def grafts(slice_hu: np.ndarray) -> list[graft.Graft]:
    made = [graft.bleed(slice_hu, PIXEL_MM, np.random.default_rng(s)) for s in range(60)]
    assert all(made)
    return [g for g in made if g]


def test_each_kind_finds_its_place(grafts: list[graft.Graft]) -> None:
    shown = {k for g in grafts if g.positive for k in g.kind.split(",")}
    assert shown == set(graft.KINDS)


def test_blood_lies_inside_the_skull_and_is_brighter(
    grafts: list[graft.Graft], slice_hu: np.ndarray
) -> None:
    y, x = np.indices(slice_hu.shape) - 99.5
    outside = np.hypot(x / 0.85, y) * PIXEL_MM > 80
    for g in grafts:
        assert not g.lesion[outside].any()
        if g.positive:
            assert g.hu[g.lesion].mean() > g.twin[g.lesion].mean() + 7


def test_far_from_blood_slice_and_twin_are_the_same(grafts: list[graft.Graft]) -> None:
    lens = [g for g in grafts if g.kind == "epidural" and g.positive]
    assert lens
    for g in lens:
        assert (np.abs(g.hu - g.twin) > 1).mean() < 0.35


def test_blood_keeps_the_grain_of_the_slice(grafts: list[graft.Graft]) -> None:
    large = [g for g in grafts if g.kind == "intraparenchymal" and g.area_mm2 > 400]
    assert large
    for g in large:
        rough = [np.diff(image, axis=1)[g.lesion[:, 1:]].std() for image in (g.hu, g.twin)]
        assert 0.5 < rough[0] / rough[1] < 2


def test_a_slice_without_a_cavity_gets_no_blood() -> None:
    air = np.full((64, 64), -1000, np.float32)
    assert graft.bleed(air, PIXEL_MM, np.random.default_rng(0)) is None


def test_the_same_chain_degrades_slice_and_twin_alike(slice_hu: np.ndarray) -> None:
    one, other = (graft.degrade(slice_hu, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one, other)
    brain = (slice_hu > 20) & (slice_hu < 45)
    assert abs(one[brain].mean() - slice_hu[brain].mean()) < 3
