"""Routes look at headers by patterns; a shadow runs beside the route that wins."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from limen.config import Config, Route
from limen.errors import BundleError, Transient
from limen.journal import Delivery
from limen.result import Model, Outcome, Phase, Provenance, Result, Timings
from tests.unit.worker import synthetic
from worker import analysis, headers, routes, shadow
from worker.destinations import Parcel
from worker.engine import Engine
from worker.jobs import Jobs
from worker.models import Models
from worker.outbox import Outbox
from worker.pixels import Decoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # Google's client misses an optional package
    from worker.destinations.gcs import FolderArchive, GcsDestination

HEAD = Route(name="head", modality="CT", bundle="h", where={"BodyPartExamined": "HEAD*"})
ANY = Route(name="any", modality="CT", bundle="a")
SHADOW = Route(name="try", modality="CT", bundle="s", shadow=True)
STAMP = analysis.Stamp(
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
    with pytest.raises(ValueError, match="route try is a shadow.*destination.gcs.enabled"):
        Config(route=[ANY, SHADOW], destination={"gcs": {"enabled": False}})


# -- what a shadow leaves --------------------------------------------------------------------------


class Journal:
    """As much of the journal as a delivery asks for."""

    def __init__(self, instances: list[Any]) -> None:
        self._instances = instances
        self.done: list[str] = []

    def study(self, *_: Any) -> Any:
        at = synthetic_time()
        return SimpleNamespace(
            study_uid=synthetic.STUDY,
            revision=1,
            predicted_at=at,
            complete_at=at,
            last_instance_at=at,
        )

    def instances(self, *_: Any) -> list[Any]:
        return self._instances

    def delivered(self, delivery: Delivery, _: str) -> None:
        self.done.append(delivery.destination)


class ShadowModels:
    def __init__(self, engine: Engine) -> None:
        self.asked = 0
        self._engine = engine

    def get(self, _: str) -> Any:
        self.asked += 1
        return synthetic.fake_bundle(name="candidate"), self._engine


def synthetic_time() -> Any:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)


def delivery(destination: str, phase: Phase = Phase.PREDICTION) -> Delivery:
    return Delivery("k", "study", 1, phase, 1, synthetic_time(), destination)


class Recorder:
    def __init__(self) -> None:
        self.parcels: list[Parcel] = []

    def deliver(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)


@pytest.fixture
def node(tmp_path: Path, decoder: Decoder) -> Any:
    """A worker whose journal is a stub; the study holds three slices, one with a lesion."""
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    paths = synthetic.series(spool, 3, lesion_in=(2,))
    rows = [
        SimpleNamespace(
            path=path.name,
            sop_uid=f"{synthetic.SERIES}.{n}",
            series_uid=synthetic.SERIES,
            sop_key=f"sop{n}",
            digest="0" * 64,
        )
        for n, path in enumerate(paths, start=1)
    ]
    config = Config(node={"data_dir": tmp_path / "data"}, route=[ANY, SHADOW])
    outbox = Outbox(config.results_dir)
    journal = Journal(rows)
    archive = GcsDestination(FolderArchive(tmp_path / "archive"), originals=False)
    web = Recorder()
    with Engine(synthetic.fake_bundle(), backend=synthetic.BrightBlood()) as engine:
        models = ShadowModels(engine)
        jobs = Jobs(
            config, "me", journal, None, outbox, decoder, models, {"gcs": archive, "django": web}
        )  # type: ignore[arg-type]
        shown = analysis.not_analysed(synthetic.STUDY, analysis.Read((), ()), "", STAMP).result
        outbox.write("study", shown, {})
        yield SimpleNamespace(
            jobs=jobs, journal=journal, models=models, web=web, root=tmp_path, outbox=outbox
        )


def test_a_shadow_is_stored_and_archived_and_never_sent_to_the_results_server(node: Any) -> None:
    node.jobs._deliver(delivery("django"))
    assert node.models.asked == 0
    node.jobs._deliver(delivery("gcs"))
    kept = node.root / "data" / "results" / "study" / "1" / "shadow-candidate" / "result.json"
    result = Result.from_json(kept.read_bytes())
    assert result.outcome is Outcome.POSITIVE
    assert result.model is not None
    assert result.model.name == "candidate"
    assert result.file_names() == []
    folder = node.root / "archive" / "results" / "study"
    assert sorted(p.name for p in folder.iterdir()) == ["1-prediction", "1-shadow-candidate"]
    (archived,) = (folder / "1-shadow-candidate").iterdir()
    assert archived.read_bytes() == kept.read_bytes()
    assert [p.shadow for p in node.web.parcels] == [""]
    assert b"candidate" not in node.web.parcels[0].document
    assert node.journal.done == ["django", "gcs"]


def test_a_second_delivery_sends_what_the_first_one_wrote(node: Any) -> None:
    node.jobs._deliver(delivery("gcs"))
    node.jobs._deliver(delivery("gcs"))
    folder = node.root / "archive" / "results" / "study" / "1-shadow-candidate"
    assert len(list(folder.iterdir())) == 1


def test_an_explanation_runs_no_shadow(node: Any) -> None:
    result, _ = node.outbox.read("study", 1, Phase.PREDICTION)
    node.outbox.write("study", replace(result, phase=Phase.EXPLANATION), {})
    node.jobs._deliver(delivery("gcs", Phase.EXPLANATION))
    assert node.models.asked == 0


def test_the_prediction_is_archived_before_a_shadow_may_fail(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> Any:
        raise Transient("the engine is full")

    monkeypatch.setattr(shadow, "run", busy)
    with pytest.raises(Transient):
        node.jobs._deliver(delivery("gcs"))
    folder = node.root / "archive" / "results" / "study"
    assert [p.name for p in folder.iterdir()] == ["1-prediction"]
    assert node.journal.done == []


def test_a_model_that_fails_in_shadow_leaves_its_reason(tmp_path: Path, decoder: Decoder) -> None:
    class Broken:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            if batch.any():  # the golden tensor is all air
                raise RuntimeError("broken")
            return np.full((len(batch), 1), 0.01, np.float32)

    instances = [analysis.Instance(p, "", "") for p in synthetic.series(tmp_path, 2)]
    read = analysis.read_headers(instances, decoder)
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
    models = Models(config)
    try:
        bundle, engine = models.get(str(tiny_bundle))
        assert models.get(config.route[2].bundle)[1] is engine
        assert models.get(str(stricter))[1] is not engine
        made = analysis.not_analysed(synthetic.STUDY, analysis.Read((), ()), "", STAMP).result
        model = Model(bundle.name, bundle.version, bundle.sha256, bundle.label_names, 0.5)
        assert models.matching(replace(made, model=model))[1] is engine
    finally:
        models.close()


def test_two_shadows_of_one_name_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = copy_of(tiny_bundle, tmp_path / "b", 'version = "0.1.0"', 'version = "0.2.0"')
    shadows = [
        {"name": str(n), "modality": "CT", "bundle": str(folder), "shadow": True}
        for n, folder in enumerate((tiny_bundle, other))
    ]
    with pytest.raises(BundleError, match="different bundles of the name tiny"):
        Models(Config(route=shadows))
