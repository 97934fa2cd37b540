"""``limen model deploy`` of versions that another server runs: held to their golden before they
serve, and what is away or answers otherwise serves never.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limen.command.edge import FAILED, OK
from limen.errors import Delayed
from limen.journal import Deployment
from limen.result import Result
from limen.uids import key_of
from tests.support.model_host import Console, host_with_versions
from tests.support.model_server import ModelServer, model_server
from tests.support.ports import free_ports
from tests.support.samples import result
from tests.support.tiny_models import SIDE, answer_of, write_remote_version
from worker.bundles import versions
from worker.serving.backends import remote as remote_backend
from worker.serving.engine import Engine, Lane

KEY = key_of("1.2.3")
IMAGES = np.random.default_rng(5).random((4, SIDE, SIDE, 3), dtype=np.float32)
LOCAL, THIRD, FOURTH = (1.0, -3.0), (1.0, 1.0), (1.0, -1.0)
"""Gain and bias of 1.0, which this worker runs itself, and of those that the server runs."""

Model = Callable[[np.ndarray], np.ndarray]


def model(gain: float, bias: float) -> Model:
    return lambda batch: answer_of(batch, gain, bias)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server(
        shape=(-1, SIDE, SIDE, 3), model=model(*THIRD), versions={"4": model(*FOURTH)}
    ) as served:
        yield served
        assert served.faults == []


@pytest.fixture
def console(
    server: ModelServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Console]:
    """A host whose worker runs 1.0 itself and looks at studies with it; the server has 3.0, 4.0."""
    host = host_with_versions(tmp_path, engine={"remote": {"url": server.url}})
    for version, runs, (gain, bias) in (("3.0", "3", THIRD), ("4.0", "4", FOURTH)):
        write_remote_version(host.folder, version, server.url, runs=runs, gain=gain, bias=bias)
    with Console.at_work(host, capsys, monkeypatch) as made:
        assert server.asked == []
        yield made


def looked_at(console: Console) -> tuple[str, np.ndarray]:
    """Let whatever serves look at the images; return its version and its answers."""
    (models,) = console.host.running
    with models.for_study(str(console.host.folder), KEY) as chosen:
        return chosen.bundle.version, answers(chosen.engine)


def asked_as(console: Console, **changes: object) -> None:
    """Change how a worker that starts asks the server of models."""
    config = console.host.config
    remote = config.engine.remote.model_copy(update=changes)
    engine = config.engine.model_copy(update={"remote": remote})
    console.host.config = config.model_copy(update={"engine": engine})


def answers(engine: Engine) -> np.ndarray:
    return engine.answer(engine.submit(IMAGES, Lane.PREDICT))


def serves(console: Console, version: str, told: tuple[float, float]) -> None:
    """Hold what looks at studies to its version, and its answers to what is known by hand."""
    found, says = looked_at(console)
    assert found == version
    np.testing.assert_allclose(says, answer_of(IMAGES, *told), atol=1e-5)
    assert console.host.serving() == [version]


# -- taking over -----------------------------------------------------------------------------------


def test_it_takes_over_without_a_restart_and_is_held_to_its_golden_first(
    console: Console, server: ModelServer
) -> None:
    (models,) = console.host.running
    with models.for_study(str(console.host.folder), KEY) as before:
        code, said = console.run("deploy", "heads", "3.0")
        assert (code, "heads 3.0 looks at all studies: 1 worker loaded and" in said) == (OK, True)
        np.testing.assert_allclose(
            answers(before.engine), answer_of(IMAGES, *LOCAL), atol=1e-5
        )  # the study that it had begun
    assert server.batches
    assert len(console.host.running) == 1
    assert console.host.lost == []
    serves(console, "3.0", THIRD)
    assert console.run("deploy", "heads", "4.0")[0] == OK
    serves(console, "4.0", FOURTH)
    assert console.run("deploy", "heads", "1.0")[0] == OK
    serves(console, "1.0", LOCAL)


def test_a_share_of_studies_goes_to_the_server_and_the_rest_stays_here(
    console: Console, server: ModelServer
) -> None:
    assert console.run("deploy", "heads", "3.0", "--percent", "40")[0] == OK
    (models,) = console.host.running
    tried = len(server.batches)
    there = 0
    for n in range(40):
        with models.for_study(str(console.host.folder), key_of(f"1.2.{n}")) as chosen:
            told = {"1.0": LOCAL, "3.0": THIRD}[chosen.bundle.version]
            np.testing.assert_allclose(answers(chosen.engine), answer_of(IMAGES, *told), atol=1e-5)
            there += chosen.bundle.version == "3.0"
    assert 0 < there < 40
    assert sum(server.batches[tried:]) == there * len(IMAGES)


def test_a_worker_that_starts_while_the_server_is_away_says_nothing_of_a_study_until_it_is_back(
    console: Console, server: ModelServer
) -> None:
    assert console.run("deploy", "heads", "3.0")[0] == OK
    server.ready = False
    console.host.start()
    assert console.host.serving() == ["3.0"]
    with pytest.raises(Delayed, match="the server of models at .* has yet to load the model"):
        looked_at(console)
    server.ready = True
    console.host.start()
    serves(console, "3.0", THIRD)


# -- what never serves -----------------------------------------------------------------------------


def unready(server: ModelServer) -> None:
    server.ready = False


def busy(server: ModelServer) -> None:
    server.script = [503] * 100


def locked(server: ModelServer) -> None:
    server.token = "secret"  # noqa: S105


def without_it(server: ModelServer) -> None:
    server.version = "2"


def otherwise(server: ModelServer) -> None:
    server.model = lambda batch: answer_of(batch, *THIRD) * 0.9


def no_numbers(server: ModelServer) -> None:
    server.model = lambda batch: np.full((len(batch), 1), np.nan)


def other_size(server: ModelServer) -> None:
    server.shape = (-1, 64, 64, 3)


def another_under_its_name(server: ModelServer) -> None:
    server.alter = lambda tree: tree | {"model_version": "4"}


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (unready, "has yet to load the model"),
        (busy, "cannot now (503 scripted)"),
        (locked, "does not let us in (401 no): put engine.remote.token or token_file right"),
        (without_it, "answers v2/models/blood/versions/3 with 404"),
        (otherwise, "runs another model than was released: golden tensors differ by up to"),
        (no_numbers, "golden tensors differ by up to nan"),
        (other_size, "runs another model than was released: it takes images of 64 x 64"),
        (another_under_its_name, "answers with version 4, asked was 3"),
    ],
)
def test_a_server_that_is_away_or_answers_otherwise_never_serves_and_the_old_version_goes_on(
    console: Console, server: ModelServer, harm: Callable[[ModelServer], None], why: str
) -> None:
    right = replace(server)
    harm(server)
    code, said = console.run("deploy", "heads", "3.0")
    assert code == FAILED
    assert (
        "heads 3.0 does not serve, heads 1.0 goes on: worker 11111111 on here: the server" in said
    )
    assert why in said
    assert "limen model deploy heads 3.0" in said  # what to do when it is right again
    serves(console, "1.0", LOCAL)
    assert console.host.loaded() == {"1.0"}
    assert console.host.lost == []
    asked = len(server.asked)
    (models,) = console.host.running
    models.look()
    assert len(server.asked) == asked  # what was refused is not tried again unasked
    for name in ("ready", "script", "token", "version", "model", "shape", "alter"):
        setattr(server, name, getattr(right, name))
    server.script = []
    assert console.run("deploy", "heads", "3.0")[0] == OK
    serves(console, "3.0", THIRD)


def test_a_server_that_nobody_listens_at_never_serves(console: Console) -> None:
    (port,) = free_ports(1)
    away = f"http://127.0.0.1:{port}"
    asked_as(console, url=away)
    write_remote_version(console.host.folder, "5.0", away, runs="3")
    console.host.start()
    code, said = console.run("deploy", "heads", "5.0")
    assert (code, "does not answer" in said) == (FAILED, True)
    serves(console, "1.0", LOCAL)


def test_a_server_that_hangs_holds_no_study_up_and_never_serves(
    console: Console, server: ModelServer
) -> None:
    asked_as(console, timeout_s=0.5)
    models = console.host.start()
    server.silent = threading.Event()
    console.host.ask("3.0")
    looking = threading.Thread(target=models.look)
    looking.start()
    serves(console, "1.0", LOCAL)
    looking.join(30)
    assert not looking.is_alive()
    assert console.host.last().state.value == "refused"
    serves(console, "1.0", LOCAL)


def test_a_server_that_the_settings_do_not_name_is_asked_nothing(
    console: Console, server: ModelServer
) -> None:
    with model_server(shape=(-1, SIDE, SIDE, 3), model=model(*THIRD)) as stranger:
        write_remote_version(
            console.host.folder, "5.0", stranger.url, runs="3", gain=THIRD[0], bias=THIRD[1]
        )
        code, said = console.run("deploy", "heads", "5.0")
        assert stranger.asked == []
    assert (code, f"the settings allow {server.url}" in said) == (FAILED, True)
    assert "set engine.remote.url to it" in said
    serves(console, "1.0", LOCAL)


# -- back ------------------------------------------------------------------------------------------


@pytest.fixture
def deployed(console: Console) -> Console:
    """3.0 serves in place of 1.0."""
    assert console.run("deploy", "heads", "3.0")[0] == OK
    return console


@pytest.mark.parametrize("harm", [None, unready, otherwise])
def test_it_is_taken_back_whatever_the_server_does_and_asked_no_more(
    deployed: Console, server: ModelServer, harm: Callable[[ModelServer], None] | None
) -> None:
    if harm is not None:
        harm(server)
    asked = len(server.asked)
    code, said = deployed.run("rollback", "heads", "--reason", "the server was given another model")
    assert code == OK
    assert "heads 3.0 is taken back" in said
    assert "heads 1.0 looks at all studies" in said
    serves(deployed, "1.0", LOCAL)
    assert len(server.asked) == asked


def test_going_back_to_one_that_is_away_lets_studies_wait_and_gives_none_to_another(
    deployed: Console, server: ModelServer
) -> None:
    assert deployed.run("deploy", "heads", "2.0")[0] == OK
    busy(server)
    assert deployed.run("rollback", "heads")[0] == OK
    assert deployed.host.serving() == ["3.0"]
    with pytest.raises(Delayed, match="the server of models at .* cannot now .503 scripted"):
        looked_at(deployed)
    server.script = []
    deployed.host.start()
    serves(deployed, "3.0", THIRD)


def test_a_server_that_is_given_another_model_later_answers_no_study(
    deployed: Console, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves(deployed, "3.0", THIRD)
    monkeypatch.setattr(remote_backend, "CHECK_AGAIN_S", 0.0)
    otherwise(server)
    with pytest.raises(Delayed, match="runs another model than was released"):
        looked_at(deployed)
    assert deployed.run("rollback", "heads")[0] == OK
    serves(deployed, "1.0", LOCAL)


def made_by(console: Console, version: str) -> Result:
    """Return a prediction that came from a version."""
    document = result()
    assert document.model is not None
    bundle = versions.load_version(console.host.folder, version)
    own = {"name": "heads", "version": version, "sha256": bundle.sha256, "threshold": 0.5}
    return replace(document, model=replace(document.model, **own))


def test_what_it_predicted_is_explained_by_it_after_it_was_taken_back(
    deployed: Console, server: ModelServer
) -> None:
    assert deployed.run("rollback", "heads")[0] == OK
    models = deployed.host.start()
    with models.that_made(made_by(deployed, "3.0")) as (bundle, engine):
        assert bundle.version == "3.0"
        np.testing.assert_allclose(answers(engine), answer_of(IMAGES, *THIRD), atol=1e-5)
    models = deployed.host.start()
    unready(server)
    with (
        models.that_made(made_by(deployed, "3.0")) as (_, engine),
        pytest.raises(Delayed, match="has yet to load the model"),
    ):
        answers(engine)
    serves(deployed, "1.0", LOCAL)


def test_two_versions_of_one_server_are_told_apart_by_their_digest(console: Console) -> None:
    one, other = (versions.load_version(console.host.folder, v) for v in ("3.0", "4.0"))
    assert one.sha256 != other.sha256
    found: list[Deployment] = [console.host.ask(v) for v in ("3.0", "4.0")]
    assert found[0].digest != found[1].digest
