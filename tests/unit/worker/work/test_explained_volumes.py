"""A model that sees all slices at once is explained as a whole, in slices of what it rests on.

The model is real (ONNX) and looks at one ball in a head; another ball, as bright and beside it, is
nothing to it. So it is known what an explanation has to show.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image

from limen import config
from limen.result import Outcome, Phase, Result
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import of_voxels
from tests.support.predictions import STAMP, instances, predict
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study.explanation import explain_study
from worker.study.render import FOR_RGB, MAX_ALPHA
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes
from worker.work.instances import LOST as NOT_ARCHIVED

SIDE, PIXEL_MM, DEPTH = 64, 3.0, 16
HIGH_MM = 60.0
"""From the middle of the head to its top, and to its lowest slice."""

SEEN_MM, UNSEEN_MM, RADIUS_MM = (10.0, -30.0, 20.0), (10.0, 30.0, -20.0), 15.0
"""z, y and x of the middle of what the model looks at, and of what it does not: 14 ml each."""

BRAIN_HU, BLOOD_HU = 35, 70
GAIN = 20.0


def ball(middle_mm: tuple[float, float, float], z_mm: float) -> np.ndarray:
    """Return (rows, columns) bool: where a ball is in a slice."""
    z, y, x = middle_mm
    down, across = (np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2) * PIXEL_MM
    return np.asarray((down - y) ** 2 + (across - x) ** 2 + (z_mm - z) ** 2 < RADIUS_MM**2)


def head(z_mm: float, *balls: tuple[float, float, float]) -> np.ndarray:
    """Return (rows, columns) int16, HU: skull, brain that is not all alike, and blood."""
    down, across = (np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2) * PIXEL_MM
    far = (down / 85) ** 2 + (across / 70) ** 2 + (z_mm / (1.2 * HIGH_MM)) ** 2
    grain = np.random.default_rng(round(10 * z_mm) + 10_000).normal(0, 3, (SIDE, SIDE))
    hu = np.where(far < 1, 900, -1000)
    hu = np.where(far < 0.82, BRAIN_HU + grain, hu)
    for middle_mm in balls:
        hu = np.where(ball(middle_mm, z_mm) & (far < 0.82), BLOOD_HU + grain, hu)
    return hu.astype(np.int16)


def heights(step_mm: float) -> list[float]:
    return [float(z) for z in np.arange(-HIGH_MM + step_mm / 2, HIGH_MM, step_mm)]


def bundle(folder: Path, lines: str = "", *, down: bool = False, **wishes: Any) -> Path:
    depth_mm = wishes.get("depth_mm") or 2 * HIGH_MM / DEPTH
    places_mm = (np.arange(DEPTH) + 0.5 - DEPTH / 2) * depth_mm + wishes.pop("around_mm", 0.0)
    places_mm = places_mm[::-1] if down else places_mm
    looks_at = [np.stack([ball(at, z) for z in places_mm]) for at in wishes.pop("at", [SEEN_MM])]
    middle = (BRAIN_HU + BLOOD_HU) / 2 / 80
    weights = [GAIN * seen / seen.sum() for seen in looks_at]
    of_voxels(folder / "model.onnx", weights, [-GAIN * middle] * len(weights))
    said = Wishes(scale=(0.0, 1.0), windows=((40.0, 80.0),), body_part=("CHEST",), **wishes)
    made = make(folder / "model.onnx", folder / "bundle", said).bundle
    path = made.folder / "bundle.toml"
    path.write_text(path.read_text("utf-8") + lines, "utf-8")
    return made.folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("volumes"))


def written(folder: Path, *balls: tuple[float, float, float], step_mm: float = 5.0) -> list[Path]:
    """Write a head, from its lowest slice up."""
    return [
        synthetic.save(
            synthetic.instance(
                n,
                at,
                pixels=head(at, *balls),
                BodyPartExamined="CHEST",
                PixelSpacing=[PIXEL_MM, PIXEL_MM],
                SliceThickness=step_mm,
                FrameOfReferenceUID=f"{synthetic.STUDY}.9",
            ),
            folder,
            f"{n}.dcm",
        )
        for n, at in enumerate(heights(step_mm), start=1)
    ]


Analysed = Callable[..., tuple[list[Result], dict[str, bytes]]]


@pytest.fixture
def analysed(plain: Path, decoder: Decoder, tmp_path: Path) -> Iterator[Analysed]:
    """Let the worker do all of a study; return its documents and pictures."""
    workers: list[BundleWorker] = []

    def run(
        *balls: tuple[float, float, float],
        step_mm: float = 5.0,
        with_bundle: Path | None = None,
        before: Callable[[Sequence[Path]], object] = lambda paths: None,
        between: Callable[[Sequence[Path]], object] = lambda paths: None,
        **explain: Any,
    ) -> tuple[list[Result], dict[str, bytes]]:
        worker = BundleWorker(
            tmp_path / f"node{len(workers)}", with_bundle or plain, decoder, explain=explain
        )
        workers.append(worker)
        paths = written(worker.spool, *balls, step_mm=step_mm)
        before(paths)
        return worker.analyse(paths, lambda: between(paths)), worker.files()

    yield run
    for worker in workers:
        worker.__exit__(None, None, None)


def shown(result: Result, files: dict[str, bytes]) -> dict[float, np.ndarray]:
    """Return height -> (rows, columns) float, -1..1: what an overlay says, for or against."""
    found = {}
    for image in result.images:
        if image.explanation is not None:
            assert image.position_mm is not None
            with Image.open(io.BytesIO(files[image.explanation])) as picture:
                rgba = np.asarray(picture)
            speaks_for = (rgba[..., :3] == FOR_RGB).all(axis=-1)
            strength = rgba[..., 3].astype(float) / MAX_ALPHA
            found[image.position_mm] = np.where(speaks_for, strength, -strength)
    return found


def overlap(overlays: dict[float, np.ndarray], middle_mm: tuple[float, float, float]) -> float:
    """Return the IoU of the strongest region with a ball, over all slices that are shown."""
    strongest = np.stack([one == 1 for one in overlays.values()])
    real = np.stack([ball(middle_mm, z_mm) for z_mm in overlays])
    return float((strongest & real).sum() / (strongest | real).sum())


@pytest.mark.parametrize("step_mm", [2.5, 5.0, 10.0])
def test_the_strongest_supervoxel_is_where_the_model_looks(
    analysed: Analysed, step_mm: float
) -> None:
    (predicted, result), files = analysed(SEEN_MM, UNSEEN_MM, step_mm=step_mm, max_explained=100)
    assert predicted.outcome is Outcome.POSITIVE
    assert predicted.wants_explanation
    assert (result.phase, result.reason) == (Phase.EXPLANATION, predicted.reason)
    overlays = shown(result, files)
    touched = [z for z in heights(step_mm) if ball(SEEN_MM, z).any()]
    assert len(set(touched) & set(overlays)) >= min(len(touched), 4) - 1
    assert overlap(overlays, SEEN_MM) >= 0.7
    assert overlap(overlays, UNSEEN_MM) == 0
    elsewhere = [abs(one[ball(UNSEEN_MM, z)]).max() for z, one in overlays.items()
                 if ball(UNSEEN_MM, z).any()]  # fmt: skip
    assert max(elsewhere) < 0.25


def test_one_linear_model_is_of_all_slices_and_says_so(analysed: Analysed) -> None:
    (_, result), files = analysed(SEEN_MM)
    assert 3 <= len(result.explanations) <= 5
    first = result.explanations[0]
    assert first.method == "LIME, settled"
    assert "one linear model of all 16 slices at once" in first.parameters
    assert (first.poor, first.label) == (False, "positive")
    assert first.second_opinion is not None
    assert first.second_opinion.verdict == "agrees"
    assert result.finding is not None
    assert first.probability == pytest.approx(result.finding.probability, abs=1e-5)
    assert first.without_strongest is not None
    assert first.without_strongest < 0.1
    weights = [one.weight for one in first.superpixels]
    assert 20 < len(weights) <= 40
    for one in result.explanations:
        assert [s.weight for s in one.superpixels] == weights
        assert one.fidelity_r2 == first.fidelity_r2 >= 0.9
        strongest = one.superpixels[int(np.argmax(weights))]
        assert strongest.area_px > 0  # else the slice had nothing to show
    places = [z for z in shown(result, files) if ball(SEEN_MM, z).any()]
    assert max(places) - min(places) >= RADIUS_MM
    assert Result.from_json(result.to_json()) == result


def test_a_negative_volume_is_not_explained(analysed: Analysed) -> None:
    (only,), _ = analysed(UNSEEN_MM)
    assert only.finding is not None
    assert only.finding.probability < 0.1
    assert only.outcome is not Outcome.POSITIVE
    assert not only.wants_explanation


def test_the_same_study_is_explained_by_the_same_bytes(analysed: Analysed) -> None:
    (_, once), files = analysed(SEEN_MM, samples=60)
    (_, again), others = analysed(SEEN_MM, samples=60)
    assert once.explanations == again.explanations
    assert files == others


def test_a_model_that_sees_the_head_from_above_is_explained_at_the_same_place(
    analysed: Analysed, tmp_path: Path
) -> None:
    downwards = bundle(tmp_path, down=True, preparation={"direction": "down"})
    (_, result), files = analysed(SEEN_MM, with_bundle=downwards, max_explained=100)
    assert overlap(shown(result, files), SEEN_MM) >= 0.7


def test_of_a_longer_acquisition_the_part_that_was_highest_is_explained(
    analysed: Analysed, tmp_path: Path
) -> None:
    near = bundle(tmp_path, depth_mm=5.0, around_mm=HIGH_MM - 8 * 5.0)
    (_, result), files = analysed(SEEN_MM, with_bundle=near, max_explained=100)
    assert result.outcome is Outcome.POSITIVE
    assert overlap(shown(result, files), SEEN_MM) >= 0.7
    assert min(shown(result, files)) >= HIGH_MM - 16 * 5.0


def test_what_is_normalised_is_cut_as_people_see_it(analysed: Analysed, tmp_path: Path) -> None:
    bright = bundle(tmp_path, preparation={"normalise": "percentile"})
    (_, result), files = analysed(SEEN_MM, with_bundle=bright, max_explained=100)
    assert overlap(shown(result, files), SEEN_MM) >= 0.7


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"mode": "reference"}, "not explained: the reference method is for slices"),
        ({"max_explained": 0}, "no slice is explained (max_explained = 0)"),
    ],
)
def test_a_volume_that_is_not_explained_says_why(
    analysed: Analysed, settings: dict[str, Any], why: str
) -> None:
    (predicted, result), _ = analysed(SEEN_MM, **settings)
    assert result.explanations == []
    assert result.reason.startswith(f"{predicted.reason}; {why}")
    assert result.finding == predicted.finding


def test_a_pacs_gets_report_pictures_and_maps_of_the_explanation(
    plain: Path, decoder: Decoder, tmp_path: Path
) -> None:
    kinds = ("sr", "seg", "sc", "pm", "pr", "ko")
    with BundleWorker(tmp_path / "node", plain, decoder, kinds) as worker:
        worker.analyse(written(worker.spool, SEEN_MM, UNSEEN_MM))
    sent = worker.web.objects[Phase.EXPLANATION]
    assert [one.reason for one in sent if one.path is None] == []
    counts = Counter(one.kind for one in sent)
    assert counts == {"sr": 1, "seg": 1, "pm": 1, "sc": 3, "pr": 4}
    by_kind = {one.kind: pydicom.dcmread(one.path) for one in sent}
    frames = highdicom.seg.Segmentation.from_dataset(by_kind["seg"])
    sources = [f"{synthetic.SERIES}.{n}" for n in range(1, 25)]
    marked = frames.get_pixels_by_source_instance(sources, ignore_spatial_locations=True)[..., 0]
    seen = np.stack([ball(SEEN_MM, z) for z in heights(5.0)])
    unseen = np.stack([ball(UNSEEN_MM, z) for z in heights(5.0)])
    assert (marked > 0)[seen].sum() > 0.5 * seen.sum()
    weights = highdicom.pm.ParametricMap.from_dataset(by_kind["pm"])
    assert weights.pixel_array[seen].mean() > 10 * abs(weights.pixel_array[unseen].mean())
    said = [one.value for one in by_kind["sr"].iterall() if one.keyword == "TextValue"]
    assert any("one linear model explains them at once" in text for text in said)
    named = [one.value for one in by_kind["sr"].iterall() if one.keyword == "CodeMeaning"]
    assert named.count("Probability") == 1  # of the study: no slice has one
    assert named.count("Present") == 2  # the study, in its group and among what is known of it


# -- several findings ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two findings: each looks at a ball of its own."""
    return bundle(
        tmp_path_factory.mktemp("findings"),
        at=[SEEN_MM, UNSEEN_MM],
        labels=("blood", "fracture"),
        thresholds={"fracture": 0.3},
        decision="blood",
        threshold=0.5,
    )


