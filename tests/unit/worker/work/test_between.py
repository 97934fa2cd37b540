"""A model that sees a slice between its neighbours (2.5D), whose answers are known by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from limen.result import Outcome, Result
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import of_means
from worker.dicom.decoder import Decoder
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

SIDE = 32
WEIGHTS = np.array([[-8.0], [6.0], [8.0]])
BIAS = (-6.0,)
"""It asks for brightness in the slice and above it, and none below."""

LEVELS = [0.2, 0.3, 0.4, 0.9, 0.6, 0.1, 0.5]
PEAK = [0.4, 0.4, 0.1, 0.95, 0.6, 0.4, 0.4]
"""Its fourth slice alone is positive, whatever stands in for the one above it."""


def says(below: float, own: float, above: float) -> float:
    return float(1 / (1 + np.exp(-(np.array([below, own, above]) @ WEIGHTS[:, 0] + BIAS[0]))))


@pytest.fixture(scope="module", params=["mirror", "repeat"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("between")
    of_means(folder / "model.onnx", (SIDE, SIDE, 3), WEIGHTS, BIAS)
    said = Wishes(
        scale=(0.0, 1.0),
        windows=((40.0, 80.0),),
        neighbours=1,
        threshold=0.3,
        preparation={"edges": request.param},
        body_part=("CHEST",),
    )
    return make(folder / "model.onnx", folder / request.param, said).bundle.folder


Analysed = Callable[..., list[Result]]
Change = Callable[[list[Path]], object]


@pytest.fixture
def analysed(bundle: Path, decoder: Decoder, tmp_path: Path) -> Iterator[Analysed]:
    """Write slices of one level each, numbered against the geometry, and do all the work."""
    workers: list[BundleWorker] = []

    def run(
        levels: list[float],
        without: tuple[int, ...] = (),
        before: Change = lambda paths: None,
        between: Change = lambda paths: None,
    ) -> list[Result]:
        explain = {"samples": 20, "superpixels": 4}
        worker = BundleWorker(tmp_path / "node", bundle, decoder, explain=explain)
        workers.append(worker)
        paths = []
        for place, level in enumerate(levels):
            if place in without:
                continue
            number = len(levels) - place
            pixels = np.full((SIDE, SIDE), round(80 * level), np.int16)
            dataset = synthetic.instance(
                number, float(place), pixels=pixels, BodyPartExamined="CHEST"
            )
            paths.append(synthetic.save(dataset, worker.spool, f"{number}.dcm"))
        before(paths)
        return worker.analyse(paths, lambda: between(paths))

    yield run
    for worker in workers:
        worker.__exit__(None, None, None)


def beside(levels: list[float], place: int, edges: str) -> tuple[float, float, float]:
    """Return what a slice of a stretch is shown: below, itself, above."""
    below, above = levels[place - 1 : place], levels[place + 1 : place + 2]
    mirrored = {"mirror": (above, below), "repeat": ([], [])}[edges]
    return (
        (below or mirrored[0] or [levels[place]])[0],
        levels[place],
        (above or mirrored[1] or [levels[place]])[0],
    )


def test_each_slice_is_judged_between_its_neighbours_in_the_order_of_the_body(
    analysed: Analysed, bundle: Path
) -> None:
    prediction, *explained = analysed(LEVELS)
    assert [image.position_mm for image in prediction.images] == list(map(float, range(7)))
    for place, image in enumerate(prediction.images):
        assert image.probability is not None
        expected = says(*beside(LEVELS, place, bundle.name))
        assert image.probability["positive"] == pytest.approx(expected, abs=1e-5)
    assert prediction.outcome is Outcome.POSITIVE
    (explanation,) = explained
    for told in explanation.explanations:
        (image,) = (i for i in prediction.images if i.sop_uid == told.sop_uid)
        assert image.probability is not None
        assert told.probability == pytest.approx(image.probability["positive"], abs=1e-5)


def test_beyond_a_missing_slice_there_is_no_neighbour_and_never_a_negative(
    analysed: Analysed, bundle: Path
) -> None:
    dark = [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2]
    (prediction, *_) = analysed(dark, without=(3,))
    stretches = [dark[:3], dark[4:]]
    expected = [
        says(*beside(stretch, place, bundle.name))
        for stretch in stretches
        for place in range(len(stretch))
    ]
    found = [image.probability["positive"] for image in prediction.images if image.probability]
    assert found == pytest.approx(expected, abs=1e-5)
    assert prediction.outcome is Outcome.PARTIAL
    assert "2 slices looked at beside a gap; another stood in for the missing" in prediction.reason


# -- what becomes of a neighbour between prediction and explanation --------------------------------


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize("harm", [Path.unlink, cut_off])
def test_a_slice_whose_neighbour_is_lost_is_not_explained_as_if_it_had_another(
    analysed: Analysed, harm: Callable[[Path], object]
) -> None:
    prediction, explanation = analysed(PEAK, between=lambda paths: harm(paths[4]))
    (positive,) = (image for image in prediction.images if image.positive)
    assert positive.index == 3
    assert explanation.outcome is Outcome.POSITIVE
    assert explanation.finding == prediction.finding
    assert explanation.explanations == []
    assert explanation.images[3].reason.startswith(
        "not explained: slice 5 beside it cannot be read any more: "
    )


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_slice_is_explained_beside_what_could_be_read_when_it_was_judged(
    analysed: Analysed, comes_back: bool
) -> None:
    whole: list[bytes] = []

    def before(paths: list[Path]) -> None:
        whole.append(paths[4].read_bytes())
        cut_off(paths[4])

    def between(paths: list[Path]) -> None:
        if comes_back:
            paths[4].write_bytes(whole[0])
        else:
            paths[4].unlink()

    prediction, explanation = analysed(PEAK, before=before, between=between)
    (positive,) = (image for image in prediction.images if image.positive)
    assert (positive.index, prediction.images[4].probability) == (3, None)
    (told,) = explanation.explanations
    assert positive.probability is not None
    assert told.probability == pytest.approx(positive.probability["positive"], abs=1e-5)
