"""Slices of generators and of real heads, prepared exactly as the worker prepares a study."""

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

from models.ich import graft, real, study, synthetic, template
from models.ich.graft import Graft
from models.ich.lesion import Kind, Lesion
from models.ich.scanner import Head, pair, volume
from worker.bundles.preparation import Preparation
from worker.study.crop import field_of
from worker.study.tensors import to_tensor

__all__ = [
    "INPUT",
    "MAP",
    "Input",
    "Slices",
    "Study",
    "GRAFT_HEADS",
    "draw_lesion",
    "graft_of",
    "make",
    "make_grafts",
    "make_real",
    "make_studies",
]

MAP = (28, 24)  # rows and columns of the coarse lesion map that training is helped by
_ANALYTIC_SLICES = 12
_VERTEX_SEEDS = 500_000  # from here on within each million, slices are through the vertex

_LEARNED_SEEDS = 2_000_000  # below: training; above: validation and test
_REAL_HEADS = 6_000_000  # heads of these numbers and above are real
GRAFT_HEADS = 7_000_000

Row = tuple[NDArray[np.uint8], NDArray[np.uint8], bool, int, str, float, str, str]


@dataclass(frozen=True, slots=True)
class Input:
    """What the model is fed with; what ``to_tensor`` asks of a bundle."""

    size: tuple[int, int] = (224, 192)
    windows: tuple[tuple[float, float], ...] = ((40, 80), (80, 200), (40, 380))
    crop: str = "head"
    spacing_mm: float | None = 0.95
    neighbours: int = 0
    preparation: Preparation = Preparation()


INPUT = Input()


