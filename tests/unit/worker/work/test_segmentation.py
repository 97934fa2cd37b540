"""A segmentation: what it marks is measured in the patient, shown, and sent as a SEG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from onnx import helper
from PIL import Image

from limen.result import Outcome, Phase, Result, Task
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import of_pixels, save
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.tools import model_golden
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

SIDE = 64
PIXEL_MM = 2.0
WINDOWS = ((40.0, 80.0), (1000.0, 2000.0))
WEIGHTS = np.array([[400.0], [-2000.0]])
BIAS = (-220.0,)
"""Blood is what the brain window shows bright and the bone window dark: from 55 HU to bone."""

RADIUS_MM = 20.0
BALL_ML = 4 / 3 * np.pi * RADIUS_MM**3 / 1000
MIDDLE_MM = (10.0, -6.0)
"""Of the ball, from the middle of a slice: rows (to the back) and columns (to the left)."""


def ball(at_mm: float, pixel_mm: tuple[float, float] = (PIXEL_MM, PIXEL_MM)) -> np.ndarray:
    """Return (rows, columns) bool: where a slice at a height above its middle cuts the ball."""
    rows, columns = (round(SIDE * PIXEL_MM / mm) for mm in pixel_mm)
    y = (np.arange(rows) + 0.5) * pixel_mm[0] - SIDE * PIXEL_MM / 2 - MIDDLE_MM[0]
    x = (np.arange(columns) + 0.5) * pixel_mm[1] - SIDE * PIXEL_MM / 2 - MIDDLE_MM[1]
    return y[:, None] ** 2 + x[None] ** 2 + at_mm**2 < RADIUS_MM**2


def head(at_mm: float, pixel_mm: tuple[float, float] = (PIXEL_MM, PIXEL_MM)) -> np.ndarray:
    """Return (rows, columns) int16, HU: a head with a ball of blood in it."""
    rows, columns = (round(SIDE * PIXEL_MM / mm) for mm in pixel_mm)
    y, x = np.mgrid[:rows, :columns].astype(float)
    radius = np.hypot((y + 0.5) / rows - 0.5, (x + 0.5) / columns - 0.5)
    hu = np.full((rows, columns), -1000, np.int16)
    hu[radius < 0.46] = 900
    hu[radius < 0.42] = 35
    hu[ball(at_mm, pixel_mm)] = 75
    return hu


@dataclass
class Made:
    """A bundle of a model that marks blood."""

    folder: Path

    def edited(self, copy: Path, **lines: str) -> Path:
        """Return a copy with lines of ``bundle.toml`` replaced: its beginning to all of it."""
        copy.mkdir()
        for path in self.folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        text = (copy / "bundle.toml").read_text("utf-8")
        for begin, line in lines.items():
            (old,) = [one for one in text.splitlines() if one.startswith(f"{begin} = ")]
            text = text.replace(old, line, 1)
        (copy / "bundle.toml").write_text(text, "utf-8")
        return copy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("segmentation")
    of_pixels(folder / "model.onnx", (SIDE, SIDE), WEIGHTS, BIAS)
    bundle = make(
        folder / "model.onnx",
        folder / "bundle",
        Wishes(labels=("blood",), scale=(0.0, 1.0), windows=WINDOWS, volume_ml=2.0),
    ).bundle
    assert (bundle.task, bundle.output_shape) == (Task.SEGMENTATION, (SIDE, SIDE, 1))
    text = (bundle.folder / "bundle.toml").read_text("utf-8")
    text = text.replace("[accepts]", '[accepts]\nmin_extent_mm = 0\nlooks_like = ""', 1)
    (bundle.folder / "bundle.toml").write_text(text, "utf-8")
    return Made(bundle.folder)


def tall(step_mm: float = 2.5) -> list[float]:
    return [float(z) for z in np.arange(-35, 36, step_mm)]


Analysed = Callable[..., tuple[BundleWorker, Result]]


@pytest.fixture
def analysed(made: Made, decoder: Decoder, tmp_path: Path) -> Iterator[Analysed]:
    """Write a study, let the worker do all of it, and return the worker and its only document."""
    open_workers: list[BundleWorker] = []

    def run(
        heights_mm: list[float],
        *,
        slices: Callable[[float], np.ndarray] = head,
        bundle: Path | None = None,
        kinds: tuple[str, ...] = (),
        **elements: Any,
    ) -> tuple[BundleWorker, Result]:
        worker = BundleWorker(tmp_path / "node", bundle or made.folder, decoder, kinds)
        open_workers.append(worker)
        usual = {
            "PixelSpacing": [PIXEL_MM, PIXEL_MM],
            "SliceThickness": 2.5,
            "FrameOfReferenceUID": f"{synthetic.STUDY}.9",
        }
        paths = [
            synthetic.save(
                synthetic.instance(n, at, pixels=slices(at), **usual | elements),
                worker.spool,
                f"{n}.dcm",
            )
            for n, at in enumerate(heights_mm, start=1)
        ]
        (document,) = worker.analyse(paths)  # and no explanation
        return worker, document

    yield run
    for worker in open_workers:
        worker.__exit__(None, None, None)


def test_a_bleed_has_the_volume_that_it_has_in_the_patient(analysed: Analysed) -> None:
    worker, result = analysed(tall())
    assert result.outcome is Outcome.POSITIVE
    finding = result.finding
    assert finding is not None
    assert finding.volume_ml == pytest.approx(BALL_ML, rel=0.03)
    assert finding.volume_threshold_ml == 2.0
    cut = [at for at in tall() if ball(at).any()]
    assert (finding.positive_slices, finding.analysed_slices) == (len(cut), len(tall()))
    assert result.reason == (
        f"{finding.volume_ml:g} ml marked, at or above 2 ml, {len(cut)} of {len(tall())} slices "
        "with it"
    )
    for image, at in zip(result.images, tall(), strict=True):
        expected = ball(at).sum() * PIXEL_MM**2
        assert image.areas_mm2["blood"] == pytest.approx(expected, abs=0.01)
        assert image.positive == bool(expected)
    assert (worker.row.state, worker.row.outcome, worker.row.probability) == (
        *("done", "positive"),
        None,
    )
    assert not result.wants_explanation


def test_what_is_marked_is_drawn_where_it_lies(analysed: Analysed) -> None:
    worker, result = analysed(tall())
    files = worker.files()
    for image, at in zip(result.images, tall(), strict=True):
        assert (image.explanation is not None) == bool(ball(at).any())
        if image.explanation is None:
            continue
        (path := worker.spool / "overlay.png").write_bytes(files[image.explanation])
        with Image.open(path) as overlay:
            shown = np.asarray(overlay)[..., 3] > 0
        np.testing.assert_array_equal(shown, ball(at))


@pytest.mark.parametrize(
    ("spacing", "heights"),
    [
        ((1.0, 2.0), tall()),
        ((2.0, 1.0), tall()),
        ((PIXEL_MM, PIXEL_MM), tall(1.25)),
        ((PIXEL_MM, PIXEL_MM), [-40.0, -35.0, -30.0, -25.0, *np.arange(-22, 24, 1.5), 28.0, 33.0]),
    ],
    ids=["rows finer", "columns finer", "thin slices", "slices farther apart outside"],
)
def test_the_volume_is_that_of_the_true_spacing(
    analysed: Analysed, spacing: tuple[float, float], heights: list[float]
) -> None:
    _, result = analysed(
        heights, slices=lambda at: head(at, spacing), PixelSpacing=list(spacing), SliceThickness=5
    )
    assert result.finding is not None
    assert result.finding.volume_ml == pytest.approx(BALL_ML, rel=0.04)


def turned(at: float) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(head(at)))


def mirrored(at: float) -> np.ndarray:
    return np.ascontiguousarray(head(at)[:, ::-1])


TURNS = [
    (head, [1, 0, 0, 0, 1, 0], lambda mask: mask),
    (turned, [0, 1, 0, -1, 0, 0], np.rot90),
    (mirrored, [-1, 0, 0, 0, 1, 0], lambda mask: mask[:, ::-1]),
]


@pytest.mark.parametrize(
    ("slices", "cosines", "as_stored"), TURNS, ids=["upright", "turned", "mirrored"]
)
def test_however_a_file_lies_the_same_is_marked_and_lies_in_the_seg_where_it_is_stored(
    analysed: Analysed, slices: Any, cosines: list[int], as_stored: Any
) -> None:
    worker, result = analysed(
        tall(), slices=slices, kinds=("seg", "sr"), ImageOrientationPatient=cosines
    )
    assert result.finding is not None
    assert result.finding.volume_ml == pytest.approx(BALL_ML, rel=0.03)
    (sent,) = [one for one in worker.web.objects[Phase.PREDICTION] if one.kind == "seg"]
    assert sent.path is not None, sent.fault
    seg = pydicom.dcmread(sent.path)
    (segment,) = seg.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Blood"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert seg.SeriesDescription.startswith("AI segmentation bundle 0.1.0")
    masks = np.atleast_3d(seg.pixel_array)
    places = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(places) == [at for at in tall() if ball(at).any()]
    for mask, at in zip(masks, places, strict=True):
        np.testing.assert_array_equal(mask > 0, as_stored(ball(at)))


def test_the_report_has_volume_and_areas_and_says_that_nothing_is_explained(
    analysed: Analysed,
) -> None:
    worker, result = analysed(tall(), kinds=("sr",))
    (sent,) = worker.web.objects[Phase.PREDICTION]
    assert sent.path is not None, sent.fault
    items = list(_items(pydicom.dcmread(sent.path)))
    measured = {
        (i.ConceptNameCodeSequence[0].CodeMeaning, i.MeasuredValueSequence[0].NumericValue)
        for i in items
        if "MeasuredValueSequence" in i
    }
    assert result.finding is not None
    volumes = [float(value) for name, value in measured if name == "Volume"]
    assert volumes == [pytest.approx(result.finding.volume_ml)]
    assert {name for name, _ in measured} == {"Volume", "Area", "Probability"}
    texts = " ".join(i.TextValue for i in items if "TextValue" in i)
    assert "No explanation is made: what is marked is the finding." in texts
    assert f"{result.finding.volume_ml:g} ml marked, threshold 2 ml" in texts


def _items(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from _items(item)


# -- what may not become a negative ----------------------------------------------------------------


def without_blood(at: float) -> np.ndarray:
    hu = head(at)
    hu[hu == 75] = 35
    return hu


def test_a_head_without_blood_is_negative(analysed: Analysed) -> None:
    _, result = analysed(tall(), slices=without_blood)
    assert result.outcome is Outcome.NEGATIVE
    assert result.reason == f"0 ml marked, below 2 ml, none of {len(tall())} slices with it"
    assert not any(image.explanation for image in result.images)


def test_less_than_the_least_volume_is_negative_and_its_slices_are_marked(
    analysed: Analysed, made: Made, tmp_path: Path
) -> None:
    much = made.edited(tmp_path / "much", volume_ml="volume_ml = 50.0")
    _, result = analysed(tall(), bundle=much)
    assert result.outcome is Outcome.NEGATIVE
    assert f"{result.finding.volume_ml:g} ml marked, below 50 ml" in result.reason
    assert any(image.positive for image in result.images)


def test_a_missing_slice_is_told_and_nobody_stands_for_it(analysed: Analysed) -> None:
    whole = tall()
    _, result = analysed([at for at in whole if at != 0], slices=without_blood)
    assert result.outcome is Outcome.PARTIAL
    assert "1 gap between slices" in result.reason


def test_the_volume_of_a_missing_slice_is_not_made_up(analysed: Analysed) -> None:
    _, result = analysed([at for at in tall() if at != 0])
    missing_ml = np.pi * RADIUS_MM**2 * 2.5 / 1000
    assert result.outcome is Outcome.POSITIVE
    assert result.finding.volume_ml == pytest.approx(BALL_ML - missing_ml, rel=0.03)
    assert "1 gap between slices" in result.reason


def test_a_slice_of_unknown_size_is_measured_as_the_usual_one_and_never_negative(
    analysed: Analysed,
) -> None:
    _, result = analysed(tall(), slices=without_blood, PixelSpacing=None)
    assert result.outcome is Outcome.PARTIAL
    assert "a field of view of 240 mm was assumed" in result.reason


def test_a_study_that_does_not_say_where_its_slices_lie_is_never_negative(
    analysed: Analysed,
) -> None:
    _, result = analysed(
        tall(), slices=without_blood, ImagePositionPatient=None, ImageOrientationPatient=None
    )
    assert result.outcome in {Outcome.PARTIAL, Outcome.NOT_ANALYSED}


def with_metal(at: float) -> np.ndarray:
    hu = without_blood(at)
    if at == 0:
        hu[0, 0] = 1500
    return hu


def test_a_slice_that_the_model_answers_with_no_number_leaves_the_study_without_a_negative(
    analysed: Analysed, made: Made, decoder: Decoder, tmp_path: Path
) -> None:
    """It takes the logarithm of how far the brightest bone is from 1500 HU."""
    odd = made.edited(tmp_path / "odd")
    pick = np.float32([[0, 1]])[..., None, None]
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["marks"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["image", "pick"], ["bone"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMax", ["bone"], ["most"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["most", "odd"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["rest"]),
        helper.make_node("Log", ["rest"], ["log"]),
        helper.make_node("Mul", ["log", "zero"], ["nothing"]),
        helper.make_node("Add", ["marks", "nothing"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {
        **{"weights": np.float32(WEIGHTS.T)[..., None, None], "bias": np.float32(BIAS)},
        **{"pick": pick, "odd": np.float32([0.75]), "zero": np.float32([0])},
    }
    save(odd / "model.onnx", nodes, (2, SIDE, SIDE), [1, SIDE, SIDE], constants)
    text = (odd / "bundle.toml").read_text("utf-8")
    old, new = (bundles.sha256_of(one / "model.onnx") for one in (made.folder, odd))
    (odd / "bundle.toml").write_text(text.replace(old, new), "utf-8")
    model_golden.renew(odd, (), decoder)
    _, result = analysed(tall(), slices=with_metal, bundle=odd)
    assert result.outcome is Outcome.PARTIAL
    (lost,) = [image for image in result.images if image.probability is None]
    assert (lost.position_mm, lost.reason) == (
        *(0.0,),
        "the model gave a value that is no probability",
    )
    assert f"{len(tall()) - 1} of {len(tall())} slices analysed" in result.reason


def test_what_pads_a_slice_is_no_part_of_the_patient(
    analysed: Analysed, made: Made, tmp_path: Path
) -> None:
    """Padded with 75 HU, everything beside a narrow slice would be blood."""
    padded = made.edited(tmp_path / "padded", neighbours="neighbours = 0\npadding = 75.0")
    _, result = analysed(
        tall(), slices=lambda at: np.ascontiguousarray(head(at)[:, 12:-12]), bundle=padded
    )
    assert result.finding is not None
    assert result.finding.volume_ml == pytest.approx(BALL_ML, rel=0.06)


@pytest.mark.parametrize(
    "lines", ['crop = "head"', 'crop = "none"\nspacing_mm = 1.5'], ids=["head", "scaled"]
)
def test_the_part_that_the_model_is_shown_does_not_change_the_volume(
    analysed: Analysed, made: Made, tmp_path: Path, lines: str
) -> None:
    part = made.edited(tmp_path / "part", crop=lines)
    _, result = analysed(tall(), bundle=part)
    assert result.finding is not None
    assert result.finding.volume_ml == pytest.approx(BALL_ML, rel=0.05)


def test_specks_that_are_smaller_than_an_area_do_not_count(
    analysed: Analysed, made: Made, tmp_path: Path
) -> None:
    least = made.edited(tmp_path / "least", volume_ml="volume_ml = 2.0\narea_mm2 = 600.0")
    _, result = analysed(tall(), bundle=least)
    large = [at for at in tall() if ball(at).sum() * PIXEL_MM**2 >= 600]
    assert result.finding is not None
    assert result.finding.positive_slices == len(large)
    assert [image.explanation is not None for image in result.images] == [
        at in large for at in tall()
    ]
