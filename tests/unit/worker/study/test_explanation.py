"""The most probable positive slices are explained; one that fails never stops the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limen import config
from limen.result import SCHEMA_VERSION, Outcome, Phase, Result
from tests.support import synthetic
from tests.support.predictions import BUNDLE, MEMBERS, STAMP, instances, predict
from tests.support.synthetic import BrightBlood, fake_bundle
from worker.bundles.manifest import Explain
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine, Lane
from worker.study.explanation import explain_study, not_explained
from worker.study.parts import StudyOutput
from worker.work.instances import LOST

EXPLAIN = config.Explain(samples=60, superpixels=30, max_explained=2)


def test_the_most_probable_positive_slices_are_explained(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 4, lesion_in=(1, 2, 3))
    predicted = predict(paths, decoder, engine).result
    done = []
    output = explain_study(
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
    result = explain_study(
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
    output = explain_study(predicted, instances(paths), decoder, engine, BUNDLE, none, STAMP)
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
    result = explain_study(
        predicted, instances(paths), decoder, engine, BUNDLE, settings, STAMP
    ).result
    assert [e.sop_uid[-1] for e in result.explanations] == ["2", "3", "1"]


def test_an_undetermined_study_without_a_positive_slice_has_its_highest_explained(
    tmp_path: Path, decoder: Decoder, members: Engine
) -> None:
    paths = synthetic.series(tmp_path, 4, lesion_in=(3,))
    predicted = predict(paths, decoder, members, MEMBERS).result
    assert (predicted.outcome, [i.positive for i in predicted.images]) == (
        Outcome.UNDETERMINED,
        [False] * 4,
    )
    output = explain_study(predicted, instances(paths), decoder, members, MEMBERS, EXPLAIN, STAMP)
    assert [e.sop_uid[-1] for e in output.result.explanations] == ["3"]
    assert output.result.outcome is Outcome.UNDETERMINED


def test_a_prediction_of_the_schema_before_is_explained_in_this_one(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 2, lesion_in=(1,))
    older = replace(predict(paths, decoder, engine).result, schema=SCHEMA_VERSION - 1)
    result = explain_study(older, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP).result
    assert (result.schema, len(result.explanations)) == (SCHEMA_VERSION, 1)


def test_slices_that_are_explained_together_get_what_they_get_alone(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 3, lesion_in=(1, 2, 3))
    predicted = predict(paths, decoder, engine).result

    def explained(settings: config.Explain) -> StudyOutput:
        return explain_study(predicted, instances(paths), decoder, engine, BUNDLE, settings, STAMP)

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
        result = explain_study(
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
        then = explain_study(
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
    result = explain_study(
        predicted, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP
    ).result
    assert len(result.explanations) == 1
    failed = next(i for i in result.images if i.sop_uid.endswith(".1"))
    assert failed.reason.startswith("not explained: ")


def test_an_explanation_that_failed_altogether_keeps_the_finding(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    predicted = predict(synthetic.series(tmp_path, 2, lesion_in=(1,)), decoder, engine).result
    result = not_explained(predicted, "explanation failed: gone", STAMP).result
    assert replace(result, phase=Phase.PREDICTION, reason=predicted.reason) == predicted
    assert result.reason.endswith("explanation failed: gone")


def test_explanations_keep_to_their_share_while_a_study_is_predicted(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    seen = []
    original = engine.submit

    def submit(tensors: np.ndarray, lane: Lane) -> Any:
        seen.append((lane, engine._batcher._expected))
        return original(tensors, lane)

    engine.submit = submit  # type: ignore[method-assign]
    paths = synthetic.series(tmp_path, 3, lesion_in=(2,))
    predicted = predict(paths, decoder, engine).result
    assert seen == [(Lane.PREDICT, 1)] * 3
    explain_study(predicted, instances(paths), decoder, engine, BUNDLE, EXPLAIN, STAMP)
    assert set(seen[3:]) == {(Lane.EXPLAIN, 0)}


def test_an_overlay_lies_on_its_picture_however_the_file_lies(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    def explained(name: str, *, prone: bool) -> dict[str, bytes]:
        folder = tmp_path / name
        folder.mkdir()
        hu = synthetic.head_hu(lesion=True)
        lies = {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]} if prone else {}
        pixels = np.ascontiguousarray(hu[::-1, ::-1]) if prone else hu
        path = synthetic.save(synthetic.instance(1, pixels=pixels, **lies), folder, "1.dcm")
        first = predict([path], decoder, engine)
        then = explain_study(
            first.result, instances([path]), decoder, engine, BUNDLE, EXPLAIN, STAMP
        )
        assert [(i.oriented, i.pixel_mm) for i in then.result.images] == [(True, 0.5)]
        return first.files | then.files

    supine, prone = explained("supine", prone=False), explained("prone", prone=True)
    assert len(supine) == 2
    assert supine == prone


def test_why_an_instance_is_lost_is_the_reason_that_its_slice_is_not_explained(
    tmp_path: Path, decoder: Decoder, engine: Engine
) -> None:
    paths = synthetic.series(tmp_path, 3, lesion_in=(1, 2))
    predicted = predict(paths, decoder, engine).result
    known = [replace(one, fault=LOST if one.path == paths[0] else "") for one in instances(paths)]
    paths[0].unlink()  # a worker elsewhere: it is not in the archive as it was received
    result = explain_study(predicted, known, decoder, engine, BUNDLE, EXPLAIN, STAMP).result
    (reason,) = (image.reason for image in result.images if image.reason)
    assert reason == f"not explained: {LOST}"
    assert len(result.explanations) == 1
