"""The MNI152 template as volumes that a synthetic head is drawn from (training only).

The 1 mm grey and white matter maps come from the ``train`` extra (the data files of the
nilearn wheel; nilearn itself is not imported). Everything else is derived from them once:
signed distances to the inner table, to the ventricles and to the outline of the head.
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["ORIGIN_MM", "Template", "load"]

Floats = NDArray[np.float32]

PAD = ((16, 16), (16, 16), (44, 20))  # voxels added around the template; neck and face below
ORIGIN_MM = (-98.0 - PAD[0][0], -134.0 - PAD[1][0], -72.0 - PAD[2][0])
"""MNI coordinates of the first voxel: x to one side, y to the front, z to the vertex."""

_FILE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_FAR_MM = 60.0


@dataclass(frozen=True, slots=True)
class Template:
    """Volumes of one shape, 1 mm voxels, axes x, y, z.

    Attributes
    ----------
    grey, white
        Fraction of the tissue, 0..1.
    table
        mm under the inner table; negative outside the cavity.
    ventricle
        mm outside the ventricles; negative inside.
    outline
        mm under the outline that closes over the concave skull base; negative outside.
    """

    grey: Floats
    white: Floats
    table: Floats
    ventricle: Floats
    outline: Floats


def load(cache: Path | None = None) -> Template:
    """Return the template, from ``cache`` (an .npz file) when it is there.

    Raises
    ------
    FileNotFoundError
        The ``train`` extra is not installed.
    """
    names = Template.__dataclass_fields__
    if cache is not None and cache.is_file():
        with np.load(cache) as stored:
            return Template(**{n: stored[n].astype(np.float32) for n in names})
    made = _derive(_read("gm"), _read("wm"), _read("t1"))
    if cache is not None:
        np.savez(cache, **{n: getattr(made, n).astype(np.float16) for n in names})
        return load(cache)
    return made


def _read(name: str) -> Floats:
    """Return one map of the wheel, padded: float32, 0..1."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "training needs the MNI152 template of nilearn: pip install 'limen[train]'"
        )
    data = gzip.decompress(
        (Path(spec.submodule_search_locations[0]) / _FILE.format(name)).read_bytes()
    )
    # NIfTI-1: dim at byte 40, datatype at 70 (2 = uint8), vox_offset at 108.
    shape = tuple(int(n) for n in np.frombuffer(data, "<i2", 3, 42))
    if np.frombuffer(data, "<i2", 1, 70)[0] != 2:
        raise ValueError(f"the template map {name} is not of the data type that was expected")
    offset = int(np.frombuffer(data, "<f4", 1, 108)[0])
    voxels = np.frombuffer(data, "u1", int(np.prod(shape)), offset).reshape(shape, order="F")
    return np.pad(voxels.astype(np.float32) / 255, PAD)


def _distance(inside: NDArray[np.bool_]) -> Floats:
    """Return the signed distance to the border, mm: positive inside."""
    signed = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return np.clip(signed, -_FAR_MM, _FAR_MM).astype(np.float32)


def _derive(grey: Floats, white: Floats, t1: Floats) -> Template:
    brain = ndimage.binary_fill_holes(ndimage.gaussian_filter(grey + white, 1) > 0.3)
    brain |= t1 > 0.1
    # Close the sulci and fissures: within 5 mm of the brain on all sides is cavity.
    cavity = _distance(_distance(brain) > -5) > 5.5
    cavity |= ndimage.binary_fill_holes(brain)
    vault = _distance(_distance(brain) > -20) > 20.5  # the vault bridges the wide ones too
    x, y, z = (
        np.arange(n, dtype=np.float32) + o for n, o in zip(grey.shape, ORIGIN_MM, strict=True)
    )
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    cavity |= vault & (z > 5)
    # The suprasellar cistern is open to the brain, not a hole in it.
    cavity |= (x / 13) ** 2 + ((y - 1) / 16) ** 2 + ((z + 15) / 11) ** 2 < 1
    table = ndimage.gaussian_filter(_distance(cavity), 0.8)
    fluid = ndimage.gaussian_filter(1 - grey - white, 0.5) > 0.45
    lateral = fluid & (np.abs(x) < 40) & (y > -60) & (y < 42) & (z > -2) & (z < 32) & (table > 27)
    fourth = fluid & (np.abs(x) < 12) & (y > -52) & (y < -32) & (z > -45) & (z < -15)
    third = fluid & (np.abs(x) < 5) & (y > -32) & (y < 6) & (z > -14) & (z < 12)
    horn = fluid & (np.abs(x) > 22) & (np.abs(x) < 45) & (y > -45) & (y < -2) & (z > -25) & (z < 0)
    chambers = (lateral | third | fourth | (horn & (table > 22))) & (table > 8)
    parts, _ = ndimage.label(chambers)
    sizes = np.bincount(parts.ravel())
    keep = np.flatnonzero(sizes > 120)
    ventricle = -_distance(np.isin(parts, keep[keep > 0]))
    # The head below the equator goes straight down: the widest brain, closed.
    low = brain & (z > -30)
    flat = np.maximum.accumulate(low[:, :, ::-1], axis=2)[:, :, ::-1]
    outline = _distance(_distance(flat) > -24)
    return Template(grey, white, table, ventricle, (outline - 24).astype(np.float32))
