"""A bundle that looks for several findings: each is told, the worst speaks for the study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from limen.result import Outcome, Phase, Result
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import of_means
from worker.dicom.decoder import Decoder
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

LABELS = """
[[label]]
name = "haemorrhage"
meaning = "Intracranial hemorrhage"
code = ["1386000", "SCT"]

[[label]]
name = "fracture"
meaning = "Fracture of skull"
code = ["71642004", "SCT"]
threshold = 0.3

[[label]]
name = "artefact"
meaning = "Artefact"
code = ["47973001", "SCT"]
"""
WEIGHTS = np.array([[20.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 60.0, 0.0]])
BIAS = (-8.5, -14.5, 0.0)
"""Blood is what makes the brain bright, a fracture what makes the bone window bright."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three labels of which two are findings; its answers are known by hand."""
    folder = tmp_path_factory.mktemp("findings")
    of_means(folder / "model.onnx", (64, 64, 3), WEIGHTS, BIAS)
    wishes = Wishes(
        labels=("haemorrhage", "fracture", "artefact"),
        scale=(0.0, 1.0),
        windows=((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0)),
    )
    made = make(folder / "model.onnx", folder / "bundle", wishes).bundle.folder
    text = (made / "bundle.toml").read_text("utf-8")
    head, _, rest = text.partition("[[label]]")
    text = head + LABELS + "\n[decision]" + rest.partition("[decision]")[2]
    text = text.replace("[accepts]", '[accepts]\nmin_extent_mm = 0\nlooks_like = ""', 1)
    (made / "bundle.toml").write_text(text.replace("# guessed: check it", ""), "utf-8")
    return made


def expected(hu: np.ndarray) -> np.ndarray:
    """Return what the model says of a slice of 64 x 64, in NumPy alone."""
    windows = ((40, 80), (80, 200), (600, 2800))
    means = [np.clip((hu - (c - w / 2)) / w, 0, 1).mean() for c, w in windows]
    return 1 / (1 + np.exp(-(np.array(means) @ WEIGHTS + np.array(BIAS))))


PLAIN, BLOOD, BONE = (
    synthetic.head_hu(),
    np.where(synthetic.head_hu() == 35, 75, synthetic.head_hu()),
    np.where(synthetic.head_hu() == 800, 1900, synthetic.head_hu()),
)


@pytest.fixture
def analysed(
    bundle: Path, decoder: Decoder, tmp_path: Path
) -> Callable[..., tuple[BundleWorker, list[Result]]]:
    def run(*slices: np.ndarray, kinds: tuple[str, ...] = (), without: tuple[int, ...] = ()) -> Any:
        explain = {"samples": 20, "superpixels": 4}
        with BundleWorker(tmp_path, bundle, decoder, kinds, explain=explain) as worker:
            paths = [
                synthetic.save(
                    synthetic.instance(
                        n, pixels=hu.astype(np.int16), FrameOfReferenceUID=f"{synthetic.STUDY}.9"
                    ),
                    worker.spool,
                    f"{n}.dcm",
                )
                for n, hu in enumerate(slices, start=1)
                if n not in without
            ]
            return worker, worker.analyse(paths)

    return run


def test_the_numbers_of_each_label_are_those_that_the_model_gives_by_hand(
    analysed: Callable[..., Any],
) -> None:
    _, (result, *_) = analysed(PLAIN, BLOOD, BONE)
    for image, hu in zip(result.images, (PLAIN, BLOOD, BONE), strict=True):
        told = [image.probability[name] for name in ("haemorrhage", "fracture", "artefact")]
        assert told == pytest.approx(list(expected(hu)), abs=1e-5)
    assert result.model.thresholds == {"haemorrhage": 0.5, "fracture": 0.3}
    assert [one.label for one in result.findings] == ["haemorrhage", "fracture"]


def test_a_study_is_positive_where_one_finding_is_and_the_worst_speaks_for_it(
    analysed: Callable[..., Any],
) -> None:
    worker, documents = analysed(PLAIN, BONE, PLAIN)
    prediction, explanation = documents
    assert prediction.outcome is Outcome.POSITIVE
    assert prediction.finding.label == "fracture"
    assert prediction.finding.code == ("71642004", "SCT")
    haemorrhage, fracture = prediction.findings
    assert (haemorrhage.positive_slices, fracture.positive_slices) == (0, 1)
    assert fracture == prediction.finding
    assert prediction.reason == (
        "fracture: 1 of 3 slices at or above 0.3; haemorrhage: none of 3 slices at or above 0.5"
    )
    assert [image.positive for image in prediction.images] == [False, True, False]
    assert worker.row.outcome == "positive"
    (told,) = explanation.explanations
    assert (told.label, told.sop_uid) == ("fracture", f"{synthetic.SERIES}.2")
    assert told.probability == pytest.approx(expected(BONE)[1], abs=1e-5)


def test_each_positive_slice_is_explained_for_what_it_is_positive_for(
    analysed: Callable[..., Any],
) -> None:
    _, (_, explanation) = analysed(BLOOD, PLAIN, BONE)
    labels = {told.sop_uid: told.label for told in explanation.explanations}
    assert labels == {
        f"{synthetic.SERIES}.1": "haemorrhage",
        f"{synthetic.SERIES}.3": "fracture",
    }


def test_a_study_is_negative_where_no_finding_is_there_and_all_was_looked_at(
    analysed: Callable[..., Any],
) -> None:
    _, (result,) = analysed(PLAIN, PLAIN, PLAIN)
    assert result.outcome is Outcome.NEGATIVE
    assert "haemorrhage: none of 3 slices" in result.reason
    assert "fracture: none of 3 slices" in result.reason


def test_a_missing_slice_leaves_no_finding_negative(analysed: Callable[..., Any]) -> None:
    _, (result,) = analysed(*[PLAIN] * 7, without=(4,))
    assert result.outcome is Outcome.PARTIAL
    assert "1 gap between slices" in result.reason


def test_the_report_has_each_finding_with_its_code_and_its_slices(
    analysed: Callable[..., Any],
) -> None:
    worker, _ = analysed(BLOOD, PLAIN, BONE, kinds=("sr", "seg", "ko"))
    objects = {
        phase: {one.kind: pydicom.dcmread(one.path) for one in found}
        for phase, found in worker.web.objects.items()
    }
    report = objects[Phase.PREDICTION]["sr"]
    told = [item.TextValue for item in _items(report) if "TextValue" in item]
    assert any(text.startswith("Fracture of skull: probability 0.") for text in told)
    groups = [
        item.ConceptCodeSequence[0].CodeValue
        for item in _items(report)
        if "ConceptNameCodeSequence" in item
        and item.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    ]
    assert sorted(groups) == ["1386000", "71642004"]
    key_images = objects[Phase.PREDICTION]["ko"].CurrentRequestedProcedureEvidenceSequence[0]
    (series,) = key_images.ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == 2


def _items(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Yield every item of the content of a report."""
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from _items(item)
