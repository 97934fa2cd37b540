"""Reading the real heads: files in their format with made-up voxels."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from models.ich import dataset, evaluate, real, train

COLUMNS = "file split k any intraventricular intraparenchymal subarachnoid epidural subdural"


def write_nifti(path: Path, hu: np.ndarray, pixel_mm: float, step_mm: float) -> None:
    header = bytearray(352)
    struct.pack_into("<8h", header, 40, 3, *hu.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<h", header, 70, 4)
    struct.pack_into("<4f", header, 76, 1, pixel_mm, pixel_mm, step_mm)
    struct.pack_into("<f", header, 108, 352)
    path.write_bytes(gzip.compress(bytes(header) + hu.astype("<i2").tobytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "ctich").mkdir()
    lines = ["\t".join([*COLUMNS.split(), "fracture", "age_years", "sex"])]
    for name, split in (("a", "train"), ("b", "development")):
        hu = np.arange(3, dtype=np.int16)[:, None, None] * np.ones((3, 32, 32), np.int16)
        write_nifti(tmp_path / "ctich" / f"{name}.nii.gz", hu, 0.9, 5.0)
        for k in (2, 0, 1):  # rows in no order
            blood = "1" if k == 2 else "0"
            row = [f"{name}.nii.gz", split, str(k), blood, "0", blood, "0", "0", "0", "0"]
            lines.append("\t".join([*row, "40", "Male"]))
    (tmp_path / "ctich" / "slices.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path


def test_a_head_has_its_slices_in_order_with_their_labels(data: Path) -> None:
    (head,) = real.heads(data, "train")
    assert head.hu[:, 0, 0].tolist() == [0, 1, 2]
    assert head.label.tolist() == [False, False, True]
    assert head.kinds == ("", "", "intraparenchymal")
    assert (round(head.pixel_mm, 3), head.step_mm, head.age_years) == (0.9, 5.0, 40.0)


def test_the_two_splits_share_no_head(data: Path) -> None:
    names = [[h.name for h in real.heads(data, split)] for split in ("train", "development")]
    assert names == [["a"], ["b"]]


def test_slices_of_real_heads_say_where_they_come_from(data: Path) -> None:
    made = dataset.make_real(data, "development")
    assert set(made.source) == {"real"}
    assert made.label.tolist() == [False, False, True]


@pytest.mark.parametrize("command", [train.main, evaluate.main])
def test_without_the_real_heads_it_says_so_and_stops(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    assert command(["--data", str(tmp_path / "absent")]) == 2
    assert "the real heads are not in" in capsys.readouterr().err