def expected(*balls: tuple[float, float, float], at: tuple[float, float, float]) -> float:
    """Return what is said of a place, by the voxels of the head alone: a sigmoid of their mean."""
    hu = np.stack([head(z, *balls) for z in heights(5.0)]).astype(float)
    # A voxel of the input is 7.5 mm high: what lies within that of it, weighed by how near.
    wanted = (np.arange(DEPTH) + 0.5 - DEPTH / 2) * 2 * HIGH_MM / DEPTH
    near = np.clip(1 - np.abs(wanted[:, None] - np.array(heights(5.0))) / 7.5, 0, None)
    near /= near.sum(axis=1, keepdims=True)
    grey = np.tensordot(near, np.clip(hu / 80, 0, 1), axes=1)
    seen = np.stack([ball(at, z) for z in wanted])
    logit = GAIN * (grey[seen].mean() - (BRAIN_HU + BLOOD_HU) / 2 / 80)
    return float(1 / (1 + np.exp(-logit)))


@pytest.mark.parametrize("balls", [(SEEN_MM,), (UNSEEN_MM,), (SEEN_MM, UNSEEN_MM)])
def test_each_finding_of_a_volume_is_told_and_the_worst_is_explained(
    analysed: Analysed, two: Path, balls: tuple[tuple[float, float, float], ...]
) -> None:
    (predicted, result), files = analysed(*balls, with_bundle=two, max_explained=100)
    blood, fracture = (expected(*balls, at=at) for at in (SEEN_MM, UNSEEN_MM))
    assert predicted.outcome is Outcome.POSITIVE
    told = {one.label: one.probability for one in predicted.findings}
    assert told == pytest.approx({"blood": blood, "fracture": fracture}, abs=1e-4)
    # Of two that are as probable the one of the lower threshold lies farther above it.
    worst, where = ("fracture", UNSEEN_MM) if UNSEEN_MM in balls else ("blood", SEEN_MM)
    assert predicted.finding is not None
    assert (predicted.finding.label, predicted.finding.threshold) == (
        worst,
        {"blood": 0.5, "fracture": 0.3}[worst],
    )
    for name, threshold in (("blood", 0.5), ("fracture", 0.3)):
        side = "at or above" if told[name] >= threshold else "below"
        assert f"{name}: {told[name]:.2f} for the whole, {side} {threshold:g}" in predicted.reason
    assert predicted.reason.startswith(worst)
    assert {one.label for one in result.explanations} == {worst}
    assert result.findings == predicted.findings
    assert result.explanations[0].probability == pytest.approx(told[worst], abs=1e-5)
    overlays = shown(result, files)
    assert overlap(overlays, where) >= 0.7


