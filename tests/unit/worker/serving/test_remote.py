"""A model on another server: held to what was released, and where it is away studies wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from limen import config
from limen.command.edge import FAILED, OK, USAGE
from limen.errors import BundleError, Delayed, EngineError
from limen.result import Outcome
from tests.support import synthetic
from tests.support.model_server import SIDE, ModelServer, model_server
from tests.support.predictions import STAMP, instances, predict
from tests.support.synthetic import BrightBlood, fake_bundle
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Remote as Place
from worker.dicom.decoder import Decoder
from worker.serving import self_test
from worker.serving.backends import remote as remote_backend
from worker.serving.backends.remote import Remote
from worker.serving.engine import Engine, Lane
from worker.study.explanation import explain_study
from worker.tools import model_tool


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


IMAGES = np.random.default_rng(18).random((7, SIDE, SIDE, 3), dtype=np.float32)
TRUE = BrightBlood().predict(IMAGES)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as served:
        yield served
        assert served.faults == []


def settings(server: ModelServer, **changes: Any) -> config.Engine:
    return config.Engine(
        max_batch=4, max_wait_ms=0, remote=config.RemoteModels(url=server.url, **changes)
    )


def released(server: ModelServer, **changes: Any) -> Bundle:
    golden = IMAGES[:2]
    return fake_bundle(
        remote=Place(url=server.url, model="blood", version="3"),
        weights_format="remote",
        golden_tensor=golden,
        golden_probability=BrightBlood().predict(golden),
        **changes,
    )


def ask(engine: Engine, images: np.ndarray = IMAGES) -> np.ndarray:
    return engine.answer(engine.submit(images, Lane.PREDICT))


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_a_batch_is_answered_as_the_model_answers_it(server: ModelServer, binary: bool) -> None:
    server.binary = binary
    with Engine(released(server), settings(server)) as engine:
        self_test.golden_check(engine, released(server))
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)
    assert engine.chosen.name == "remote"
    assert max(server.batches) == 4


def test_scale_layout_and_activation_are_those_of_the_bundle(server: ModelServer) -> None:
    def model(batch: np.ndarray) -> np.ndarray:  # channels first, -1 to 1, a logit
        p = BrightBlood().predict((batch.transpose(0, 2, 3, 1) + 1) / 2)
        return np.log(p / (1 - p))

    server.model, server.shape = model, (-1, 3, SIDE, SIDE)
    bundle = released(server, scale=(-1.0, 1.0), layout="nchw")
    bundle = replace(bundle, output=bundle.output.model_copy(update={"activation": "sigmoid"}))
    with Engine(bundle, settings(server)) as engine:
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-4)


def test_a_token_is_shown_and_read_anew_from_its_file(server: ModelServer, tmp_path: Path) -> None:
    server.token, file = "first", tmp_path / "token"
    file.write_text("first\n")
    with Engine(released(server), settings(server, token_file=file)) as engine:
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)
        server.token = "second"  # noqa: S105
        with pytest.raises(Delayed, match="does not let us in .* engine.remote.token"):
            ask(engine)
    file.write_text("second\n")
    with Engine(released(server), settings(server, token_file=file)) as engine:
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)
    with Engine(released(server), settings(server, token="second")) as engine:  # noqa: S106
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)


def test_a_certificate_has_to_be_signed_by_whom_the_settings_name(tmp_path: Path) -> None:
    import ssl

    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    for name, ca in (("ours", authority), ("other", stranger)):
        ca.cert_pem.write_to_path(tmp_path / name)
    with model_server(tls=context) as served:
        ours = settings(served, ca_file=tmp_path / "ours")
        with Engine(released(served), ours) as engine:
            np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)
        other = Remote(released(served), settings(served, ca_file=tmp_path / "other").remote)
        with pytest.raises(Delayed, match="its certificate is not trusted, see engine.remote"):
            other.predict(IMAGES)


# -- away ------------------------------------------------------------------------------------------


def test_a_server_that_is_away_at_the_start_costs_no_start_and_serves_when_it_comes() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    where, clock = ModelServer(url=f"http://127.0.0.1:{port}"), Clock()
    backend = Remote(released(where), settings(where).remote, clock)
    with Engine(released(where), settings(where)) as engine:
        self_test.golden_check(engine, released(where), patient=True)
        with pytest.raises(Delayed, match=r"the server of models at http://127.* does not answer"):
            ask(engine)
    with pytest.raises(Delayed, match="does not answer"):
        backend.predict(IMAGES)
    with model_server(port) as served:
        with pytest.raises(Delayed):  # it is not asked yet
            backend.predict(IMAGES)
        assert served.asked == []
        clock.advance(remote_backend.FIRST_WAIT_S)
        np.testing.assert_allclose(backend.predict(IMAGES), TRUE, atol=1e-6)


def test_it_is_asked_less_often_the_longer_it_is_away(server: ModelServer) -> None:
    clock, server.ready = Clock(), False
    backend = Remote(released(server), settings(server).remote, clock)
    looks = []
    for _ in range(200):
        with pytest.raises(Delayed, match="has yet to load the model"):
            backend.predict(IMAGES)
        looks.append(len(server.asked))
        clock.advance(1.0)
    asked = np.flatnonzero(np.diff(looks)) + 1
    assert list(np.diff(asked)[:4]) == [2, 4, 8, 16]
    assert np.diff(asked).max() == remote_backend.LONGEST_WAIT_S


def test_a_study_is_called_nothing_while_it_is_away(server: ModelServer, tmp_path: Path) -> None:
    bundle, paths = released(server), synthetic.series(tmp_path, 3, lesion_in=(2,))
    with Decoder(1) as decoder, Engine(bundle, settings(server)) as engine:
        result = predict(paths, decoder, engine, bundle).result
        assert result.outcome is Outcome.POSITIVE
        server.script = [503]
        with pytest.raises(Delayed):
            predict(paths, decoder, engine, bundle)
        how = config.Explain(samples=40, max_explained=1)
        with pytest.raises(Delayed):
            explain_study(result, instances(paths), decoder, engine, bundle, how, STAMP)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_waits_for_it_is_told_so_and_the_engine_goes_on(
    server: ModelServer, status: int
) -> None:
    lost = threading.Event()
    backend = Remote(released(server), settings(server).remote, clock := Clock())
    with Engine(released(server), settings(server), backend=backend, on_lost=lost.set) as engine:
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)
        server.script = [status]
        with pytest.raises(Delayed, match=f"cannot now .{status} scripted"):
            ask(engine)
        clock.advance(2.0)
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)
    assert not lost.is_set()


def test_an_answer_that_does_not_come_in_time_is_none(server: ModelServer) -> None:
    backend = Remote(released(server), settings(server, timeout_s=0.3).remote)
    np.testing.assert_allclose(backend.predict(IMAGES), TRUE, atol=1e-6)
    server.silent = threading.Event()
    with pytest.raises(Delayed, match="does not answer"):
        backend.predict(IMAGES)


def test_an_answer_that_drips_is_given_up_when_its_time_is_over(server: ModelServer) -> None:
    backend = Remote(released(server), settings(server, timeout_s=0.5).remote)
    backend.predict(IMAGES)
    server.drip_s = 0.2
    began_s = time.monotonic()
    with pytest.raises(Delayed, match="did not end its answer in time"):
        backend.predict(IMAGES)
    assert time.monotonic() - began_s < 5


# -- another model than was released ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": "4"}, "answers v2/models/blood/versions/3 with 404"),
        ({"name": "other"}, "answers v2/models/blood/versions/3 with 404"),
        ({"shape": (-1, 32, 32, 3)}, "runs another model .* takes images of 32 x 32"),
        ({"shape": (-1, SIDE, SIDE, 1)}, "runs another model .* takes 1 channels"),
        ({"outputs": 2}, "runs another model .* gives 2 outputs"),
        ({"datatype": "UINT8"}, "takes UINT8 as .image.; export it with FP32"),
        (
            {"model": lambda batch: BrightBlood().predict(batch) * 0.9},
            "runs another model .* golden tensors differ by up to",
        ),
        ({"model": lambda batch: np.full((len(batch), 1), np.nan)}, "golden tensors differ"),
    ],
    ids=["version", "name", "size", "channels", "outputs", "type", "answers", "NaN"],
)
def test_a_study_waits_where_it_runs_something_else(changes: dict[str, Any], fault: str) -> None:
    with model_server(**changes) as served:
        backend = Remote(released(served), settings(served).remote)
        with pytest.raises(Delayed, match=fault):
            backend.predict(IMAGES)


def test_a_model_that_is_changed_while_it_serves_is_noticed(server: ModelServer) -> None:
    backend = Remote(released(server), settings(server).remote, clock := Clock())
    backend.predict(IMAGES)
    server.model = lambda batch: BrightBlood().predict(batch) * 0.9
    clock.advance(remote_backend.CHECK_AGAIN_S)
    with pytest.raises(Delayed, match="golden tensors differ"):
        backend.predict(IMAGES)


@pytest.mark.parametrize(
    ("alter", "fault"),
    [
        (lambda tree: tree | {"model_version": "4"}, "version 4, asked was 3"),
        (lambda tree: tree | {"outputs": []}, "without the output p"),
        (
            lambda tree: tree | {"outputs": [tree["outputs"][0] | {"shape": [1, 1]}]},
            "do not fill their shape",
        ),
        (lambda tree: tree | {"outputs": [tree["outputs"][0] | {"datatype": "INT8"}]}, "INT8"),
    ],
    ids=["version", "no output", "shape", "type"],
)
def test_an_answer_that_is_not_the_protocol_is_no_answer(
    server: ModelServer, alter: Any, fault: str
) -> None:
    backend = Remote(released(server), settings(server).remote)
    backend.predict(IMAGES)
    server.alter = alter
    with pytest.raises(Delayed, match=fault):  # the golden tensors get none either
        backend.predict(IMAGES)


def test_a_slice_that_it_refuses_fails_alone(server: ModelServer) -> None:
    def model(batch: np.ndarray) -> np.ndarray:
        found = BrightBlood().predict(batch)
        return found[:-1] if (batch[..., 0].mean(axis=(1, 2)) > 0.99).any() else found

    server.model = model
    white = np.ones((1, SIDE, SIDE, 3), np.float32)
    with Engine(released(server), settings(server)) as engine:
        with pytest.raises(EngineError, match="failed on this input"):
            ask(engine, white)
        np.testing.assert_allclose(ask(engine), TRUE, atol=1e-6)


def test_pixels_go_nowhere_that_the_settings_do_not_name(server: ModelServer) -> None:
    for allowed in ("", "https://elsewhere:8000"):
        remote = config.RemoteModels(url=allowed)
        with pytest.raises(BundleError, match="set engine.remote.url to it"):
            Engine(released(server), config.Engine(remote=remote))
    assert server.asked == []


# -- a bundle of it --------------------------------------------------------------------------------


def test_a_bundle_is_made_checked_and_shown(
    server: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIMEN_CONFIG", raising=False)
    new = ["new", "mine", "--remote", server.url, "blood", "3", "--scale", "0", "1"]
    assert model_tool.main(new) == FAILED
    assert "set engine.remote.url to it" in capsys.readouterr().err
    monkeypatch.setenv("LIMEN_ENGINE__REMOTE__URL", server.url)
    assert model_tool.main(["new", "mine", "--remote", f"{server.url}/v2", "blood", "3"]) == USAGE
    assert "url cannot be that; say the server without a path" in capsys.readouterr().err
    assert model_tool.main([*new, "--activation", "none"]) == OK
    assert f"written, with blood 3 of {server.url}" in capsys.readouterr().out
    found = bundles.load(Path("mine"))
    assert found.remote == Place(url=server.url, model="blood", version="3")
    assert len(found.sha256) == 64
    assert model_tool.main(["check", "mine"]) == OK
    assert f"{server.url} runs blood 3" in capsys.readouterr().out
    assert model_tool.main(["info", "mine", "--json"]) == OK
    assert '"format": "remote"' in capsys.readouterr().out
    assert model_tool.main(["convert", "mine"]) == USAGE
    assert "there is nothing to convert" in capsys.readouterr().err
    server.version = "4"
    assert model_tool.main(["check", "mine"]) == FAILED
    assert "answers v2/models/blood/versions/3 with 404" in capsys.readouterr().err
