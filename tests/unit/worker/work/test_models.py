"""worker.work.models: versions that come and go in a worker, while it looks at studies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from limen.errors import BundleError, Delayed, NotAnalysable, Transient
from limen.journal import chosen
from limen.result import Result
from limen.states import HoldingState
from limen.uids import key_of
from tests.support.model_host import Host, host_with_versions
from tests.support.samples import result, settings
from tests.support.tiny_models import write_version
from worker.bundles import versions
from worker.serving import repository
from worker.serving.engine import Engine, Lane
from worker.work import models as of_models
from worker.work.models import Chosen, Models

KEY = key_of("1.2.3")
MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = host_with_versions(tmp_path)
    yield made
    made.stop()
    made.journal.close()


def version_of(models: Models, study_key: str = KEY) -> str:
    with models.for_study(models._config.route[0].bundle, study_key) as model:
        return model.bundle.version


def made_by(host: Host, version: str) -> Result:
    """Return a prediction that came from a version."""
    document = result()
    bundle = versions.load_version(host.folder, version)
    assert document.model is not None
    model = replace(
        document.model, name="heads", version=version, sha256=bundle.sha256, threshold=0.5
    )
    return replace(document, model=model)


def answer(model: Chosen) -> float:
    asked = model.engine.submit(np.zeros((1, *model.bundle.input_shape), np.float32), Lane.PREDICT)
    return float(model.engine.answer(asked)[0, 0])


# -- serving -----------------------------------------------------------------------------------


def test_a_study_waits_where_nothing_is_deployed_and_is_told_what_to_do(host: Host) -> None:
    models = host.start()
    with pytest.raises(Delayed, match="limen model deploy heads VERSION"):
        version_of(models)
    (held,) = host.journal.deployments.standing().holdings
    assert (held.name, held.state) == ("heads", HoldingState.MISSING)


def test_a_version_is_loaded_beside_the_one_that_serves_and_a_study_keeps_its_own(
    host: Host,
) -> None:
    host.start()
    models = host.deploy("1.0")
    with models.for_study(str(host.folder), KEY) as before:
        host.deploy("2.0")
        assert host.serving() == ["2.0"]
        assert version_of(models) == "2.0"
        assert answer(before) < 0.1
        assert before.bundle.version == "1.0"
    with models.for_study(str(host.folder), KEY) as after:
        assert answer(after) > 0.9


def test_a_worker_that_starts_serves_what_was_deployed(host: Host) -> None:
    host.start()
    host.deploy("1.0")
    host.deploy("2.0", 40)
    models = host.start()
    assert host.loaded() == {"1.0", "2.0"}
    keys = [key_of(f"1.2.{n}") for n in range(60)]
    found = {key: version_of(models, key) for key in keys}
    assert set(found.values()) == {"1.0", "2.0"}
    now = host.journal.deployments.serving("heads")
    assert found == {key: one.version for key in keys if (one := chosen(now, key))}


def test_a_bundle_that_is_no_folder_of_versions_goes_on_as_ever(host: Host, tmp_path: Path) -> None:
    route = [{"name": "head", "modality": "CT", "bundle": str(host.folder / "1.0")}]
    host.config = settings(tmp_path, route=route)
    models = host.start()
    with models.for_study(str(host.folder / "1.0"), KEY) as model:
        assert (model.bundle.version, model.deployment) == ("1.0", 0)
    assert host.journal.deployments.standing().holdings == ()


# -- what never serves -------------------------------------------------------------------------


def test_a_version_that_fails_its_golden_never_serves_and_says_why(host: Host) -> None:
    write_version(host.folder, "3.0", golden_off=-0.2)
    host.start()
    host.deploy("1.0")
    models = host.deploy("3.0")
    assert host.serving() == ["1.0"]
    assert host.last().state.value == "refused"
    assert "golden tensors differ by up to 0.2" in host.last().note
    assert version_of(models) == "1.0"
    assert host.loaded() == {"1.0"}
    assert host.lost == []


def test_a_version_that_answers_nan_never_serves_and_takes_no_worker_with_it(host: Host) -> None:
    write_version(host.folder, "3.0", bias=np.nan)
    golden = host.folder / "3.0" / "golden.npz"
    with np.load(host.folder / "1.0" / "golden.npz") as arrays:
        np.savez(golden, **arrays)
    host.start()
    host.deploy("1.0")
    models = host.deploy("3.0")
    assert "self-test failed" in host.last().note
    assert (version_of(models), host.lost) == ("1.0", [])


def test_a_fault_of_ours_while_a_version_is_tried_ends_nothing_that_serves(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.start()
    models = host.deploy("1.0")

    def broken(*_: object, **__: object) -> None:
        raise KeyError("whatever")

    monkeypatch.setattr(repository, "golden_check", broken)
    host.deploy("2.0")
    assert host.last().note == "worker 11111111 on here: it cannot be loaded: KeyError (see log)"
    assert version_of(models) == "1.0"


@pytest.mark.parametrize("name", ["golden.npz", "model.onnx", "bundle.toml"])
def test_files_that_were_swapped_on_one_host_never_serve_there(name: str, host: Host) -> None:
    host.start()
    host.deploy("1.0")
    shutil.copy(host.folder / "2.0" / name, host.folder / "1.0" / name)
    with capture_logs():
        models = host.start()
    with pytest.raises(Delayed, match="this worker cannot run it"):
        version_of(models)
    (held,) = host.journal.deployments.standing().holdings
    assert held.state is HoldingState.FAILED
    assert held.text


def test_files_of_another_digest_are_named_with_what_to_do(host: Host) -> None:
    host.start()
    host.deploy("1.0")
    manifest = host.folder / "1.0" / "bundle.toml"
    manifest.write_text(manifest.read_text("utf-8") + "# mine\n", "utf-8")
    with capture_logs():
        host.start()
    (held,) = host.journal.deployments.standing().holdings
    assert "are not those that were deployed as 1.0" in held.text


def test_a_version_that_comes_to_a_host_late_serves_there_then(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.start()
    host.deploy("1.0")
    away = host.folder / "1.0"
    away.rename(host.folder / ".1.0")
    with capture_logs():
        models = host.start()
    (held,) = host.journal.deployments.standing().holdings
    assert "has no version 1.0 (there: 2.0)" in held.text
    (host.folder / ".1.0").rename(away)
    with pytest.raises(Delayed):
        version_of(models)
    monkeypatch.setattr(of_models, "_RETRY_S", 0.0)
    models.look()
    assert version_of(models) == "1.0"


def test_a_version_whose_folder_says_another_one_is_refused(host: Host) -> None:
    shutil.copytree(host.folder / "2.0", host.folder / "4.0")
    with pytest.raises(BundleError, match="version: is '2.0', but its folder says '4.0'"):
        versions.load_version(host.folder, "4.0")


# -- back --------------------------------------------------------------------------------------


def test_the_version_before_is_still_loaded_to_go_back_to(host: Host) -> None:
    host.start()
    host.deploy("1.0")
    models = host.deploy("2.0")
    models.look()
    assert host.loaded() == {"1.0", "2.0"}
    host.journal.deployments.take_back("heads", "anna@host")
    assert version_of(models) == "1.0"  # asked of the journal: the thread has not looked yet


def test_two_versions_are_loaded_at_most_when_nothing_is_tried(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_models, "_IDLE_S", 0.0)
    write_version(host.folder, "3.0", bias=1)
    host.start()
    for version, loaded in (("1.0", {"1.0"}), ("2.0", {"1.0", "2.0"}), ("3.0", {"2.0", "3.0"})):
        models = host.deploy(version)
        models.look()
        assert host.loaded() == loaded


# -- explanations ------------------------------------------------------------------------------


def test_an_explanation_runs_on_the_version_that_predicted_whatever_serves_now(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_models, "_IDLE_S", 0.0)
    write_version(host.folder, "3.0", bias=1)
    host.start()
    for version in ("1.0", "2.0", "3.0"):
        models = host.deploy(version)
        models.look()
    assert "1.0" not in host.loaded()
    host.journal.deployments.take_back("heads", "anna@host")
    for version in ("1.0", "3.0", "2.0"):
        with models.that_made(made_by(host, version)) as (bundle, engine):
            assert bundle.version == version
            models.look()  # whose engine is in use is not closed
            assert answer(Chosen(bundle, engine)) >= 0


def test_of_versions_with_the_same_weights_the_one_that_predicted_explains(host: Host) -> None:
    write_version(host.folder, "1.1", bias=-3, threshold=0.3)
    host.start()
    host.deploy("1.0")
    models = host.deploy("1.1")
    for version, threshold in (("1.0", 0.5), ("1.1", 0.3)):
        with models.that_made(made_by(host, version)) as (bundle, _):
            assert (bundle.version, bundle.threshold) == (version, threshold)


def test_an_explanation_whose_version_is_gone_is_tried_again_and_says_why(host: Host) -> None:
    host.start()
    host.deploy("1.0")
    host.deploy("2.0")
    document = made_by(host, "1.0")
    shutil.rmtree(host.folder / "1.0")
    models = host.start()
    with (
        pytest.raises(Transient, match="is not here: .* has no version 1.0"),
        models.that_made(document),
    ):
        pass


def test_a_prediction_of_other_weights_under_the_same_version_is_not_explained(
    host: Host,
) -> None:
    host.start()
    models = host.deploy("1.0")
    document = made_by(host, "1.0")
    assert document.model is not None
    other = replace(document, model=replace(document.model, sha256="0" * 64))
    with pytest.raises(NotAnalysable, match="had other weights then"), models.that_made(other):
        pass


def test_what_was_never_deployed_explains_nothing(host: Host) -> None:
    models = host.start()
    with pytest.raises(NotAnalysable), models.that_made(result()):
        pass


# -- memory ------------------------------------------------------------------------------------


@pytest.fixture
def small(host: Host, tmp_path: Path) -> Host:
    """A host whose worker may have 1000 MiB."""
    route = [{"name": "head", "modality": "CT", "bundle": str(host.folder)}]
    host.config = settings(tmp_path, route=route, worker={"max_memory_bytes": 1000 * MIB})
    return host


def test_a_version_without_room_beside_the_one_that_serves_is_refused_before_it_is_loaded(
    small: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.start()
    small.resident_mib = [100, 100, 500]  # the first took 400
    small.deploy("1.0")
    small.resident_mib = [700]
    loading: list[object] = []
    monkeypatch.setattr(Engine, "__init__", lambda *_, **__: loading.append(1))
    models = small.deploy("2.0")
    assert loading == []
    assert (
        "heads 2.0 needs about 400 MiB beside what is loaded, and this worker has 700 of 1000 MiB "
        "(worker.max_memory_bytes)" in small.last().note
    )
    assert version_of(models) == "1.0"


def test_a_version_that_is_larger_than_was_to_be_expected_goes_again(small: Host) -> None:
    small.start()
    small.deploy("1.0")
    small.resident_mib = [100, 100, 1100]
    models = small.deploy("2.0")
    assert "took 1000 MiB, and with it this worker has 1100 of 1000 MiB" in small.last().note
    assert small.loaded() == {"1.0"}
    assert version_of(models) == "1.0"


def test_what_serves_is_loaded_whatever_the_limit_says(small: Host) -> None:
    small.start()
    small.deploy("1.0")
    small.resident_mib = [1500]
    assert version_of(small.start()) == "1.0"
