"""A study gets an outcome that is always said; what cannot be read never stops the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.errors import Busy, Transient
from limen.result import Outcome, Result
from tests.support import synthetic
from tests.support.predictions import BUNDLE, MEMBERS, STAMP, instances, predict
from tests.support.synthetic import SERIES, STUDY, BrightBlood
from worker.bundles.manifest import StudyRule
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine, Lane
from worker.study.parts import Read, read_headers
from worker.study.prediction import not_analysed, predict_study


def test_a_study_with_a_lesion_is_positive(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    output = predict(synthetic.series(tmp_path, 4, lesion_in=(2, 3)), decoder, engine)
    result = output.result
    assert (result.outcome, result.reason) == (
        Outcome.POSITIVE,
        "2 of 4 slices at or above 0.5",
    )
    assert result.finding is not None
    assert (result.finding.positive_slices, result.finding.analysed_slices) == (2, 4)
    # The slices are numbered against the geometry, so the order is turned.
    assert [image.sop_uid[-1] for image in result.images] == ["4", "3", "2", "1"]
    assert [image.positive for image in result.images] == [False, True, True, False]
    assert set(result.file_names()) == set(output.files)
    assert (result.revision, result.study.patient_name) == (2, "Test^Person")
    assert Result.from_json(result.to_json()) == result


def test_a_study_without_lesion_is_negative(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    result = predict(synthetic.series(tmp_path), decoder, engine).result
    assert (result.outcome, result.reason) == (
        Outcome.NEGATIVE,
        "none of 4 slices at or above 0.5",
    )


def test_a_study_that_divides_the_members_is_undetermined(
    tmp_path: Path, decoder: Decoder, members: Engine
) -> None:
    result = predict(
        synthetic.series(tmp_path, 4, lesion_in=(2, 3)), decoder, members, MEMBERS
    ).result
    assert (result.outcome, result.reason) == (
        Outcome.UNDETERMINED,
        "the members of the model disagree: 0.30 to 0.99; study 0.64, at or above 0.5; "
        "none of 4 slices at or above 0.9",
    )
    assert result.finding is not None
    assert [round(p, 2) for p in result.finding.members] == [0.99, 0.3]
    assert [set(image.probability or {}) for image in result.images] == [{"any"}] * 4
    assert Result.from_json(result.to_json()) == result


def test_members_that_agree_leave_the_study_negative(
    tmp_path: Path, decoder: Decoder, members: Engine
) -> None:
    result = predict(synthetic.series(tmp_path), decoder, members, MEMBERS).result
    assert (result.outcome, result.reason) == (
        Outcome.NEGATIVE,
        "study 0.01, below 0.5; none of 4 slices at or above 0.9",
    )


def test_a_lone_slice_is_positive_in_a_study_that_its_neighbours_make_negative(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    ruled = replace(BUNDLE, study=StudyRule(smooth_mm=1, threshold=0.5, chosen="by hand"))
    result = predict(synthetic.series(tmp_path, 4, lesion_in=(2,)), decoder, engine, ruled).result
    assert result.outcome is Outcome.NEGATIVE
    assert result.reason.endswith("below 0.5; 1 of 4 slices at or above 0.5")
    assert [image.positive for image in result.images] == [False, False, True, False]
    assert result.wants_explanation


@pytest.mark.parametrize("broken", ["header", "pixels"])
def test_an_unreadable_slice_makes_a_clean_study_partial(
    tmp_path: Path, decoder: Decoder, engine: Engine, broken: str
) -> None:
    paths = synthetic.series(tmp_path)
    body = paths[1].read_bytes()
    paths[1].write_bytes(b"broken" if broken == "header" else body[:-1000])
    result = predict(paths, decoder, engine).result
    assert result.outcome is Outcome.PARTIAL
    assert result.reason.startswith("3 of 4 slices analysed")
    lost = [image for image in result.images if image.probability is None]
    assert [image.sop_uid for image in lost] == [f"{SERIES}.2"]
    assert lost[0].reason
    assert result.series[0].instances == 4


def test_a_positive_study_says_that_slices_are_missing(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, lesion_in=(3,))
    paths[0].write_bytes(b"broken")
    result = predict(paths, decoder, engine).result
    assert result.outcome is Outcome.POSITIVE
    assert "3 of 4 slices analysed; 1 of 4 instances cannot be read" in result.reason


def test_a_study_of_unreadable_files_says_so(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 2)
    for path in paths:
        path.write_bytes(b"broken")
    result = predict(paths, decoder, engine).result
    assert result.outcome is Outcome.NOT_ANALYSED
    assert "2 of 2 instances cannot be read" in result.reason
    assert result.series[0].reason == "none of its instances can be read"
    assert result.study.study_uid == STUDY


def test_slices_that_no_model_answers_leave_the_study_not_analysed(
    tmp_path: Path, decoder: Decoder
) -> None:
    class Broken:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            if batch.any():  # the golden tensor is all air
                raise RuntimeError("no")
            return np.full((len(batch), 1), 0.01, np.float32)

    with Engine(BUNDLE, backend=Broken()) as engine:
        result = predict(synthetic.series(tmp_path, 2), decoder, engine).result
    assert result.outcome is Outcome.NOT_ANALYSED
    assert "the model failed" in result.reason
    assert result.finding is None


def test_a_study_that_no_route_takes_still_names_its_patient(
    tmp_path: Path, decoder: Decoder
) -> None:
    read = read_headers(instances(synthetic.series(tmp_path, 2)), decoder)
    result = not_analysed(STUDY, read, "no route takes modality CT", STAMP).result
    assert result.outcome is Outcome.NOT_ANALYSED
    assert result.study.patient_id == "P1"
    assert [s.selected for s in result.series] == [False]
    assert result.model is None
    empty = not_analysed(STUDY, Read((), ()), "failed", STAMP).result
    assert Result.from_json(empty.to_json()).study.study_uid == STUDY


def test_a_busy_engine_is_for_the_caller_to_try_again(tmp_path: Path, decoder: Decoder) -> None:
    full_with_one = config.Engine(max_queue=1, max_wait_ms=1000)
    with Engine(BUNDLE, full_with_one, backend=BrightBlood()) as engine, pytest.raises(Busy):
        predict(synthetic.series(tmp_path, 2), decoder, engine)


class Immediate:
    """A decoder that is always faster than the model."""

    def __init__(self) -> None:
        self.given = 0

    def hounsfield_many(self, items: Iterable[tuple[Path, int]]) -> Iterator[np.ndarray]:
        for _ in items:
            self.given += 1
            yield synthetic.head_hu().astype(np.float32)


class Slow:
    """A model that takes 0.6 s a slice, on a clock that it moves on itself."""

    def __init__(self, decoder: Immediate) -> None:
        self.now_s = 0.0
        self.slices = 0
        self._decoder = decoder

    def clock(self) -> float:
        return self.now_s + time.monotonic()

    def predict(self, batch: np.ndarray) -> np.ndarray:
        if not self.slices:  # the study has time to ask for all that it wants
            before = -1
            while before != self._decoder.given:
                before = self._decoder.given
                threading.Event().wait(0.3)
        self.now_s += 0.6 * len(batch)
        self.slices += int(batch.any(axis=(1, 2, 3)).sum())  # the rest is padding
        return np.full((len(batch), 1), 0.01, np.float32)


def slices_of_one_instance(count: int, folder: Path, decoder: Decoder) -> Read:
    dataset = synthetic.enhanced([synthetic.head_hu()] * count, [float(n) for n in range(count)])
    return read_headers(instances([synthetic.save(dataset, folder, "1.dcm")]), decoder)


def test_a_large_study_is_done_however_slow_the_model_and_its_progress_is_seen(
    tmp_path: Path, decoder: Decoder
) -> None:
    read = slices_of_one_instance(300, tmp_path, decoder)
    model = Slow(decoder := Immediate())
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        assert (done, total) == (len(seen) + 1, 300)
        seen.append((done, model.slices))

    # Settings and deadlines are those that ship; it would take three minutes.
    with Engine(BUNDLE, backend=model, clock=model.clock) as engine:
        result = predict_study(
            STUDY, read, decoder, engine, BUNDLE, STAMP, progress=progress
        ).result
    assert (result.outcome, len(result.images)) == (Outcome.NEGATIVE, 300)
    assert model.now_s >= 179.9  # sums of 0.6 may end just below
    # What is told is never more than two batches behind what the model has answered.
    assert all(run - done <= 2 * 32 for done, run in seen)


def test_a_study_that_is_given_up_leaves_nothing_in_the_queue_of_the_model(
    tmp_path: Path, decoder: Decoder
) -> None:
    read = slices_of_one_instance(200, tmp_path, decoder)
    model = Slow(decoder := Immediate())

    def progress(done: int, total: int) -> None:
        raise Transient("the journal is away")

    with Engine(BUNDLE, backend=model, clock=model.clock) as engine:
        with pytest.raises(Transient, match="the journal is away"):
            predict_study(STUDY, read, decoder, engine, BUNDLE, STAMP, progress=progress)
        engine.submit(np.zeros((1, *BUNDLE.input_shape), np.float32), Lane.PREDICT).result(20)
    assert model.slices <= 3 * 32


def test_frames_of_an_enhanced_instance_are_analysed(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    frames = [synthetic.head_hu(), synthetic.head_hu(lesion=True), synthetic.head_hu()]
    path = synthetic.save(synthetic.enhanced(frames, [3.0, 2.0, 1.0]), tmp_path, "1.dcm")
    result = predict([path], decoder, engine).result
    assert [(i.frame, i.positive) for i in result.images] == [(3, False), (2, True), (1, False)]


def test_a_model_that_hangs_is_given_up_and_the_study_is_tried_again(
    tmp_path: Path, decoder: Decoder
) -> None:
    door, lost = threading.Event(), threading.Event()
    later_s = 0.0

    class Hangs:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            nonlocal later_s
            later_s = 121  # all that the shipped deadline allows, and one second
            assert door.wait(20)
            return np.full((len(batch), 1), 0.5, np.float32)

    def clock() -> float:
        return time.monotonic() + later_s

    with Engine(BUNDLE, backend=Hangs(), on_lost=lost.set, clock=clock) as engine:
        with pytest.raises(Transient, match="gave no answer to a batch"):
            predict(synthetic.series(tmp_path, 2), decoder, engine)
        assert lost.is_set()
        door.set()
