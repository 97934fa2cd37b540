"""A study is looked at as the bundle declares its input: the head, at a scale, with neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.result import Outcome, Result
from tests.support import synthetic
from tests.support.predictions import STAMP, instances
from tests.support.synthetic import SERIES, STUDY, fake_bundle
from worker.bundles.bundle import Bundle
from worker.bundles.preparation import Preparation
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study.explanation import explain_study
from worker.study.parts import StudyOutput, read_headers
from worker.study.prediction import predict_study

BETWEEN = fake_bundle(neighbours=1)
NEVER_POSITIVE = fake_bundle(neighbours=1, threshold=1.0)
SCALED = fake_bundle(crop="head", spacing_mm=0.5)


class Recorder:
    """A backend that keeps what it is shown, and calls blood in the middle slice positive."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.seen += list(batch.copy())
        first = batch.shape[-1] // 2 - 1
        blood = (batch[..., first] > 0.75) & (batch[..., first + 2] < 0.65)
        share = blood.sum(axis=(1, 2)) / 40.0
        return (1 / (1 + np.exp(4.6 - 9.2 * np.minimum(share, 1))))[:, None].astype(np.float32)


@contextmanager
def looking(bundle: Bundle) -> Iterator[tuple[Engine, Recorder]]:
    backend = Recorder()
    settings = config.Engine(max_wait_ms=1, max_batch=1)
    with Engine(bundle, settings, backend=backend) as engine:
        backend.seen.clear()  # of the warm-up
        yield engine, backend


def predict(paths: list[Path], decoder: Decoder, engine: Engine, bundle: Bundle) -> StudyOutput:
    read = read_headers(instances(paths), decoder)
    return predict_study(STUDY, read, decoder, engine, bundle, STAMP)


def levels(folder: Path, count: int, without: tuple[int, ...] = ()) -> list[Path]:
    """Write slices of 10, 20, ... HU from the feet to the head."""
    return [
        synthetic.save(
            synthetic.instance(n, pixels=np.full((64, 64), 10 * n, np.int16)), folder, f"{n}.dcm"
        )
        for n in range(1, count + 1)
        if n not in without
    ]


def shown(backend: Recorder) -> list[list[int]]:
    """Return the HU of each slice in each tensor, by its first window."""
    return [[round(float(v) * 80) for v in tensor[32, 32, ::3]] for tensor in backend.seen]


def test_each_slice_is_looked_at_between_its_neighbours_mirrored_at_the_ends(
    tmp_path: Path, decoder: Decoder
) -> None:
    with looking(BETWEEN) as (engine, backend):
        result = predict(levels(tmp_path, 4), decoder, engine, BETWEEN).result
    assert shown(backend) == [[20, 10, 20], [10, 20, 30], [20, 30, 40], [30, 40, 30]]
    assert (result.outcome, result.reason) == (
        Outcome.NEGATIVE,
        "none of 4 slices at or above 0.5",
    )


def test_a_neighbour_that_cannot_be_read_is_mirrored_and_the_study_says_so(
    tmp_path: Path, decoder: Decoder
) -> None:
    paths = levels(tmp_path, 4)
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    with looking(BETWEEN) as (engine, backend):
        result = predict(paths, decoder, engine, BETWEEN).result
    # The first slice has nothing below and nothing readable above: it stands for both.
    assert shown(backend) == [[10, 10, 10], [40, 30, 40], [30, 40, 30]]
    assert result.outcome is Outcome.PARTIAL
    assert "2 slices looked at beside one that cannot be read; another stood in" in result.reason


