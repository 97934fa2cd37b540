"""Routes look at headers by patterns; a shadow runs beside the route that wins."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen.config import Config, Route
from limen.errors import BundleError
from limen.result import Model, Outcome, Provenance, Timings
from tests.support import synthetic
from worker.dicom import headers
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.serving.repository import Repository
from worker.study import routes, shadow
from worker.study.parts import Instance, Read, Stamp, read_headers
from worker.study.prediction import not_analysed

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # Google's client misses an optional package

HEAD = Route(name="head", modality="CT", bundle="h", where={"BodyPartExamined": "HEAD*"})
ANY = Route(name="any", modality="CT", bundle="a")
SHADOW = Route(name="try", modality="CT", bundle="s", shadow=True)
STAMP = Stamp(
    1,
    Timings("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    Provenance("0", "host", "0" * 64),
)


@pytest.fixture
def header(tmp_path: Path) -> headers.Header:
    return headers.read(synthetic.save(synthetic.instance(), tmp_path, "one.dcm"))


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ({}, True),
        ({"BodyPartExamined": "HEAD*"}, True),
        ({"BodyPartExamined": "head?neck"}, False),
        ({"BodyPartExamined": "*"}, True),
        ({"BodyPartExamined": "[HB]*", "SeriesDescription": "*axial*"}, True),
        ({"BodyPartExamined": "HEAD*", "SeriesDescription": "*bone*"}, False),
        ({"StudyDescription": "?*"}, False),
        ({"InstitutionName": "st. mary's"}, True),
        ({"ConvolutionKernel": "H30?"}, True),
    ],
)
def test_every_pattern_has_to_match_in_any_case(
    header: headers.Header, where: dict[Any, str], taken: bool
) -> None:
    one = replace(
        header,
        series_description="Head AXIAL 5mm",
        referring_institution="St. Mary's",
        kernel="H30S",
    )
    route = Route(name="r", modality="CT", bundle="b", where=where)
    assert (routes.choose([route], [one]) is route) is taken


def test_the_patterns_have_to_match_in_one_instance(header: headers.Header) -> None:
    route = Route(
        name="r",
        modality="CT",
        bundle="b",
        where={"BodyPartExamined": "HEAD", "SeriesDescription": "thin"},
    )
    apart = [
        replace(header, series_description="thick"),
        replace(header, body_part="NECK", series_description="thin"),
    ]
    assert routes.choose([route], apart) is None
    assert routes.choose([route], [*apart, replace(header, series_description="Thin")]) is route


def test_the_first_route_that_matches_wins(header: headers.Header) -> None:
    assert routes.choose([HEAD, ANY], [header]) is HEAD
    assert routes.choose([HEAD, ANY], [replace(header, body_part="CHEST")]) is ANY


def test_a_shadow_never_wins_and_runs_once_for_each_bundle(header: headers.Header) -> None:
    again = SHADOW.model_copy(update={"name": "again"})
    other = Route(name="mr", modality="MR", bundle="m", shadow=True)
    assert routes.choose([SHADOW, ANY], [header]) is ANY
    assert routes.choose([SHADOW], [header]) is None
    assert [r.bundle for r in routes.shadows([SHADOW, again, other, ANY], [header])] == ["s"]


def test_the_reason_names_pattern_and_route_but_no_value_of_the_header(
    header: headers.Header,
) -> None:
    reason = routes.why_none([HEAD], [replace(header, body_part="MRS SMITH")])
    assert "head: BodyPartExamined HEAD*" in reason
    assert "SMITH" not in reason
    assert "modality CT (routes take MR)" in routes.why_none(
        [Route(name="mr", modality="MR", bundle="m"), SHADOW], [header]
    )


def test_a_route_may_only_look_at_listed_elements() -> None:
    with pytest.raises(ValueError, match="BodyPartExamined"):
        Route.model_validate(
            {"name": "r", "modality": "CT", "bundle": "b", "where": {"PatientName": "A*"}}
        )


def test_a_shadow_without_archive_is_refused() -> None:
    with pytest.raises(ValueError, match="route try is a shadow.*destination.archive.enabled"):
        Config(route=[ANY, SHADOW], destination={"archive": {"enabled": False}})


# -- what a shadow leaves --------------------------------------------------------------------------


def test_a_model_that_fails_in_shadow_leaves_its_reason(tmp_path: Path, decoder: Decoder) -> None:
    class Broken:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            if batch.any():  # the golden tensor is all air
                raise RuntimeError("broken")
            return np.full((len(batch), 1), 0.01, np.float32)

    instances = [Instance(p, "", "") for p in synthetic.series(tmp_path, 2)]
    read = read_headers(instances, decoder)
    bundle = synthetic.fake_bundle()
    with Engine(bundle, backend=Broken()) as engine:
        found = shadow.run(synthetic.STUDY, read, decoder, engine, bundle, STAMP)
    assert found.outcome is Outcome.NOT_ANALYSED
    assert "the model failed" in found.reason
    assert json.loads(found.to_json())["images"][0]["original"] is None


# -- the models of a process -----------------------------------------------------------------------


def copy_of(folder: Path, target: Path, old: str, new: str) -> Path:
    target.mkdir()
    for name in ("model.keras", "golden.npz"):
        (target / name).write_bytes((folder / name).read_bytes())
    text = (folder / "bundle.toml").read_text("utf-8")
    assert old in text
    (target / "bundle.toml").write_text(text.replace(old, new), "utf-8")
    return target


def test_one_model_for_each_bundle_and_the_one_that_predicted_explains(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    stricter = copy_of(tiny_bundle, tmp_path / "b", "threshold = 0.5", "threshold = 0.9")
    config = Config(
        route=[
            {"name": "try", "modality": "CT", "bundle": str(stricter), "shadow": True},
            {"name": "one", "modality": "CT", "bundle": str(tiny_bundle)},
            {"name": "two", "modality": "MR", "bundle": f"{tiny_bundle}/../{tiny_bundle.name}"},
        ]
    )
    models = Repository(config)
    try:
        assert models.folder_of(config.route[2].bundle) == tiny_bundle
        assert set(models.named) == {tiny_bundle, stricter}
        with models.using(models.named[tiny_bundle]) as (bundle, _):
            pass
        made = not_analysed(synthetic.STUDY, Read((), ()), "", STAMP).result
        model = Model(bundle.name, bundle.version, bundle.sha256, bundle.label_names, 0.5)
        for threshold, folder in ((0.5, tiny_bundle), (0.9, stricter)):
            model = replace(model, threshold=threshold)
            assert models.maker_of(replace(made, model=model)) == models.named[folder]
    finally:
        models.close()


def test_two_shadows_of_one_name_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = copy_of(tiny_bundle, tmp_path / "b", 'version = "0.1.0"', 'version = "0.2.0"')
    shadows = [
        {"name": str(n), "modality": "CT", "bundle": str(folder), "shadow": True}
        for n, folder in enumerate((tiny_bundle, other))
    ]
    with pytest.raises(BundleError, match="different bundles of the name tiny"):
        Repository(Config(route=shadows))
