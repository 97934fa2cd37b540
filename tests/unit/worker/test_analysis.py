"""A study gets an outcome that is always said; what cannot be read never stops the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen import config
from limen.errors import Busy, Transient
from limen.result import Outcome, Phase, Provenance, Result, Timings
from tests.unit.worker import synthetic
from tests.unit.worker.synthetic import SERIES, STUDY, BrightBlood, fake_bundle
from worker import analysis
from worker.analysis import Instance, Stamp, StudyOutput
from worker.bundle import Explain
from worker.engine import Engine, Lane
from worker.pixels import Decoder

BUNDLE = fake_bundle()
NOW = "2026-01-02T03:04:05Z"
STAMP = Stamp(2, Timings(NOW, NOW), Provenance("0.1.0", "host", "0" * 64))
EXPLAIN = config.Explain(samples=60, superpixels=30, max_explained=2)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(BUNDLE, config.Engine(max_wait_ms=1), backend=BrightBlood()) as running:
        yield running


def instances(paths: list[Path]) -> list[Instance]:
    return [Instance(p, f"{SERIES}.{p.stem}", SERIES) for p in paths]


def predict(paths: list[Path], decoder: Decoder, engine: Engine) -> StudyOutput:
    read = analysis.read_headers(instances(paths), decoder)
    return analysis.predict_study(STUDY, read, decoder, engine, BUNDLE, STAMP)


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
    assert result.reason.endswith("3 of 4 slices analysed")


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
    read = analysis.read_headers(instances(synthetic.series(tmp_path, 2)), decoder)
    result = analysis.not_analysed(STUDY, read, "no route takes modality CT", STAMP).result
    assert result.outcome is Outcome.NOT_ANALYSED
    assert result.study.patient_id == "P1"
    assert [s.selected for s in result.series] == [False]
    assert result.model is None
    empty = analysis.not_analysed(STUDY, analysis.Read((), ()), "failed", STAMP).result
    assert Result.from_json(empty.to_json()).study.study_uid == STUDY


def test_the_most_probable_positive_slices_are_explained(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 4, lesion_in=(1, 2, 3))
    predicted = predict(paths, decoder, engine).result
    done = []
    output = analysis.explain_study(
        predicted, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP,
        progress=lambda n, total: done.append((n, total)),
    )  # fmt: skip
    result = output.result
    assert done == [(1, 2), (2, 2)]
    assert result.phase is Phase.EXPLANATION
    assert len(result.explanations) == len(output.files) == 2
    assert {i.explanation for i in result.images if i.explanation} == set(output.files)
    assert Result.from_json(result.to_json()) == result


def test_what_the_settings_leave_open_the_bundle_says(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 3, lesion_in=(1, 2))
    predicted = predict(paths, decoder, engine).result
    bundle = fake_bundle(explain=Explain(samples=20, superpixels=16, max_explained=1))
    result = analysis.explain_study(
        predicted,
        instances(paths),
        decoder,
        engine,
        bundle,
        config.Explain(superpixels=6, seed=3),
        STAMP,
    ).result
    (found,) = result.explanations
    assert (found.samples, found.seed) == (20, 3)
    assert len(found.superpixels) <= 8


def test_no_slice_is_explained_when_none_is_wanted_and_the_document_says_so(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 2, lesion_in=(1,))
    predicted = predict(paths, decoder, engine).result
    none = config.Explain(max_explained=0)
    output = analysis.explain_study(
        predicted, instances(paths), decoder, engine, BUNDLE, none, STAMP
    )
    assert (output.result.explanations, output.files) == ([], {})
    assert output.result.phase is Phase.EXPLANATION
    assert output.result.reason.endswith("no slice is explained (max_explained = 0)")


def test_explanations_come_in_the_order_of_probability(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 4, lesion_in=(1, 2, 3))
    predicted = predict(paths, decoder, engine).result
    surest = replace(predicted.images[2], probability={"any": 0.999})
    predicted = replace(predicted, images=[*predicted.images[:2], surest, *predicted.images[3:]])
    settings = config.Explain(samples=40, superpixels=12)
    result = analysis.explain_study(
        predicted, instances(paths), decoder, engine, BUNDLE, settings, STAMP
    ).result
    assert [e.sop_uid[-1] for e in result.explanations] == ["2", "3", "1"]


def test_slices_that_are_explained_together_get_what_they_get_alone(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 3, lesion_in=(1, 2, 3))
    predicted = predict(paths, decoder, engine).result

    def explained(settings: config.Explain) -> StudyOutput:
        return analysis.explain_study(
            predicted, instances(paths), decoder, engine, BUNDLE, settings, STAMP
        )

    together = explained(EXPLAIN.model_copy(update={"max_explained": 3}))
    alone = explained(EXPLAIN.model_copy(update={"max_explained": 1}))
    assert together.result.explanations[0] == alone.result.explanations[0]
    assert together.files.items() >= alone.files.items()


def test_a_model_that_gives_no_numbers_fails_the_explanation_and_keeps_the_finding(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    class Lost(BrightBlood):
        def predict(self, batch: np.ndarray) -> np.ndarray:
            return np.full((len(batch), 1), np.nan, np.float32)

    paths = synthetic.series(tmp_path, 2, lesion_in=(1, 2))
    predicted = predict(paths, decoder, engine).result
    with Engine(BUNDLE, config.Engine(max_wait_ms=1), backend=Lost()) as lost:
        result = analysis.explain_study(
            predicted, instances(paths), decoder, lost, BUNDLE, EXPLAIN, STAMP
        ).result
    assert result.finding == predicted.finding
    assert [i.reason[:14] for i in result.images] == ["not explained:"] * 2


def test_the_same_study_gives_the_same_bytes(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 3, lesion_in=(2,))

    def once() -> tuple[bytes, bytes, dict[str, bytes]]:
        first = predict(paths, decoder, engine)
        then = analysis.explain_study(
            first.result, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP
        )
        return first.result.to_json(), then.result.to_json(), first.files | then.files

    assert once() == once()


def test_a_slice_that_cannot_be_explained_says_so_and_the_others_go_on(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 3, lesion_in=(1, 2))
    predicted = predict(paths, decoder, engine).result
    paths[0].unlink()
    result = analysis.explain_study(
        predicted, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP
    ).result
    assert len(result.explanations) == 1
    failed = next(i for i in result.images if i.sop_uid.endswith(".1"))
    assert failed.reason.startswith("not explained: ")


def test_a_busy_engine_is_for_the_caller_to_try_again(tmp_path: Path, decoder: Decoder) -> None:
    full_with_one = config.Engine(max_queue=1, max_wait_ms=1000)
    with Engine(BUNDLE, full_with_one, backend=BrightBlood()) as engine, pytest.raises(Busy):
        predict(synthetic.series(tmp_path, 2), decoder, engine)


def test_an_explanation_that_failed_altogether_keeps_the_finding(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    predicted = predict(synthetic.series(tmp_path, 2, lesion_in=(1,)), decoder, engine).result
    result = analysis.not_explained(predicted, "explanation failed: gone", STAMP).result
    assert replace(result, phase=Phase.PREDICTION, reason=predicted.reason) == predicted
    assert result.reason.endswith("explanation failed: gone")


def test_frames_of_an_enhanced_instance_are_analysed(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    frames = [synthetic.head_hu(), synthetic.head_hu(lesion=True), synthetic.head_hu()]
    path = synthetic.save(synthetic.enhanced(frames, [3.0, 2.0, 1.0]), tmp_path, "1.dcm")
    result = predict([path], decoder, engine).result
    assert [(i.frame, i.positive) for i in result.images] == [(3, False), (2, True), (1, False)]


def test_a_model_that_hangs_is_given_up_and_the_study_is_tried_again(
    tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, lost = threading.Event(), threading.Event()

    class Hangs:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            assert door.wait(20)
            return np.full((len(batch), 1), 0.5, np.float32)

    monkeypatch.setattr(analysis, "ENGINE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(analysis, "BATCH_TIMEOUT_S", 0.2)
    with Engine(BUNDLE, backend=Hangs(), on_lost=lost.set) as engine:
        with pytest.raises(Transient, match="no answer to a batch"):
            predict(synthetic.series(tmp_path, 2), decoder, engine)
        assert lost.is_set()
        door.set()


def test_explanations_keep_to_their_share_while_a_study_is_predicted(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    seen = []
    original = engine.submit

    def submit(tensors: np.ndarray, lane: Lane, timeout_s: float | None = None) -> Any:
        seen.append((lane, engine._batcher._expected))
        return original(tensors, lane, timeout_s)

    engine.submit = submit  # type: ignore[method-assign]
    paths = synthetic.series(tmp_path, 3, lesion_in=(2,))
    predicted = predict(paths, decoder, engine).result
    assert seen == [(Lane.PREDICT, 1)] * 3
    analysis.explain_study(predicted, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP)
    assert set(seen[3:]) == {(Lane.EXPLAIN, 0)}
