"""worker.serving.repository: each bundle once, by the name that its route gives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from limen.config import Config
from limen.errors import BundleError, NotAnalysable
from limen.result import Result
from tests.support.samples import result, settings
from tests.support.tiny_models import write_version
from worker.bundles import versions
from worker.serving.repository import Repository


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two routes to the bundle that ships with Limen."""
    routes = [{"name": n, "modality": n, "bundle": "ich"} for n in ("CT", "MR")]
    return Config(
        **settings(tmp_path_factory.mktemp("models")).model_dump(exclude={"route"}), route=routes
    )


@pytest.fixture(scope="module")
def models(config: Config) -> Iterator[Repository]:
    models = Repository(config)
    yield models
    models.close()


def made_by(sha256: str) -> Result:
    document = result()
    assert document.model is not None
    return replace(document, model=replace(document.model, sha256=sha256))


def test_a_bundle_that_two_routes_name_is_loaded_once(models: Repository) -> None:
    assert len(models._loaded) == 1
    with models.using(models.named[models.folder_of("ich")]) as (bundle, _):
        assert bundle.name == "ich"


def test_an_unknown_bundle_says_what_to_do(models: Repository) -> None:
    with pytest.raises(BundleError, match="restart the worker"), models.using("0" * 64):
        pass


def test_an_explanation_is_made_by_the_model_of_its_prediction(models: Repository) -> None:
    digest = models.named[models.folder_of("ich")]
    with models.using(digest) as (bundle, _):
        assert models.maker_of(made_by(bundle.sha256)) == digest


def test_another_model_never_explains_a_prediction(models: Repository) -> None:
    for document in (made_by("0" * 64), replace(result(), model=None)):
        with pytest.raises(NotAnalysable, match="no longer configured"):
            models.maker_of(document)


def test_a_bundle_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    routes = [{"name": "x", "modality": "CT", "bundle": str(tmp_path)}]
    config = Config(**settings(tmp_path).model_dump(exclude={"route"}), route=routes)
    with pytest.raises(BundleError):
        Repository(config)


def test_two_folders_of_versions_of_one_name_are_refused(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_version(tmp_path / place / "heads", "1.0")
    routes = [
        {"name": place, "modality": "CT", "bundle": str(tmp_path / place / "heads")}
        for place in ("a", "b")
    ]
    with pytest.raises(BundleError, match="two routes name folders of versions .* heads"):
        Repository(settings(tmp_path, route=routes))


def test_of_a_folder_of_versions_nothing_is_loaded_before_it_is_deployed(tmp_path: Path) -> None:
    folder = tmp_path / "heads"
    write_version(folder, "0.9")
    write_version(folder, "0.10")
    route = [{"name": "head", "modality": "CT", "bundle": str(folder)}]
    models = Repository(settings(tmp_path, route=route))
    assert models.versioned == {"heads": folder}
    assert models._loaded == {}
    assert versions.versions(folder) == ["0.9", "0.10"]
