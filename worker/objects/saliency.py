"""The evidence as a Parametric Map: the weight of each shown superpixel, for and against."""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from limen.errors import NotAnalysable
from worker.objects import Kind
from worker.objects.evidence import Evidence
from worker.objects.identity import Identity
from worker.objects.stack import Stack
from worker.objects.writing import common, device

__all__ = ["saliency"]

SALIENCY: Final = Code("130404", "DCM", "Saliency")
MAX_BYTES: Final = 256 << 20
"""A map has a frame for each slice: one of 256 slices of 512 x 512 is as large as that."""


def saliency(identity: Identity, stack: Stack[Evidence], number: int) -> Dataset:
    """Return the weights, one frame for each slice of the series: OHIF counts on that.

    Parameters
    ----------
    number
        Of the object within its series, from 1.

    Raises
    ------
    NotAnalysable
        It would be too large.
    """
    slices, rows, columns = stack.shape
    if slices * rows * columns * 4 > MAX_BYTES:
        raise NotAnalysable(
            f"a map of {slices} slices of {rows} x {columns} is larger than {MAX_BYTES >> 20} MiB"
        )
    weights = stack.filled(np.float32, lambda weights: weights)
    peak = float(np.abs(weights).max(initial=0)) or 1.0
    mapping = RealWorldValueMapping(
        lut_label="WEIGHT",
        lut_explanation="Weight of the superpixel in LIME; above 0 speaks for it",
        unit=Code("1", "UCUM", "no units"),
        value_range=(-peak, peak),
        slope=1.0,
        intercept=0.0,
        quantity_definition=SALIENCY,
    )
    return ParametricMap(
        source_images=list(stack.images),
        pixel_array=weights,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=0.0, window_width=2 * peak)],
        content_label="SALIENCY",
        content_description="Weights of superpixels by LIME; not for diagnostic use",
        content_qualification="RESEARCH",
        **common(identity, Kind.PM, str(number), number=number),
        **device(identity),
    )
