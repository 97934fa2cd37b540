"""What speaks for the finding, read from the overlays that people are shown, pixel by pixel.

The overlay lies upright and has square pixels (``worker.study.render``, ``tensors``); objects are
about the pixels of an instance as it is stored.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from limen.errors import Unreadable
from limen.result import Explanation, Result
from worker.objects.source import Slice, Source
from worker.study import render
from worker.study.tensors import Turn

__all__ = ["Box", "Evidence", "as_stored", "boxes", "collect", "colours", "picture"]

STRONG: Final = 0.5
"""Superpixels of that share of the strongest weight, and more, are boxed."""

MAX_BOXES: Final = 5
"""Of a slice: the regions with the most weight."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One explained slice.

    Attributes
    ----------
    grey
        (picture rows, picture columns) uint8: the slice as people look at it.
    shown
        (rows of the overlay, columns) float32, of the whole of that slice: the weight of the
        superpixel, 0 where none is shown; above 0 speaks for the finding.
    weights
        (rows, columns) float32: the same in the pixels of the instance.
    """

    slice: Slice
    explanation: Explanation
    grey: NDArray[np.uint8]
    shown: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def label(self) -> str:
        """The label that is explained."""
        return self.explanation.label


@dataclass(frozen=True, slots=True)
class Box:
    """A region that speaks for the finding, in pixels of the instance; ends are beyond it."""

    top: int
    left: int
    bottom: int
    right: int


def collect(result: Result, files: Mapping[str, Path], source: Source) -> list[Evidence]:
    """Return the explained slices that objects may name, in the order of their explanations.

    Raises
    ------
    Unreadable
        A picture that the result names is not there, or is none.
    """
    slices = {(s.image.sop_uid, s.image.frame, s.image.copy): s for s in source.slices(result)}
    found = []
    for explanation in result.explanations:
        one = slices.get((explanation.sop_uid, explanation.frame, explanation.copy))
        if one is None or one.image.explanation is None or one.image.original is None:
            continue
        grey = np.asarray(picture(files, one.image.original, render.grey_of))
        overlay = np.asarray(picture(files, one.image.explanation, colours))
        shown = _weights(overlay, explanation)
        one = _about(one, explanation.label, result)
        found.append(Evidence(one, explanation, grey, shown, as_stored(shown, one)))
    return found


def _about(one: Slice, label: str, result: Result) -> Slice:
    """Return a slice with the finding that its explanation is of."""
    told = one.image.probability or {}
    for finding in result.all_findings():
        if finding.label == label != one.finding.label and label in told:
            return replace(one, finding=finding, probability=told[label])
    return one


def as_stored(shown: NDArray[Any], one: Slice) -> NDArray[Any]:
    """Return what lies on the picture of a slice in the pixels of its instance.

    Each pixel of the instance gets what lies at its centre.
    """
    turn, shape = Turn.of(one.frame), (one.header.rows, one.header.columns)
    rows, columns = shape[::-1] if turn.swapped else shape
    i, j = (
        ((np.arange(n) + 0.5) * side / n).astype(int)
        for n, side in zip((rows, columns), shown.shape, strict=True)
    )
    return np.ascontiguousarray(turn.back(shown[np.ix_(i, j)]))


def boxes(weights: NDArray[np.float32]) -> list[Box]:
    """Return the box of each region that speaks strongly for the finding, the strongest first."""
    peak = float(weights.max(initial=0))
    if peak <= 0:
        return []
    regions, count = ndimage.label(weights >= STRONG * peak)
    sums = ndimage.sum_labels(weights, regions, range(1, count + 1))
    places = ndimage.find_objects(regions)
    strongest: Sequence[int] = np.argsort(-np.asarray(sums), kind="stable")[:MAX_BOXES].tolist()
    return [
        Box(rows.start, columns.start, rows.stop, columns.stop)
        for rows, columns in (places[n] for n in strongest)
    ]


def picture(
    files: Mapping[str, Path], name: str, read: Callable[[bytes], Image.Image]
) -> Image.Image:
    try:
        return read(files[name].read_bytes())
    except (KeyError, OSError) as exc:
        raise Unreadable("a picture that the result names cannot be read") from exc


def colours(body: bytes) -> Image.Image:
    """Return a picture with its colours and its transparency."""
    with Image.open(io.BytesIO(body)) as image:
        return image.convert("RGBA")


def _weights(overlay: NDArray[np.uint8], explanation: Explanation) -> NDArray[np.float32]:
    """Return the weights that the colours of an overlay stand for; see ``overlay_png``."""
    weights = np.array([s.weight for s in explanation.superpixels], np.float64)
    peak = float(np.abs(weights).max(initial=0))
    same: dict[tuple[bool, int], list[float]] = defaultdict(list)
    for number in np.argsort(-np.abs(weights), kind="stable")[: render.SHOWN_SUPERPIXELS]:
        if weights[number]:
            alpha = round(render.MAX_ALPHA * abs(weights[number]) / peak)
            same[bool(weights[number] > 0), alpha].append(float(weights[number]))
    shown = np.zeros(overlay.shape[:2], np.float32)
    speaks_for = (overlay[..., :3] == render.FOR_RGB).all(axis=-1)
    for (positive, alpha), members in same.items():
        where = (overlay[..., 3] == alpha) & (speaks_for == positive)
        shown[where & (overlay[..., 3] > 0)] = np.mean(members)
    return shown
