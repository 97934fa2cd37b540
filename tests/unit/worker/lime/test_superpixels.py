"""Superpixels cover the head and nothing else; what stands in for them shows no lesion."""

from __future__ import annotations

import numpy as np
import pytest

from limen.errors import NotAnalysable
from tests.support.synthetic import fake_bundle, head_hu
from worker.lime import superpixels
from worker.study.tensors import to_tensor


def tensor(side: int = 64, *, lesion: bool = True) -> np.ndarray:
    noise = np.random.default_rng(8).normal(0, 3, (side, side))
    hu = (head_hu(lesion=lesion, side=side) + noise).astype(np.float32)
    return to_tensor(hu, fake_bundle(size=(side, side)))


@pytest.mark.parametrize("side", [64, 161, 224])
def test_superpixels_cover_the_head_and_leave_the_air(side: int) -> None:
    image = tensor(side)
    found = superpixels.slic_in_head(image, 30)
    assert found.segments.shape == (side, side)
    assert found.segments[0, 0] == found.count
    np.testing.assert_array_equal(found.inside, superpixels.head_of(image))
    assert set(np.unique(found.segments)) == set(range(found.count + 1))
    assert 20 <= found.count <= 40
    assert found.area_px.sum() == found.inside.sum()


def test_a_slice_without_background_has_none() -> None:
    found = superpixels.slic_in_head(np.full((64, 64, 3), 0.5, np.float32), 9)
    assert found.inside.all()
    assert found.segments.max() == found.count - 1


def test_a_head_of_a_few_pixels_is_one_superpixel() -> None:
    image = np.zeros((224, 224, 3), np.float32)
    image[101, 101] = 0.9
    found = superpixels.slic_in_head(image, 40)
    assert (found.count, found.area_px.tolist()) == (1, [1])


def test_a_slice_of_air_has_no_superpixels() -> None:
    with pytest.raises(NotAnalysable, match="nothing but air"):
        superpixels.slic_in_head(np.zeros((64, 64, 3), np.float32), 9)


def test_the_reference_wants_three_channels() -> None:
    with pytest.raises(NotAnalysable, match="three channels"):
        superpixels.quickshift(np.zeros((64, 64, 1), np.float32))


def test_air_stands_in_for_itself_and_a_hidden_lesion_looks_like_brain() -> None:
    image = tensor()
    fill = superpixels.brain_median(image, superpixels.slic_in_head(image, 30))
    np.testing.assert_array_equal(fill[0, 0], image[0, 0])
    assert fill[25, 39, 0] == pytest.approx(35 / 80, abs=0.05)


def test_the_own_mean_keeps_what_a_superpixel_looks_like() -> None:
    image = tensor()
    found = superpixels.quickshift(image)
    fill = superpixels.own_mean(image, found)
    for number in range(found.count):
        inside = found.segments == number
        np.testing.assert_allclose(
            fill[inside], np.broadcast_to(image[inside].mean(axis=0), fill[inside].shape), atol=1e-5
        )
