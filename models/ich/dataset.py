"""Training slices from both generators, prepared exactly as the worker prepares a study."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.ich import study, synthetic, template
from models.ich.lesion import Kind, Lesion
from models.ich.scanner import Head, pair, volume
from worker.pixels import to_tensor

__all__ = ["INPUT", "MAP", "Input", "Slices", "Study", "draw_lesion", "make", "make_studies"]

MAP = 28  # rows and columns of the coarse lesion map that training is helped by
_ANALYTIC_SLICES = 12
_VERTEX_SEEDS = 500_000  # from here on within each million, slices are through the vertex

Row = tuple[NDArray[np.uint8], NDArray[np.uint8], bool, int, str, float, str]


@dataclass(frozen=True, slots=True)
class Input:
    """What the model is fed with; what ``to_tensor`` asks of a bundle."""

    size: tuple[int, int] = (224, 224)
    windows: tuple[tuple[float, float], ...] = ((40, 80), (80, 200), (40, 380))


INPUT = Input()


@dataclass(frozen=True, slots=True)
class Slices:
    """Prepared slices of many heads.

    Attributes
    ----------
    tensor
        (n, 224, 224, 3) uint8, 255 stands for 1.
    area
        (n, 28, 28) uint8, blood in each cell, 255 stands for a quarter of it or more.
    label
        (n,) bool, the slice shows a bleed.
    head
        (n,) int64, seed of the head.
    kind
        (n,) str, what bled in this slice; empty for none.
    area_mm2
        (n,) float32, blood that the slice shows.
    lookalike
        (n,) str, what may be taken for blood, comma-separated.
    """

    tensor: NDArray[np.uint8]
    area: NDArray[np.uint8]
    label: NDArray[np.bool_]
    head: NDArray[np.int64]
    kind: NDArray[np.str_]
    area_mm2: NDArray[np.float32]
    lookalike: NDArray[np.str_]

    def joined(self, other: Slices) -> Slices:
        """Return the rows of both."""
        names = self.__dataclass_fields__
        return Slices(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def take(self, rows: NDArray[np.generic]) -> Slices:
        """Return these rows."""
        return Slices(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Study:
    """A whole study: (slices, 224, 224, 3) uint8, 255 stands for 1.

    ``label`` is None when it bleeds, but shows that on no slice clearly enough.
    """

    tensor: NDArray[np.uint8]
    label: bool | None


def draw_lesion(seed: int) -> Lesion | None:
    """Return the lesion of this analytic head: none in one of five, else 2 to 60 ml."""
    rng = np.random.default_rng([seed, 9])
    if rng.uniform() < 0.2:
        return None
    kind = list(Kind)[int(rng.integers(len(Kind)))]
    size_ml = float(np.exp(rng.uniform(np.log(2), np.log(60))))
    return Lesion(kind, size_ml, float(rng.uniform(57, 82)))


def make(
    template_seeds: Sequence[int],
    analytic_seeds: Sequence[int],
    volumes: Path,
    processes: int = 2,
) -> Slices:
    """Return the slices of these seeds: the same whatever ``processes`` is.

    Parameters
    ----------
    template_seeds
        One slice (and its twin) of one head on the template each.
    analytic_seeds
        Twelve slices (and the twins of the positive ones) of one analytic head each.
    volumes
        Where the volumes of the template are kept between runs (.npz).
    """
    template.load(volumes)
    tasks = [(str(volumes), s, False) for s in template_seeds]
    tasks += [(str(volumes), s, True) for s in analytic_seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        rows = [row for part in pool.map(_rows_of, tasks, chunksize=16) for row in part]
    tensor, area, label, head, kind, size, lookalike = zip(*rows, strict=True)
    return Slices(
        np.stack(tensor),
        np.stack(area),
        np.array(label),
        np.array(head),
        np.array(kind),
        np.array(size, np.float32),
        np.array(lookalike),
    )


def make_studies(seeds: Sequence[int], volumes: Path, processes: int = 2) -> list[Study]:
    """Return the studies of these seeds, prepared as ``make`` prepares slices."""
    tasks = [(str(volumes), seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(_study, tasks))


def _study(task: tuple[str, int]) -> Study:
    volumes, seed = task
    head = study.draw(_template(volumes), seed)
    tensors = [to_tensor(hu.astype(np.float32), INPUT) for hu in head.hu]
    tensor = np.rint(np.stack(tensors) * 255).astype(np.uint8)
    bleeds, shown = bool(study.kind_of(seed)), bool(head.positive.any())
    return Study(tensor, None if bleeds and not shown else shown)


@cache
def _template(volumes: str) -> template.Template:
    return template.load(Path(volumes))


def _rows_of(task: tuple[str, int, bool]) -> list[Row]:
    volumes, seed, analytic = task
    if analytic:
        return list(_analytic(seed))
    sample = synthetic.draw(_template(volumes), seed, seed % 1_000_000 >= _VERTEX_SEEDS)
    marks = ",".join(sorted(sample.lookalikes))
    rows = []
    if sample.positive:
        rows.append(_row(sample.hu, sample.lesion, True, seed, sample.kind, sample.area_mm2, marks))
    rows.append(_row(sample.twin, np.zeros_like(sample.lesion), False, seed, "", 0.0, marks))
    return rows


def _analytic(seed: int) -> Iterator[Row]:
    rng = np.random.default_rng([seed, 8])
    lesion, size = draw_lesion(seed), int(rng.choice([192, 224]))
    heads: tuple[Head, ...]
    if lesion is None:
        heads = (volume(seed, slices=_ANALYTIC_SLICES, size=size),)
    else:
        try:
            heads = pair(seed, lesion, slices=_ANALYTIC_SLICES, size=size)
        except ValueError:  # no room for this lesion in this head
            heads = (volume(seed, slices=_ANALYTIC_SLICES, size=size),)
    shown = heads[0].positive
    for twin, head in enumerate(heads):
        for k in range(len(head.hu)):
            blood = head.lesion[k]
            if (twin and not shown[k]) or (blood.any() and not head.positive[k]):
                continue
            positive, area = bool(head.positive[k]), float(head.area_mm2[k])
            kind = str(head.kind) if positive and head.kind else ""
            yield _row(head.hu[k].astype(np.float32), blood, positive, seed, kind, area, "")


def _row(
    hu: NDArray[np.float32],
    lesion: NDArray[np.bool_],
    positive: bool,
    seed: int,
    kind: str,
    area_mm2: float,
    lookalike: str,
) -> Row:
    tensor = np.rint(to_tensor(hu, INPUT) * 255).astype(np.uint8)
    grey = Image.fromarray(lesion.astype(np.float32))
    cells = np.asarray(grey.resize((MAP, MAP), Image.Resampling.BOX))
    area = np.rint(np.clip(cells * 4, 0, 1) * 255).astype(np.uint8)
    return tensor, area, positive, seed, kind, area_mm2, lookalike
