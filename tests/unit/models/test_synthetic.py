"""The training generator, on a small made-up template: nilearn is not needed to test it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from models.ich import synthetic
from models.ich.template import Template


@pytest.fixture(scope="module")
def samples(ball: Template) -> list[synthetic.Sample]:
    return [synthetic.draw(ball, seed) for seed in range(45, 85)]


def test_the_same_seed_is_the_same_slice_to_the_bit(ball: Template) -> None:
    first, second = (synthetic.draw(ball, 3) for _ in range(2))
    assert np.array_equal(first.hu, second.hu)
    assert np.array_equal(first.lesion, second.lesion)
    assert first.kind == second.kind


def test_all_five_kinds_are_drawn_and_some_slices_have_none(
    samples: list[synthetic.Sample],
) -> None:
    assert {s.kind for s in samples} == {*synthetic.KINDS, ""}


def test_a_slice_without_lesion_is_its_own_twin(samples: list[synthetic.Sample]) -> None:
    free = [s for s in samples if not s.kind]
    assert free
    for s in free:
        assert not s.positive
        assert not s.lesion.any()
        assert np.array_equal(s.hu, s.twin)


def test_the_twin_differs_around_the_blood_only(samples: list[synthetic.Sample]) -> None:
    for s in samples:
        if s.kind and s.kind != "intraparenchymal":  # oedema reaches beyond the clot
            far = ~ndimage.binary_dilation(s.lesion, iterations=16)
            changed = np.abs(s.hu[far] - s.twin[far]) > 7
            assert changed.mean() < 0.003, s.kind


def test_blood_is_brighter_than_what_it_replaces(samples: list[synthetic.Sample]) -> None:
    shown = [s for s in samples if s.positive]
    assert len(shown) > 15
    for s in shown:
        assert s.hu[s.lesion].mean() > s.twin[s.lesion].mean() + 7
        assert s.area_mm2 >= 50


def test_tissues_have_the_levels_of_a_head(samples: list[synthetic.Sample]) -> None:
    for s in samples:
        assert np.percentile(s.twin, 3) < -900
        bone = s.twin[s.twin > 300]
        assert 400 < np.percentile(bone, 80) < 1800
        brain = s.twin[(s.twin > 0) & (s.twin < 80)]
        assert 15 < np.median(brain) < 70  # bone spills into what it surrounds