@pytest.mark.parametrize(("edges", "below", "above"), [("mirror", 20, 60), ("repeat", 30, 50)])
def test_what_lies_beyond_a_missing_slice_is_no_neighbour_and_the_study_says_so(
    tmp_path: Path, decoder: Decoder, edges: str, below: int, above: int
) -> None:
    wanted = replace(NEVER_POSITIVE, preparation=Preparation(edges=edges))
    with looking(wanted) as (engine, backend):
        result = predict(levels(tmp_path, 7, without=(4,)), decoder, engine, wanted).result
    assert shown(backend)[2:4] == [[20, 30, below], [above, 50, 60]]
    assert result.outcome is Outcome.PARTIAL
    assert "1 gap between slices" in result.reason
    assert "2 slices looked at beside a gap; another stood in for the missing" in result.reason
    assert [image.stretch for image in result.images] == [1, 1, 1, 2, 2, 2]


def test_a_slice_that_is_set_aside_leaves_a_gap_that_no_neighbour_crosses(
    tmp_path: Path, decoder: Decoder
) -> None:
    paths = levels(tmp_path, 7)
    enhanced = synthetic.instance(
        4, pixels=np.full((64, 64), 40, np.int16), ContrastBolusAgent="OMNIPAQUE"
    )
    synthetic.save(enhanced, tmp_path, "4.dcm")
    with looking(NEVER_POSITIVE) as (engine, backend):
        result = predict(paths, decoder, engine, NEVER_POSITIVE).result
    assert all(40 not in seen for seen in shown(backend))
    assert result.outcome is Outcome.PARTIAL
    assert "6 of 7 slices analysed" in result.reason
    assert "2 slices looked at beside a gap" in result.reason


def test_slices_that_are_farther_apart_in_a_part_of_the_head_are_neighbours_all_the_same(
    tmp_path: Path, decoder: Decoder
) -> None:
    """The base is scanned more finely: each slice is as thick as they are apart."""
    places = [(0, 2), (2, 2), (4, 2), (9, 5), (14, 5), (19, 5)]
    paths = [
        synthetic.save(
            synthetic.instance(
                n, float(at), SliceThickness=thick, pixels=np.full((64, 64), 10 * n, np.int16)
            ),
            tmp_path,
            f"{n}.dcm",
        )
        for n, (at, thick) in enumerate(places, start=1)
    ]
    with looking(BETWEEN) as (engine, backend):
        result = predict(paths, decoder, engine, BETWEEN).result
    assert shown(backend)[2:4] == [[20, 30, 40], [30, 40, 50]]
    assert result.outcome is Outcome.NEGATIVE


def test_an_explanation_crosses_no_gap_either(tmp_path: Path, decoder: Decoder) -> None:
    paths = synthetic.series(tmp_path, 7, lesion_in=(3,))
    paths[3].unlink()
    with looking(BETWEEN) as (engine, backend):
        predicted = predict([*paths[:3], *paths[4:]], decoder, engine, BETWEEN).result
        (asked,) = [t for t in backend.seen if (t[..., 3] > 0.75).sum() > (t[..., 0] > 0.75).sum()]
        backend.seen.clear()
        explain_study(
            predicted, instances([*paths[:3], *paths[4:]]), decoder, engine, BETWEEN,
            config.Explain(samples=20, superpixels=8), STAMP,
        )  # fmt: skip
    assert any(np.array_equal(tensor, asked) for tensor in backend.seen)


def test_a_slice_of_another_series_is_no_neighbour(tmp_path: Path, decoder: Decoder) -> None:
    paths = levels(tmp_path, 4)
    for number, path in enumerate(paths[2:], start=3):
        synthetic.save(
            synthetic.instance(
                number,
                pixels=np.full((64, 64), 10 * number, np.int16),
                SeriesInstanceUID=f"{SERIES}.9",
            ),
            tmp_path,
            path.name,
        )
    with looking(BETWEEN) as (engine, backend):
        predict(paths, decoder, engine, BETWEEN)
    assert sorted(shown(backend)) == [[10, 20, 10], [20, 10, 20], [30, 40, 30], [40, 30, 40]]


