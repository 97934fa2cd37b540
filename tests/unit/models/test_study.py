"""Whole synthetic studies: one head from slice to slice, valid DICOM, the truth beside."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from models.ich import study
from models.ich.scanner import Head
from models.ich.template import Template

SEED = 5_000_004  # bleeds into the subarachnoid space


@pytest.fixture(scope="module")
def head(ball: Template) -> Head:
    return study.draw(ball, SEED)


def test_the_same_seed_is_the_same_study_to_the_bit(ball: Template, head: Head) -> None:
    again = study.draw(ball, SEED)
    assert np.array_equal(again.hu, head.hu)
    assert np.array_equal(again.lesion, head.lesion)


def test_every_other_study_has_no_blood() -> None:
    assert [study.kind_of(seed) == "" for seed in range(4)] == [False, True, False, True]
    assert len({study.kind_of(seed) for seed in range(10)}) == 6


def test_neighbouring_slices_show_the_same_head(head: Head) -> None:
    inside = (head.hu > -200).reshape(len(head.hu), -1)
    middle = range(len(inside) // 3, 2 * len(inside) // 3)
    for k in middle:
        both = (inside[k] & inside[k + 1]).sum() / (inside[k] | inside[k + 1]).sum()
        assert both > 0.85


def test_the_written_study_is_valid_and_has_its_truth_beside(head: Head, tmp_path: Path) -> None:
    study.write(head, tmp_path, "one")
    truth = json.loads((tmp_path / "one.json").read_text())
    mask = np.load(tmp_path / "one.npz")["lesion"]
    assert mask.shape == head.hu.shape
    assert [s["positive"] for s in truth["slices"]] == head.positive.tolist()
    for number, row in enumerate(truth["slices"]):
        instance = pydicom.dcmread(tmp_path / "one" / row["file"])
        assert instance.InstanceNumber == number + 1
        hu = instance.pixel_array * float(instance.RescaleSlope) + float(instance.RescaleIntercept)
        shown = instance.pixel_array != instance.get("PixelPaddingValue")
        assert np.array_equal(hu[shown], head.hu[number][shown])
    if shutil.which("dciodvfy"):
        found = subprocess.run(
            ["dciodvfy", str(tmp_path / "one" / "CT001.dcm")], capture_output=True, text=True
        )
        assert "Error" not in found.stderr + found.stdout
