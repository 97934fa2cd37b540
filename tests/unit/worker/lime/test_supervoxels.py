"""Supervoxels cover the head, are no more than wanted, and keep to what differs from around it."""

from __future__ import annotations

import numpy as np
import pytest

from limen.errors import NotAnalysable
from worker.lime import explain
from worker.lime.explain import Mode, Settings
from worker.lime.superpixels import head_of
from worker.lime.supervoxels import supervoxels_in_head

SMALL = (16, 48, 48), (8.0, 4.0, 4.0)
LARGE = (48, 96, 96), (2.5, 2.0, 2.0)
TALL = (96, 24, 24), (1.0, 8.0, 8.0)


def volume(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], blood_ml: float = 8.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a head (depth, rows, columns, 1) with blood, and where that is (bool)."""
    places = [(np.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(shape, voxel_mm, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij")
    ends = [n * mm / 2 for n, mm in zip(shape, voxel_mm, strict=True)]
    far = (z / (1.15 * ends[0])) ** 2 + (y / (0.9 * ends[1])) ** 2 + (x / (0.8 * ends[2])) ** 2
    random = np.random.default_rng(3)
    brain = 0.42 + random.normal(0, 0.05, shape)
    blood = (z - 8) ** 2 + (y + 20) ** 2 + (x - 24) ** 2 < (blood_ml * 750 / np.pi) ** (2 / 3)
    blood &= far < 0.8
    head = np.where(far < 0.8, brain + 0.4 * blood, np.where(far < 1, 1, 0))
    return np.clip(head, 0, 1)[..., None].astype(np.float32), blood


@pytest.mark.parametrize(("shape", "voxel_mm"), [SMALL, LARGE, TALL])
def test_supervoxels_cover_the_head_and_are_no_more_than_wanted(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> None:
    head, _ = volume(shape, voxel_mm)
    found = supervoxels_in_head(head, 30, voxel_mm)
    assert found.segments.shape == shape
    np.testing.assert_array_equal(found.inside, head_of(head))
    assert set(np.unique(found.segments)) == set(range(found.count + 1))
    assert 20 <= found.count <= 30
    assert found.area_px.sum() == found.inside.sum()
    assert found.area_px.max() < 0.2 * found.inside.sum()


@pytest.mark.parametrize("blood_ml", [4, 15, 40])
def test_blood_is_a_supervoxel_of_its_own(blood_ml: float) -> None:
    head, blood = volume(*LARGE, blood_ml)
    found = supervoxels_in_head(head, 40, LARGE[1])
    covered = np.bincount(found.segments[blood], minlength=found.count + 1)[: found.count]
    union = found.area_px + blood.sum() - covered
    assert (covered / union).max() >= 0.7


def test_a_supervoxel_is_as_long_in_the_patient_in_every_direction() -> None:
    shape, voxel_mm = (20, 60, 60), (8.0, 2.0, 2.0)
    even = np.full((*shape, 1), 0.5, np.float32)
    even += np.random.default_rng(1).normal(0, 0.001, even.shape).astype(np.float32)
    found = supervoxels_in_head(even, 24, voxel_mm)
    lengths = []
    for number in range(found.count):
        places = np.argwhere(found.segments == number) * voxel_mm
        lengths.append(places.std(axis=0))
    down, rows, columns = np.mean(lengths, axis=0)
    assert 0.5 < down / rows < 2
    assert 0.5 < rows / columns < 2


def test_few_voxels_and_air() -> None:
    speck = np.zeros((8, 40, 40, 1), np.float32)
    speck[3, 20, 20] = 0.9
    found = supervoxels_in_head(speck, 30, (5.0, 2.0, 2.0))
    assert (found.count, found.area_px.tolist()) == (1, [1])
    with pytest.raises(NotAnalysable, match="the volume shows nothing but air"):
        supervoxels_in_head(np.zeros_like(speck), 30, (5.0, 2.0, 2.0))


def looks_at(blood: np.ndarray) -> explain.Classifier:
    """Return a model that sees how bright it is where the blood is."""

    def classify(batch: np.ndarray) -> np.ndarray:
        bright = batch[..., 0][:, blood].mean(axis=1)
        return np.asarray(1 / (1 + np.exp(20 * (0.6 - bright))), np.float32)[:, None]

    return classify


def test_the_strongest_supervoxel_is_the_blood_and_the_answer_rests_on_it_alone() -> None:
    head, blood = volume(*SMALL, 20)
    settings = Settings(superpixels=40, voxel_mm=SMALL[1])
    found = explain.explain(head, looks_at(blood), 0, settings)
    strongest = found.segments == found.weights.argmax()
    assert (strongest & blood).sum() / (strongest | blood).sum() >= 0.7
    assert np.sort(found.weights)[-2] < 0.2 * found.weights.max()
    assert found.fidelity_r2 >= 0.9
    assert not found.poor
    assert found.second is not None
    assert found.second.strongest == found.weights.argmax()
    assert "one linear model of all 16 slices at once" in found.parameters
    again = explain.explain(head, looks_at(blood), 0, settings)
    np.testing.assert_array_equal(again.weights, found.weights)


def test_of_large_volumes_fewer_are_made_at_once_and_the_weights_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, blood = volume(*SMALL, 20)
    settings = Settings(superpixels=40, voxel_mm=SMALL[1])
    sizes: list[int] = []

    def classify(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return looks_at(blood)(batch)

    usual = explain.explain(head, classify, 0, settings)
    assert max(sizes) == explain.ROUND
    sizes.clear()
    monkeypatch.setattr(explain, "MOST_BYTES", 5 * head.nbytes)
    fewer = explain.explain(head, classify, 0, settings)
    assert max(sizes) == 5
    np.testing.assert_array_equal(fewer.weights, usual.weights)


def test_lime_itself_knows_no_volumes() -> None:
    head, blood = volume(*SMALL)
    with pytest.raises(NotAnalysable, match='for slices, not for volumes; set explain.mode = "set'):
        explain.explain(head, looks_at(blood), 0, Settings(Mode.REFERENCE, voxel_mm=SMALL[1]))
