"""A model that sees all slices at once: at its depth, and never negative by what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen.command.edge import OK
from limen.result import Outcome, Result, Task
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import of_depths
from worker.dicom.decoder import Decoder
from worker.tools import model_tool
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

DEPTH, SIDE = 8, 32
WEIGHTS = np.linspace(-3, 5, DEPTH)[:, None]
BIAS = (-4.0,)
"""The higher it is bright, the more probable."""


def expected(levels: list[float]) -> float:
    """Return what the model says of slices of these levels, 0..1, from the feet up."""
    return float(1 / (1 + np.exp(-(np.array(levels) @ WEIGHTS[:, 0] + BIAS[0]))))


Analysed = Callable[..., Result]


def bundle(folder: Path, lines: str = "", **wishes: Any) -> Path:
    of_depths(folder / "model.onnx", (SIDE, SIDE), WEIGHTS, BIAS)
    said = Wishes(scale=(0.0, 1.0), windows=((40.0, 80.0),), body_part=("CHEST",), **wishes)
    made = make(folder / "model.onnx", folder / "bundle", said).bundle
    assert (made.task, made.input_shape) == (Task.VOLUME, (DEPTH, SIDE, SIDE, 1))
    text = (made.folder / "bundle.toml").read_text("utf-8")
    text = text.replace("[output]", f"{lines}\n[output]", 1)
    (made.folder / "bundle.toml").write_text(text, "utf-8")
    return made.folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("volumes"))


@pytest.fixture
def analysed(plain: Path, decoder: Decoder, tmp_path: Path) -> Iterator[Analysed]:
    """Let the worker look at slices of one level each; None is a slice that cannot be read."""
    workers: list[BundleWorker] = []

    def run(
        levels: list[float | None],
        *,
        with_bundle: Path | None = None,
        without: tuple[int, ...] = (),
        **elements: Any,
    ) -> Result:
        worker = BundleWorker(tmp_path / "node", with_bundle or plain, decoder)
        workers.append(worker)
        paths = []
        for number, level in enumerate(levels, start=1):
            if number in without:
                continue
            pixels = np.full((SIDE, SIDE), round(80 * (level or 0)), np.int16)
            dataset = synthetic.instance(
                number, pixels=pixels, **{"BodyPartExamined": "CHEST"} | elements
            )
            paths.append(synthetic.save(dataset, worker.spool, f"{number}.dcm"))
            if level is None:
                paths[-1].write_bytes(paths[-1].read_bytes()[:-500])
        document, *_ = worker.analyse(paths)  # and, where it is positive, its explanation
        return document

    yield run
    for worker in workers:
        worker.__exit__(None, None, None)


RISING = [n / 10 for n in range(8)]


def test_slices_of_its_own_number_are_given_as_they_are(analysed: Analysed) -> None:
    result = analysed(RISING)
    assert result.finding is not None
    assert result.finding.probability == pytest.approx(expected(RISING), abs=1e-5)
    assert result.outcome is (Outcome.POSITIVE if expected(RISING) >= 0.5 else Outcome.NEGATIVE)
    assert [image.probability for image in result.images] == [{}] * 8
    assert (result.finding.analysed_slices, result.finding.slices) == (8, 8)
    assert result.wants_explanation is (result.outcome is Outcome.POSITIVE)


def test_more_slices_are_weighed_together_and_fewer_are_drawn_out(analysed: Analysed) -> None:
    twice = analysed([level for level in RISING for _ in range(2)])
    assert twice.finding is not None
    assert twice.finding.probability == pytest.approx(expected(RISING), abs=0.06)


def test_it_does_not_matter_in_which_order_the_files_were_numbered(
    analysed: Analysed, plain: Path
) -> None:
    result = analysed(RISING[::-1], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    assert result.finding is not None
    assert result.finding.probability == pytest.approx(expected(RISING[::-1]), abs=1e-5)


def test_of_a_longer_acquisition_the_part_with_the_highest_answer_counts(
    analysed: Analysed, tmp_path: Path
) -> None:
    apart = bundle(tmp_path, depth_mm=1.0)
    levels = [0.0] * 12 + [1.0] * 4
    result = analysed(levels, with_bundle=apart)
    assert result.finding is not None
    assert result.finding.probability == pytest.approx(expected([0.0] * 4 + [1.0] * 4), abs=1e-5)
    assert result.outcome is Outcome.POSITIVE


def test_of_a_shorter_acquisition_the_rest_is_air(analysed: Analysed, tmp_path: Path) -> None:
    apart = bundle(tmp_path, depth_mm=1.0)
    result = analysed([1.0] * 4, with_bundle=apart)
    assert result.finding is not None
    assert result.finding.probability == pytest.approx(expected([0, 0, 1, 1, 1, 1, 0, 0]), abs=1e-5)


def test_from_the_head_to_the_feet_where_the_bundle_says_so(
    analysed: Analysed, tmp_path: Path
) -> None:
    down = bundle(tmp_path, preparation={"direction": "down"})
    result = analysed(RISING, with_bundle=down)
    assert result.finding is not None
    assert result.finding.probability == pytest.approx(expected(RISING[::-1]), abs=1e-5)


@pytest.mark.parametrize("lost", [[3], [0, 1], [7]])
def test_a_slice_that_cannot_be_read_is_told_and_the_study_is_never_negative(
    analysed: Analysed, lost: list[int]
) -> None:
    levels: list[float | None] = [None if n in lost else 0.0 for n in range(8)]
    result = analysed(levels)
    assert result.outcome is Outcome.PARTIAL
    assert f"{8 - len(lost)} of 8 slices analysed" in result.reason
    assert sum(image.probability is None for image in result.images) == len(lost)


def test_a_missing_slice_is_told_and_the_study_is_never_negative(analysed: Analysed) -> None:
    levels = [0.0] * 9
    result = analysed(levels, without=(5,))
    assert result.outcome is Outcome.PARTIAL
    assert "1 gap between slices" in result.reason


def test_what_the_model_is_given_is_written_for_its_author(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study := tmp_path / "study").mkdir()
    for number, level in enumerate(RISING, start=1):
        pixels = np.full((SIDE, SIDE), round(80 * level), np.int16)
        synthetic.save(
            synthetic.instance(number, pixels=pixels, BodyPartExamined="CHEST"),
            study,
            f"{number}.dcm",
        )
    tensor = tmp_path / "tensor.npy"
    words = ["preprocess", str(study), "--bundle", str(plain), "-o", str(tensor)]
    assert model_tool.main(words) == OK
    assert "1 x 1 x 8 x 32 x 32 float32" in capsys.readouterr().out
    np.testing.assert_allclose(np.load(tensor)[0, 0, :, 5, 5], RISING, atol=1e-5)
