"""The phantom head: the same each time, anatomically plausible, with blood where it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import convex_hull_image

from models.ich import phantom
from models.ich.phantom import Head, Kind, Lesion

SEEDS = (3, 14, 15, 92)


@pytest.fixture(scope="module")
def head() -> Head:
    return phantom.volume(3, size=192)


@pytest.fixture(scope="module", params=list(Kind))
def pair(request: pytest.FixtureRequest) -> tuple[Head, Head]:
    return phantom.pair(31, Lesion(request.param, 20.0, 65.0), size=160)


def test_the_same_seed_is_the_same_head_to_the_bit() -> None:
    lesion = Lesion(Kind.SUBDURAL, 30)
    first, second = (phantom.volume(5, lesion, slices=6, size=96) for _ in range(2))
    assert np.array_equal(first.hu, second.hu)
    assert np.array_equal(first.lesion, second.lesion)
    assert first.spacing_mm == second.spacing_mm


def test_another_seed_is_another_head() -> None:
    first, second = (phantom.volume(s, slices=6, size=96) for s in (5, 6))
    assert not np.array_equal(first.hu, second.hu)


def test_a_head_without_lesion_shows_no_blood(head: Head) -> None:
    assert head.kind is None
    assert head.size_ml == 0
    assert not head.positive.any()


def test_slices_have_the_shape_and_type_asked_for(head: Head) -> None:
    assert head.hu.shape == head.lesion.shape == (12, 192, 192)
    assert head.hu.dtype == np.int16
    assert head.hu.min() >= -1024
    assert head.hu.max() <= 3071


@pytest.mark.parametrize("seed", SEEDS)
def test_tissues_have_the_levels_of_a_head(seed: int) -> None:
    hu = phantom.volume(seed, size=160).hu
    middle = hu[5:9]
    bone = middle[middle > 300]
    assert 500 < np.percentile(bone, 80) < 1700
    # The skull closes around the brain: what a filled skull adds is the inside.
    inside = [ndimage.binary_erosion(ndimage.binary_fill_holes(s > 250), iterations=9) for s in hu]
    brain = hu[7][inside[7]]
    assert brain.size > 1000
    assert 18 < np.median(brain) < 48
    assert np.mean(brain < 15) < 0.5
    assert np.mean(hu < -900) > 0.25


def test_the_twin_differs_only_around_the_blood(pair: tuple[Head, Head]) -> None:
    ill, twin = pair
    assert twin.kind is None
    assert not twin.lesion.any()
    far = ~ndimage.binary_dilation(ill.lesion, np.ones((3, 3, 3)), iterations=25)
    assert np.array_equal(ill.hu[far], twin.hu[far])
    assert ill.hu[ill.lesion].mean() > twin.hu[ill.lesion].mean() + 10


def test_blood_lies_inside_the_skull(pair: tuple[Head, Head]) -> None:
    ill, twin = pair
    assert ill.positive.any()
    # The twin shows the bone that the blood lies against.
    for k in np.flatnonzero(ill.positive):
        parts, _ = ndimage.label(twin.hu[k] > 200)
        skull = parts == np.bincount(parts[parts > 0]).argmax()
        head = convex_hull_image(skull)
        assert np.mean(head[ill.lesion[k]]) > 0.95


def test_blood_is_denser_than_brain_and_mostly_softer_than_calcification(
    pair: tuple[Head, Head],
) -> None:
    ill, _ = pair
    # A voxel at the edge is shared with CSF or with bone.
    assert 44 < np.median(ill.hu[ill.lesion]) < 80


@pytest.mark.parametrize("kind", list(Kind))
def test_a_larger_lesion_shows_more_blood(kind: Kind) -> None:
    small, large = (phantom.volume(8, Lesion(kind, ml), size=96).size_ml for ml in (4, 40))
    assert 0 < small < large


def test_a_pair_without_room_says_so() -> None:
    with pytest.raises(ValueError, match="no room for intraparenchymal"):
        phantom.pair(3, Lesion(Kind.INTRAPARENCHYMAL, 20), slices=1, size=64)
