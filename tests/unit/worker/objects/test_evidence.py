"""What speaks for the finding lies on the pixels of the instance, however those lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from scipy import ndimage

from tests.support import heads, synthetic
from tests.support.explained import Studies, Study
from worker.dicom import hounsfield
from worker.objects import Kind
from worker.study.render import FOR_RGB
from worker.study.tensors import Turn

MM = heads.FIELD_MM / heads.SIDE
Way = tuple[list[int], tuple[float, float], Callable[[np.ndarray], np.ndarray]]
WAYS: dict[str, Way] = {
    "as people look at it": ([1, 0, 0, 0, 1, 0], (MM, MM), lambda hu: hu),
    "mirrored": ([-1, 0, 0, 0, 1, 0], (MM, MM), lambda hu: hu[:, ::-1]),
    "upside down": ([1, 0, 0, 0, -1, 0], (MM, MM), lambda hu: hu[::-1]),
    "a half turn": ([-1, 0, 0, 0, -1, 0], (MM, MM), lambda hu: hu[::-1, ::-1]),
    "a quarter turn": ([0, 1, 0, -1, 0, 0], (MM, MM), lambda hu: hu[:, ::-1].T),
    "rows are columns": ([0, 1, 0, 1, 0, 0], (MM, MM), lambda hu: hu.T),
    "every second row": ([1, 0, 0, 0, 1, 0], (2 * MM, MM), lambda hu: hu[::2]),
    "every second column, turned": ([0, 1, 0, 1, 0, 0], (MM, 2 * MM), lambda hu: hu.T[:, ::2]),
    "columns that no byte divides": ([1, 0, 0, 0, 1, 0], (MM, MM), lambda hu: hu[:, 3:-2]),
}
PLACES_MM = (-30.0, -10.0, 10.0, 30.0)
BLOOD_HU = 70


@pytest.fixture(params=WAYS, ids=str)
def study(request: pytest.FixtureRequest, studies: Studies) -> Study:
    cosines, spacing_mm, turn = WAYS[request.param]
    return studies(
        [
            heads.slice_of(
                np.ascontiguousarray(turn(heads.head_hu(z, bleeds=z == 10.0))),
                z,
                number,
                ImageOrientationPatient=cosines,
                PixelSpacing=list(spacing_mm),
            )
            for number, z in enumerate(PLACES_MM, start=1)
        ]
    )


def test_the_segmentation_covers_the_bleeding_in_the_pixels_of_its_instance(study: Study) -> None:
    bleeding = hounsfield.read(study.instances[2].path, 1, heads.MAX_PIXELS) == BLOOD_HU
    segmentation = study.data_set(Kind.SEG)
    assert (segmentation.Rows, segmentation.Columns) == bleeding.shape
    (mask,) = _frames(segmentation)
    assert mask[bleeding].mean() > 0.85
    (frame,) = segmentation.PerFrameFunctionalGroupsSequence
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == study.instances[2].sop_uid


def test_the_segmentation_covers_what_the_overlay_shows_within_a_pixel(study: Study) -> None:
    (image,) = [i for i in study.explanation.images if i.explanation]
    with Image.open(study.files[image.explanation]) as overlay:
        pixels = np.asarray(overlay)
    shown = (pixels[..., :3] == FOR_RGB).all(axis=-1) & (pixels[..., 3] > 0)
    header = study.decoder.headers([study.instances[2].path])[0]
    (mask,) = _frames(study.data_set(Kind.SEG))
    upright = _upright(mask, header.frames[0], shown.shape)
    assert not (upright & ~ndimage.binary_dilation(shown, np.ones((3, 3)))).any()
    assert not (shown & ~ndimage.binary_dilation(upright, np.ones((3, 3)))).any()


def test_the_strongest_box_is_around_the_bleeding(study: Study) -> None:
    bleeding = hounsfield.read(study.instances[2].path, 1, heads.MAX_PIXELS) == BLOOD_HU
    rows, columns = np.nonzero(bleeding)
    left, top, right, bottom = _boxes(study.data_set(Kind.SR))[0]
    assert left <= columns.min() + 3
    assert right >= columns.max() - 2
    assert top <= rows.min() + 3
    assert bottom >= rows.max() - 2
    assert (right - left) * (bottom - top) < 6 * bleeding.sum()


def test_the_map_has_a_frame_for_each_slice_and_zeros_elsewhere(study: Study) -> None:
    saliency = study.data_set(Kind.PM)
    weights = np.frombuffer(saliency.FloatPixelData, np.float32)
    weights = weights.reshape(len(PLACES_MM), saliency.Rows, saliency.Columns)
    sources = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for group in saliency.PerFrameFunctionalGroupsSequence
    ]
    assert set(sources) == {instance.sop_uid for instance in study.instances}
    (shown,) = [n for n, frame in enumerate(weights) if frame.any()]
    (explained,) = study.explanation.explanations
    assert sources[shown] == explained.sop_uid
    assert weights.max() == pytest.approx(max(s.weight for s in explained.superpixels))
    (mask,) = _frames(study.data_set(Kind.SEG))
    assert ((weights[shown] > 0) == mask).all()


def test_the_contour_lies_at_the_edge_of_the_segmentation(study: Study) -> None:
    (mask,) = _frames(study.data_set(Kind.SEG))
    state = study.data_set(Kind.PR)
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)))
    near = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~inside
    for item in state.GraphicAnnotationSequence[0].GraphicObjectSequence:
        points = np.reshape(item.GraphicData, (-1, 2))
        columns, rows = np.clip(points.astype(int), 0, np.array(mask.shape)[::-1] - 1).T
        assert near[rows, columns].all()


def _upright(mask: np.ndarray, frame: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return a stored mask as the picture of its slice lies, by the way of the pixels."""
    turned = Image.fromarray(np.ascontiguousarray(Turn.of(frame).there(mask)))
    return np.asarray(turned.resize(shape[::-1], Image.Resampling.NEAREST))


def _frames(segmentation: Dataset) -> np.ndarray:
    pixels = segmentation.pixel_array.astype(bool)
    return pixels if pixels.ndim == 3 else pixels[np.newaxis]


def _boxes(report: Dataset) -> list[tuple[float, float, float, float]]:
    found = []
    for element in report.iterall():
        if element.keyword == "GraphicData":
            points = np.reshape(element.value, (5, 2))
            assert (points[0] == points[-1]).all()
            found.append((*points.min(axis=0), *points.max(axis=0)))
    return found


def test_an_enhanced_instance_is_named_with_its_frames(studies: Studies) -> None:
    study = studies([heads.enhanced_head(PLACES_MM, bleeds_mm=(0.0, 20.0))])
    assert {i.frame for i in study.explanation.images if i.explanation} == {3}
    (group,) = study.data_set(Kind.SEG).PerFrameFunctionalGroupsSequence
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedFrameNumber == 3
    report = study.data_set(Kind.SR)
    frames = {e.value for e in report.iterall() if e.keyword == "ReferencedFrameNumber"}
    assert frames == {3}
    assert study.objects().refused == ()
    assert synthetic.ENHANCED_CT in {
        e.value for e in report.iterall() if e.keyword == "ReferencedSOPClassUID"
    }
