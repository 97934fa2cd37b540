"""The contour of the evidence as a Grayscale Softcopy Presentation State."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import ModalityLUTTransformation
from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from skimage import measure

from worker.objects import Kind
from worker.objects.evidence import Evidence
from worker.objects.identity import Identity
from worker.objects.source import Source
from worker.objects.wording import ORANGE
from worker.objects.writing import common, device
from worker.study.render import BRAIN_WINDOW_HU

__all__ = ["contours"]


def contours(identity: Identity, source: Source, one: Evidence, number: int) -> Dataset:
    """Return the contours of what speaks for the finding in a slice, with the brain window.

    Parameters
    ----------
    number
        Of the object within its series, from 1.
    """
    layer = GraphicLayer(
        layer_name="EVIDENCE",
        order=1,
        description="Contours of what speaks for the finding; not for diagnostic use",
        display_color=ORANGE,
    )
    image = source.data_set(one.slice.header)
    slope, intercept = source.rescale(one.slice)
    centre, width = BRAIN_WINDOW_HU
    return GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        graphic_layers=[layer],
        graphic_annotations=[_annotation(one, image, layer)],
        modality_lut_transformation=ModalityLUTTransformation(
            rescale_intercept=intercept, rescale_slope=slope, rescale_type="HU"
        ),
        voi_lut_transformations=[
            SoftcopyVOILUTTransformation(window_center=centre, window_width=width)
        ],
        content_label="EVIDENCE",
        content_description="Contours of what speaks for the finding; no outline of a lesion",
        **common(identity, Kind.PR, str(number), number=number),
        **device(identity),
    )


def _annotation(one: Evidence, image: Dataset, layer: GraphicLayer) -> GraphicAnnotation:
    return GraphicAnnotation(
        referenced_images=[image],
        referenced_frame_number=one.slice.frame_numbers,
        graphic_layer=layer,
        graphic_objects=[
            GraphicObject(graphic_type="POLYLINE", graphic_data=line, units="PIXEL")
            for line in _lines(one.weights)
        ],
    )


def _lines(weights: NDArray[np.float32]) -> Sequence[NDArray[np.float64]]:
    """Return (points, 2) float64: column and row of each contour, from 0.5 at the first pixel.

    PS3.3 C.10.5.1.2: the top left corner of the first pixel is 0.0; the middle of it 0.5.
    """
    padded = np.pad(weights > 0, 1).astype(np.float32)
    rows, columns = weights.shape
    found = measure.find_contours(padded, 0.5)
    return [np.clip(line[:, ::-1] - 0.5, 0, (columns, rows)).astype(np.float64) for line in found]
