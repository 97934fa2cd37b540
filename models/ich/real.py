"""Real head CT that a trainer may learn from: ``../shared/data/headct_real`` beside the checkout.

Nothing of it is in this repository. Three sources: heads of one hospital with a label for each
slice and a fixed split (CT-ICH 1.0.0), one normal adult in true HU, and the average of healthy
older adults.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATA", "AbsentData", "Volume", "average", "heads", "normal", "require"]

DATA = Path(__file__).parents[3] / "shared" / "data" / "headct_real"

_TYPES = {2: "u1", 4: "<i2", 16: "<f4"}  # NIfTI-1 datatype


class AbsentData(Exception):
    """The real heads are not there."""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A stack of axial slices.

    Attributes
    ----------
    hu
        (slices, rows, columns) int16, HU; the base first, the face at the top.
    pixel_mm, step_mm
        Size of a pixel, distance of slices.
    label
        (slices,) bool: the slice shows blood.
    kinds
        What bleeds in each slice, comma-separated.
    age_years
        NaN where it is not known.
    """

    name: str
    hu: NDArray[np.int16]
    pixel_mm: float
    step_mm: float
    label: NDArray[np.bool_]
    kinds: tuple[str, ...]
    age_years: float


def require(data: Path) -> None:
    """Refuse to go on without the real heads.

    Raises
    ------
    AbsentData
        They are not in ``data``.
    """
    if not (data / "ctich" / "slices.tsv").is_file():
        raise AbsentData(
            f"the real heads are not in {data}: training needs ctich/, keinos/ and "
            "clinical_scct/ there (models/ich/README.md says where they come from); "
            "give another folder with --data"
        )


def heads(data: Path, split: str) -> list[Volume]:
    """Return the heads of one hospital: ``split`` is "train" or "development"."""
    rows: dict[str, list[dict[str, str]]] = {}
    with (data / "ctich" / "slices.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["split"] == split:
                rows.setdefault(row["file"], []).append(row)
    return [_labelled(data / "ctich" / name, rows[name]) for name in sorted(rows)]


def normal(data: Path) -> list[Volume]:
    """Return the normal adult: a stack of the base and one of the cerebrum."""
    return [
        _unlabelled(data / "keinos" / name)
        for name in ("keinos_base_4mm.nii.gz", "keinos_top_6mm.nii.gz")
    ]


def average(data: Path) -> Volume:
    """Return the average head, 2 mm in each direction."""
    return _unlabelled(data / "clinical_scct" / "scct_hu_2mm.nii.gz", flip=True)


def _labelled(path: Path, rows: list[dict[str, str]]) -> Volume:
    hu, pixel_mm, step_mm = _read(path)
    names = ("intraventricular", "intraparenchymal", "subarachnoid", "epidural", "subdural")
    rows = sorted(rows, key=lambda row: int(row["k"]))
    kinds = tuple(",".join(n for n in names if row[n] == "1") for row in rows)
    label = np.array([row["any"] == "1" for row in rows])
    age = float(rows[0]["age_years"] or "nan")
    return Volume(path.name.partition(".")[0], hu, pixel_mm, step_mm, label, kinds, age)


def _unlabelled(path: Path, flip: bool = False) -> Volume:
    hu, pixel_mm, step_mm = _read(path)
    n = len(hu)
    kinds = ("",) * n
    name = path.name.partition(".")[0]
    shown = hu[:, ::-1] if flip else hu
    return Volume(name, shown, pixel_mm, step_mm, np.zeros(n, bool), kinds, float("nan"))


@cache
def _read(path: Path) -> tuple[NDArray[np.int16], float, float]:
    """Return a NIfTI-1 volume (slices, rows, columns), the size of a pixel and the step, mm."""
    data = gzip.decompress(path.read_bytes())
    # dim at byte 40, datatype at 70, pixdim at 76, vox_offset at 108.
    shape = tuple(int(n) for n in np.frombuffer(data, "<i2", 3, 42))[::-1]
    kind = _TYPES[int(np.frombuffer(data, "<i2", 1, 70)[0])]
    _, pixel_mm, _, step_mm = (float(v) for v in np.frombuffer(data, "<f4", 4, 76))
    offset = int(np.frombuffer(data, "<f4", 1, 108)[0])
    voxels = np.frombuffer(data, kind, int(np.prod(shape)), offset).reshape(shape)
    return voxels.astype(np.int16), pixel_mm, step_mm
