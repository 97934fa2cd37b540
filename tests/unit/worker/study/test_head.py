"""A head, a chest and an abdomen are told apart by their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.heads import HEIGHTS_MM, abdomen_hu, chest_hu, head_hu
from worker.dicom.decoder import Decoder
from worker.study.head import Shape, shape_of


@pytest.mark.parametrize("side", [96, 256, 512])
def test_heads_have_a_skull_around_soft_tissue(side: int) -> None:
    found = [
        shape_of(head_hu(float(z), bleeds=True, side=side).astype(np.float32), 240 / side)
        for z in HEIGHTS_MM
    ]
    assert set(found) == {Shape.HEAD}


def test_chests_have_lungs_and_abdomens_neither() -> None:
    chests = [shape_of(chest_hu(float(z)).astype(np.float32), 400 / 96) for z in HEIGHTS_MM]
    abdomens = [shape_of(abdomen_hu(float(z)).astype(np.float32), 400 / 96) for z in HEIGHTS_MM]
    assert (set(chests), set(abdomens)) == ({Shape.LUNG}, {Shape.OTHER})


def test_air_alone_shows_nothing() -> None:
    assert shape_of(np.full((64, 64), -1000, np.float32), None) is Shape.OTHER


def test_a_real_head_shows_no_lungs_and_a_skull_above_its_base(
    decoder: Decoder, shared_data: Path
) -> None:
    files = sorted((shared_data / "headct_ge").glob("*.dcm"))
    found = [shape_of(hu, 0.488) for hu in decoder.hounsfield_many((f, 1) for f in files)]
    assert Shape.LUNG not in found
    assert found.count(Shape.HEAD) > len(found) / 2