def test_a_volume_is_negative_where_no_finding_is_there_and_nothing_is_explained(
    analysed: Analysed, two: Path
) -> None:
    (only,), _ = analysed(with_bundle=two)
    told = {one.label: one.probability for one in only.findings}
    plain_head = {"blood": expected(at=SEEN_MM), "fracture": expected(at=UNSEEN_MM)}
    assert told == pytest.approx(plain_head, abs=1e-4)
    assert only.outcome is Outcome.NEGATIVE
    assert not only.wants_explanation


def test_a_report_has_each_finding_of_a_volume(two: Path, decoder: Decoder, tmp_path: Path) -> None:
    with BundleWorker(tmp_path / "node", two, decoder, ("sr", "seg")) as worker:
        worker.analyse(written(worker.spool, SEEN_MM, UNSEEN_MM))
    for phase in (Phase.PREDICTION, Phase.EXPLANATION):
        sent = {one.kind: one.path for one in worker.web.objects[phase]}
        items = list(pydicom.dcmread(sent["sr"]).iterall())
        texts = [one.value for one in items if one.keyword == "TextValue"]
        for name in ("Blood", "Fracture"):
            assert any(text.startswith(f"{name}: probability 0.9") for text in texts), texts
    said = [one.value for one in items if one.keyword == "TextValue"]
    assert any("one linear model explains them at once" in text for text in said)


