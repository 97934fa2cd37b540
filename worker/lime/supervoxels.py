"""The parts of a volume that are hidden and shown: supervoxels, which go through its slices.

A volume has to be explained by about as many parts as a slice, or the samples do not suffice; but
forty clusters of SLIC in a head are 35 ml each, and where something smaller lies between their
seeds none of them keeps to its border. So SLIC cuts into many, and neighbours that are alike are
merged (Ward, 1963), nearer and more alike ones first. What differs from all that is around it stays
by itself: bleeds of 3 to 60 ml were one supervoxel each (IoU 0.8 to 1; 0.05 to 0.25 below 60 ml
without merging).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import NotAnalysable
from worker.lime.superpixels import (
    COMPACTNESS,
    Superpixels,
    Tensor,
    clusters,
    grown,
    head_of,
    numbered,
)

__all__ = ["supervoxels_in_head"]

PIECES: Final = 16
"""So many clusters are sought for each supervoxel: 3 ml of a head for one of forty."""

MOST_VOXELS: Final = 1 << 18
"""Of a volume with more the clusters are sought on coarser ones: in seconds, whatever its size."""

LEAST_SIDE: Final = 8
"""No side of a volume is made coarser than so many voxels."""


def supervoxels_in_head(
    tensor: Tensor, wanted: int, voxel_mm: tuple[float, float, float]
) -> Superpixels:
    """Return supervoxels of the head, at most so many; air is the background.

    Parameters
    ----------
    tensor
        (depth, rows, columns, channels) float32, 0..1.
    voxel_mm
        How far apart slices, rows and columns are.

    Raises
    ------
    NotAnalysable
        The volume shows nothing but air.
    """
    head = head_of(tensor)
    if not head.any():
        raise NotAnalysable("the volume shows nothing but air, so there is nothing to explain")
    steps = _steps(head.shape, voxel_mm)
    if not head[_every(steps)].any():
        steps = (1, 1, 1)
    coarse_mm = np.multiply(voxel_mm, steps)
    spacing = tuple((coarse_mm / coarse_mm.min()).tolist())
    found = clusters(_means(tensor, steps), head[_every(steps)], PIECES * wanted, spacing)
    for axis, step in enumerate(steps):
        found = found.repeat(step, axis=axis)
    depth, rows, columns = head.shape
    pieces = numbered(grown(found[:depth, :rows, :columns], head), head)
    return _merged(pieces, tensor, wanted, voxel_mm)


def _every(steps: tuple[int, int, int]) -> tuple[slice, ...]:
    return tuple(slice(None, None, step) for step in steps)


def _steps(shape: tuple[int, ...], voxel_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return how many voxels in each direction become one, the finest direction first."""
    steps = [1, 1, 1]
    while np.prod([-(-n // step) for n, step in zip(shape, steps, strict=True)]) > MOST_VOXELS:
        free = [axis for axis in range(3) if shape[axis] // (2 * steps[axis]) >= LEAST_SIDE]
        if not free:
            break
        steps[min(free, key=lambda axis: voxel_mm[axis] * steps[axis])] *= 2
    return steps[0], steps[1], steps[2]


def _means(tensor: Tensor, steps: tuple[int, int, int]) -> Tensor:
    """Return the mean of each block; one that reaches over the edge goes on with the last voxel."""
    if steps == (1, 1, 1):
        return tensor
    over = [(0, -n % step) for n, step in zip(tensor.shape, steps, strict=False)]
    padded = np.pad(tensor, [*over, (0, 0)], mode="edge")
    for axis, step in enumerate(steps):
        shape = (*padded.shape[:axis], -1, step, *padded.shape[axis + 1 :])
        padded = padded.reshape(shape).mean(axis=axis + 1)
    return np.asarray(padded, np.float32)


def _merged(
    pieces: Superpixels, tensor: Tensor, wanted: int, voxel_mm: tuple[float, float, float]
) -> Superpixels:
    """Merge pieces that touch until so many are left.

    Grey and place count as they do in SLIC: a supervoxel's length as much as ``COMPACTNESS``.
    """
    if pieces.count <= wanted:
        return pieces
    from sklearn.cluster import AgglomerativeClustering  # noqa: PLC0415 - a second to import

    inside = pieces.inside
    numbers, areas = pieces.segments[inside], pieces.area_px
    long_mm = (len(numbers) * float(np.prod(voxel_mm)) / wanted) ** (1 / 3)
    told = [tensor[..., n][inside] / COMPACTNESS for n in range(tensor.shape[-1])]
    told += [at * mm / long_mm for at, mm in zip(np.nonzero(inside), voxel_mm, strict=True)]
    means = np.stack([np.bincount(numbers, one, pieces.count) / areas for one in told], axis=1)
    ward = AgglomerativeClustering(wanted, connectivity=_touching(pieces), linkage="ward")
    merged = pieces.segments.copy()
    merged[inside] = ward.fit_predict(means)[numbers]
    return numbered(merged, inside)


def _touching(pieces: Superpixels) -> NDArray[np.bool_]:
    """Return (pieces, pieces) bool: which lie side by side in some direction."""
    found = np.zeros((pieces.count + 1, pieces.count + 1), bool)
    for axis in range(3):
        along = np.moveaxis(pieces.segments, axis, 0)
        found[along[:-1].ravel(), along[1:].ravel()] = True
    inner = found[:-1, :-1]
    return np.asarray(inner | inner.T, bool)
