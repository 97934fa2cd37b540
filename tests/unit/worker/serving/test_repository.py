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
    bundle, engine = models.get("ich")
    assert bundle.name == "ich"
    assert models.get("ich")[1] is engine


def test_an_unknown_bundle_says_what_to_do(models: Repository) -> None:
    with pytest.raises(BundleError, match="restart the worker"):
        models.get("other")


def test_an_explanation_is_made_by_the_model_of_its_prediction(models: Repository) -> None:
    bundle, _ = models.get("ich")
    assert models.matching(made_by(bundle.sha256))[0] is bundle


def test_another_model_never_explains_a_prediction(models: Repository) -> None:
    for document in (made_by("0" * 64), replace(result(), model=None)):
        with pytest.raises(NotAnalysable, match="no longer configured"):
            models.matching(document)


def test_a_bundle_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    routes = [{"name": "x", "modality": "CT", "bundle": str(tmp_path)}]
    config = Config(**settings(tmp_path).model_dump(exclude={"route"}), route=routes)
    with pytest.raises(BundleError):
        Repository(config)