# -- what becomes of slices meanwhile --------------------------------------------------------------


def gone(path: Path) -> None:
    path.unlink(missing_ok=True)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def garbage(path: Path) -> None:
    path.write_bytes(bytes(1000))


LOST = 13
"""A slice through the ball that the model looks at, from 1."""


@pytest.mark.parametrize("harm", [gone, cut_off, garbage])
def test_where_a_slice_that_was_judged_is_lost_the_prediction_stands_and_it_is_said(
    harm: Callable[[Path], None], plain: Path, decoder: Decoder, tmp_path: Path
) -> None:
    with BundleWorker(tmp_path / "node", plain, decoder, ("sr", "sc", "seg")) as worker:
        paths = written(worker.spool, SEEN_MM)
        predicted, result = worker.analyse(paths, lambda: harm(paths[LOST - 1]))
        assert {job.phase: job.state for job in worker.row.jobs} == {
            "prediction": "done",
            "explanation": "done",
        }
        assert worker.row.outcome == "positive"
    assert predicted.outcome is result.outcome is Outcome.POSITIVE
    assert result.finding == predicted.finding
    assert result.images == predicted.images
    assert result.explanations == []
    start = f"{predicted.reason}; not explained: slice {LOST} cannot be read any more: "
    assert result.reason.startswith(start)
    assert len(result.reason) > len(start)
    report = next(one for one in worker.web.objects[Phase.EXPLANATION] if one.kind == "sr")
    assert report.path is not None, report.reason
    said = [
        str(one.value) for one in pydicom.dcmread(report.path).iterall() if one.VR in {"UT", "LO"}
    ]
    assert any("cannot be read any more" in text for text in said)