def test_an_explanation_sees_the_neighbours_that_the_prediction_saw(
    tmp_path: Path, decoder: Decoder
) -> None:
    paths = synthetic.series(tmp_path, 5, lesion_in=(1, 3))
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    paths[4].write_bytes(b"no header")
    with looking(BETWEEN) as (engine, backend):
        predicted = predict(paths, decoder, engine, BETWEEN).result
        asked = list(backend.seen)
        backend.seen.clear()
        result = explain_study(
            predicted, instances(paths), decoder, engine, BETWEEN,
            config.Explain(samples=20, superpixels=8), STAMP,
        ).result  # fmt: skip
    explained = [found.sop_uid[-1] for found in result.explanations]
    assert sorted(explained) == ["1", "3"]
    whole = [t for t in backend.seen if any(np.array_equal(t, other) for other in asked)]
    assert len(whole) >= 2
    for found in result.explanations:
        (image,) = (i for i in predicted.images if i.sop_uid == found.sop_uid)
        assert image.probability is not None
        assert found.probability == image.probability["any"]
        assert "in all 3 slices that the model sees" in found.parameters


def test_a_study_whose_pixels_have_no_known_size_is_not_called_negative(
    tmp_path: Path, decoder: Decoder
) -> None:
    def written(folder: str, spacing_mm: list[float] | None) -> list[Path]:
        (tmp_path / folder).mkdir()
        return [
            synthetic.save(
                synthetic.instance(n, PixelSpacing=spacing_mm), tmp_path / folder, f"{n}.dcm"
            )
            for n in range(1, 4)
        ]

    def outcome(paths: list[Path], bundle: Bundle) -> Result:
        with looking(bundle) as (engine, _):
            return predict(paths, decoder, engine, bundle).result

    assert outcome(written("known", [3.75, 3.75]), SCALED).outcome is Outcome.NEGATIVE
    paths = written("unknown", None)
    lost = outcome(paths, SCALED)
    assert lost.outcome is Outcome.PARTIAL
    assert "the size of a pixel of 3 slices is not said, or cannot be true; a field" in lost.reason
    assert "240 mm" not in outcome(paths, fake_bundle(crop="head")).reason


@pytest.mark.parametrize(
    "how",
    [
        Preparation(normalise="z-score"),
        Preparation(normalise="percentile", percentiles=(5, 95)),
        Preparation(padding=40.0),
    ],
    ids=["z-score", "percentile", "padded with brain"],
)
def test_superpixels_lie_in_the_head_whatever_the_numbers_of_the_tensor_mean(
    tmp_path: Path, decoder: Decoder, how: Preparation
) -> None:
    wanted = fake_bundle(preparation=how, size=(64, 80), threshold=0.0)
    paths = synthetic.series(tmp_path, 3, lesion_in=(2,))
    settings = config.Explain(samples=20, superpixels=8, max_explained=3)
    found = []
    for bundle in (fake_bundle(size=(64, 80), threshold=0.0), wanted):
        with looking(bundle) as (engine, _):
            predicted = predict(paths, decoder, engine, bundle).result
            given = (predicted, instances(paths), decoder, engine, bundle, settings, STAMP)
            told = explain_study(*given).result.explanations
            found.append({t.sop_uid: [one.area_px for one in t.superpixels] for t in told})
    assert found[0] == found[1]
    assert len(found[1]) == 3
    assert (
        sum(found[1][f"{SERIES}.2"]) < 64 * 64
    )  # the head, not the air around it, nor what pads the slice


@pytest.mark.parametrize(("share", "outcome"), [(1.0, Outcome.NEGATIVE), (0.6, Outcome.PARTIAL)])
def test_a_head_that_reaches_beyond_what_the_model_is_shown_is_not_called_negative(
    tmp_path: Path, decoder: Decoder, share: float, outcome: Outcome
) -> None:
    wanted = fake_bundle(crop="centre", preparation=Preparation(share=share))
    paths = [
        synthetic.save(synthetic.instance(n, PixelSpacing=[3.75, 3.75]), tmp_path, f"{n}.dcm")
        for n in range(1, 4)
    ]
    with looking(wanted) as (engine, _):
        result = predict(paths, decoder, engine, wanted).result
    assert result.outcome is outcome
    assert ("beyond the middle of 3 slices" in result.reason) == (share < 1)
