"""Training slices from the phantom, prepared exactly as the worker prepares a study."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.ich.lesion import Kind, Lesion
from models.ich.scanner import Head, pair, volume
from worker.pixels import to_tensor

__all__ = ["INPUT", "Input", "Slices", "draw_lesion", "make"]

MAP = 16  # rows and columns of the coarse lesion map that training is helped by


@dataclass(frozen=True, slots=True)
class Input:
    """What the model is fed with; what ``to_tensor`` asks of a bundle."""

    size: tuple[int, int] = (128, 128)
    windows: tuple[tuple[float, float], ...] = ((40, 80), (80, 200), (40, 380))


INPUT = Input()


@dataclass(frozen=True, slots=True)
class Slices:
    """Prepared slices of many heads.

    Attributes
    ----------
    tensor
        (n, 128, 128, 3) uint8, 255 stands for 1.
    area
        (n, 16, 16) uint8, blood in each cell, 255 stands for a quarter of it or more.
    label
        (n,) bool, the slice shows a bleed.
    head
        (n,) int64, seed of the head.
    kind
        (n,) str, what bled in this slice; empty for none.
    size_ml
        (n,) float32, volume of the whole bleed; 0 for none.
    """

    tensor: NDArray[np.uint8]
    area: NDArray[np.uint8]
    label: NDArray[np.bool_]
    head: NDArray[np.int64]
    kind: NDArray[np.str_]
    size_ml: NDArray[np.float32]


def draw_lesion(seed: int) -> Lesion | None:
    """Return the lesion of this seed: none in one head of five, else 1 to 60 ml."""
    rng = np.random.default_rng([seed, 9])
    if rng.uniform() < 0.2:
        return None
    kind = list(Kind)[int(rng.integers(len(Kind)))]
    low = 1.0 if kind is Kind.INTRAPARENCHYMAL else 2.0
    size_ml = float(np.exp(rng.uniform(np.log(low), np.log(60))))
    return Lesion(kind, size_ml, float(rng.uniform(57, 82)))


def make(seeds: Sequence[int], processes: int = 2) -> Slices:
    """Scan the heads of these seeds. Same seeds, same slices, whatever ``processes`` is."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        parts = list(pool.map(_one_head, seeds, chunksize=8))
    return Slices(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _one_head(seed: int) -> tuple[NDArray[np.generic], ...]:
    """Return the columns of :class:`Slices` for one head and its lesion-free twin."""
    rng = np.random.default_rng([seed, 8])
    lesion, size = draw_lesion(seed), int(rng.choice([160, 192, 224]))
    # Vertex and skull base fill few slices of a head and make most false alarms.
    span = ((60.0, 99.0), (-58.0, 10.0), None, None, None, None)[int(rng.integers(6))]
    if lesion is None:
        rows = list(_rows(volume(seed, size=size, span=span), None))
    else:
        try:
            ill, twin = pair(seed, lesion, size=size, span=span)
        except ValueError:  # no room for this lesion in this head
            ill = twin = volume(seed, size=size, span=span)
        shown = ill.positive if ill is not twin else None
        rows = [*_rows(ill, None), *(_rows(twin, shown) if shown is not None else ())]
    tensors, areas, labels, kinds, sizes = zip(*rows, strict=True)
    return (
        np.stack(tensors),
        np.stack(areas),
        np.array(labels),
        np.full(len(rows), seed),
        np.array(kinds, dtype="U20"),
        np.array(sizes, np.float32),
    )


def _rows(
    head: Head, keep: NDArray[np.bool_] | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], bool, str, float]]:
    """Yield the slices that are clearly positive or clearly free of blood."""
    for k, hu in enumerate(head.hu):
        doubtful = head.lesion[k].any() and not head.positive[k]
        if doubtful or (keep is not None and not keep[k]):
            continue
        tensor = np.rint(to_tensor(hu.astype(np.float32), INPUT) * 255).astype(np.uint8)
        grey = Image.fromarray(head.lesion[k].astype(np.float32))
        cells = np.asarray(grey.resize((MAP, MAP), Image.Resampling.BOX))
        area = np.rint(np.clip(cells * 4, 0, 1) * 255).astype(np.uint8)
        positive = bool(head.positive[k])
        kind = str(head.kind) if positive and head.kind else ""
        yield tensor, area, positive, kind, head.size_ml if positive else 0.0