def test_why_an_instance_is_lost_is_the_reason_that_a_volume_is_not_explained(
    plain: Path, decoder: Decoder, tmp_path: Path
) -> None:
    paths, bundle = written(tmp_path, SEEN_MM), bundles.load(plain)
    with Engine(bundle) as engine:
        predicted = predict(paths, decoder, engine, bundle).result
        known = instances(paths)
        known[LOST - 1] = replace(known[LOST - 1], fault=NOT_ARCHIVED)
        paths[LOST - 1].unlink()  # a worker elsewhere: it is not in the archive as it was received
        settings = config.Explain(samples=40)
        result = explain_study(predicted, known, decoder, engine, bundle, settings, STAMP).result
    assert result.reason == (
        f"{predicted.reason}; not explained: slice {LOST} cannot be read any more: {NOT_ARCHIVED}"
    )
    assert result.finding == predicted.finding


@pytest.mark.parametrize("later", [None, gone, garbage])
def test_what_could_not_be_read_when_it_was_judged_is_no_part_of_the_explanation(
    analysed: Analysed, later: Callable[[Path], None] | None
) -> None:
    whole: list[bytes] = []

    def before(paths: Sequence[Path]) -> None:
        whole.append(paths[LOST - 1].read_bytes())
        cut_off(paths[LOST - 1])

    def between(paths: Sequence[Path]) -> None:
        if later is None:  # it can be read now
            paths[LOST - 1].write_bytes(whole[0])
        else:
            later(paths[LOST - 1])

    (predicted, result), files = analysed(
        SEEN_MM, before=before, between=between, max_explained=100
    )
    assert [image.probability for image in predicted.images].count(None) == 1
    assert predicted.finding is not None
    assert result.reason == predicted.reason
    assert "23 of 24 slices analysed" in result.reason
    first = result.explanations[0]
    assert first.probability == pytest.approx(predicted.finding.probability, abs=1e-6)
    assert f"{synthetic.SERIES}.{LOST}" not in {one.sop_uid for one in result.explanations}
    assert overlap(shown(result, files), SEEN_MM) >= 0.6


def test_a_slice_that_is_set_aside_is_no_part_of_volume_and_explanation(
    analysed: Analysed,
) -> None:
    def tilted(paths: Sequence[Path]) -> None:
        dataset = pydicom.dcmread(paths[0])
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # a scout from the side
        dataset.save_as(paths[0])

    (alone, explained), _ = analysed(SEEN_MM, before=tilted)
    (without, known), _ = analysed(SEEN_MM, before=lambda paths: gone(paths[0]))
    assert alone.finding is not None
    assert without.finding is not None
    assert alone.finding.probability == without.finding.probability
    assert f"{synthetic.SERIES}.1" not in {one.sop_uid for one in alone.images if one.probability}
    assert [one.superpixels for one in explained.explanations] == [
        one.superpixels for one in known.explanations
    ]
    assert explained.explanations[0].probability == pytest.approx(
        alone.finding.probability, abs=1e-6
    )