@dataclass(frozen=True, slots=True)
class Slices:
    """Prepared slices of many heads.

    Attributes
    ----------
    tensor
        (n, 224, 192, 3) uint8, 255 stands for 1.
    area
        (n, 28, 24) uint8, blood in each cell, 255 stands for a quarter of it or more.
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
    source
        (n,) str: "template", "analytic", "real", "graft" (a synthetic bleed in a real slice, and
        its twin) or "plain" (a real slice without room for one). Where blood lies in a positive
        real slice is not known.
    """

    tensor: NDArray[np.uint8]
    area: NDArray[np.uint8]
    label: NDArray[np.bool_]
    head: NDArray[np.int64]
    kind: NDArray[np.str_]
    area_mm2: NDArray[np.float32]
    lookalike: NDArray[np.str_]
    source: NDArray[np.str_]

    def joined(self, other: Slices) -> Slices:
        """Return the rows of both."""
        names = self.__dataclass_fields__
        return Slices(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def take(self, rows: NDArray[np.generic]) -> Slices:
        """Return these rows."""
        return Slices(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Study:
    """A whole study: (slices, 224, 192, 3) uint8, 255 stands for 1, slices ``step_mm`` apart.

    ``label`` is None when it bleeds, but shows that on no slice clearly enough.
    """

    tensor: NDArray[np.uint8]
    step_mm: float
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
    return _stacked(rows)


def _stacked(rows: Sequence[Row]) -> Slices:
    tensor, area, label, head, kind, size, lookalike, source = zip(*rows, strict=True)
    return Slices(
        np.stack(tensor),
        np.stack(area),
        np.array(label),
        np.array(head),
        np.array(kind),
        np.array(size, np.float32),
        np.array(lookalike),
        np.array(source),
    )


def make_real(data: Path, split: str) -> Slices:
    """Return every slice of the real heads of a split, in order; see ``real.heads``."""
    rows: list[Row] = []
    for number, head in enumerate(real.heads(data, split)):
        for hu, label, kind in zip(head.hu, head.label, head.kinds, strict=True):
            nothing = np.zeros(hu.shape, bool)
            seed = _REAL_HEADS + number
            shown = hu.astype(np.float32)
            facts = (bool(label), seed, kind, 0.0, "", "real")
            rows.append(_row(shown, head.pixel_mm, nothing, *facts))
    return _stacked(rows)


def make_grafts(
    data: Path, seeds: Sequence[int], processes: int = 2, split: str = "train"
) -> Slices:
    """Return synthetic bleeds in real slices of a split, each before its twin."""
    tasks = [(str(data), seed, split) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return _stacked([r for part in pool.map(_grafts_of, tasks, chunksize=32) for r in part])


@cache
def _backgrounds(data: str, split: str) -> list[tuple[NDArray[np.int16], float]]:
    """Return the slices without blood of a split."""
    return [
        (hu, head.pixel_mm)
        for head in real.heads(Path(data), split)
        for hu, label in zip(head.hu, head.label, strict=True)
        if not label
    ]


def _background(
    data: str, split: str, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float, bool]:
    """Return a slice, the size of its pixels, and whether it is one of the labelled heads."""
    which = rng.uniform()
    if which < 0.75 or split != "train":
        slices = _backgrounds(data, split)
        hu, pixel_mm = slices[int(rng.integers(len(slices)))]
        return hu.astype(np.float32), pixel_mm, True
    if which < 0.88:
        stack = real.normal(Path(data))[int(rng.integers(2))]
        shown = graft.shrink(stack.hu[int(rng.integers(len(stack.hu)))])
        return shown, stack.pixel_mm * stack.hu.shape[1] / len(shown), False
    return *graft.of_average(real.average(Path(data)), rng), False


def graft_of(data: Path, seed: int, split: str) -> Graft | None:
    """Return the bleed of this seed in a slice of the split; None where there is no room."""
    rng = np.random.default_rng([seed, 13])
    hu, pixel_mm, _ = _background(str(data), split, rng)
    return graft.bleed(hu, pixel_mm, rng)


def _grafts_of(task: tuple[str, int, str]) -> list[Row]:
    data, seed, split = task
    rng = np.random.default_rng([seed, 13])
    hu, pixel_mm, labelled = _background(data, split, rng)
    found, head = graft.bleed(hu, pixel_mm, rng), GRAFT_HEADS + seed
    nothing = np.zeros(hu.shape, bool)
    if found is None or not found.positive:
        if labelled:  # the slice itself is in the set already
            return []
        return [_row(graft.degrade(hu, rng), pixel_mm, nothing, False, head, "", 0.0, "", "plain")]
    start = rng.bit_generator.state
    shown = graft.degrade(found.hu, rng)
    rng.bit_generator.state = start  # the same chain for both
    twin = graft.degrade(found.twin, rng)
    return [
        _row(shown, pixel_mm, found.lesion, True, head, found.kind, found.area_mm2, "", "graft"),
        _row(twin, pixel_mm, nothing, False, head, "", 0.0, "", "graft"),
    ]


def make_studies(seeds: Sequence[int], volumes: Path, processes: int = 2) -> list[Study]:
    """Return the studies of these seeds, prepared as ``make`` prepares slices."""
    tasks = [(str(volumes), seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(_study, tasks))


def _study(task: tuple[str, int]) -> Study:
    volumes, seed = task
    head = study.draw(_template(volumes), seed)
    pixel_mm = head.spacing_mm[1]
    tensors = [to_tensor(hu.astype(np.float32), INPUT, pixel_mm) for hu in head.hu]
    tensor = np.rint(np.stack(tensors) * 255).astype(np.uint8)
    bleeds, shown = bool(study.kind_of(seed)), bool(head.positive.any())
    return Study(tensor, head.spacing_mm[0], None if bleeds and not shown else shown)


@cache
def _template(volumes: str) -> template.Template:
    return template.load(Path(volumes))


def _rows_of(task: tuple[str, int, bool]) -> list[Row]:
    volumes, seed, analytic = task
    if analytic:
        return list(_analytic(seed))
    sample = synthetic.draw(_template(volumes), seed, seed % 1_000_000 >= _VERTEX_SEEDS)
    marks, nothing = ",".join(sorted(sample.lookalikes)), np.zeros_like(sample.lesion)
    hu, twin = sample.hu, sample.twin
    if seed < _LEARNED_SEEDS:  # what is learned from passes through as many hands as real slices
        rng = np.random.default_rng([seed, 14])
        start = rng.bit_generator.state
        hu = graft.degrade(hu, rng)
        rng.bit_generator.state = start
        twin = graft.degrade(twin, rng)
    rows = []
    if sample.positive:
        kind, area = sample.kind, sample.area_mm2
        facts = (True, seed, kind, area, marks, "template")
        rows.append(_row(hu, sample.pixel_mm, sample.lesion, *facts))
    rows.append(_row(twin, sample.pixel_mm, nothing, False, seed, "", 0.0, marks, "template"))
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
            shown_hu = head.hu[k].astype(np.float32)
            facts = (positive, seed, kind, area, "", "analytic")
            yield _row(shown_hu, head.spacing_mm[1], blood, *facts)


def _row(
    hu: NDArray[np.float32],
    pixel_mm: float,
    lesion: NDArray[np.bool_],
    positive: bool,
    seed: int,
    kind: str,
    area_mm2: float,
    lookalike: str,
    source: str,
) -> Row:
    box = field_of(hu, pixel_mm, INPUT)
    tensor = np.rint(to_tensor(hu, INPUT, pixel_mm) * 255).astype(np.uint8)
    grey = Image.fromarray(box.cut(lesion.astype(np.float32), 0.0))
    cells = np.asarray(grey.resize(MAP[::-1], Image.Resampling.BOX))
    area = np.rint(np.clip(cells * 4, 0, 1) * 255).astype(np.uint8)
    return tensor, area, positive, seed, kind, area_mm2, lookalike, source
