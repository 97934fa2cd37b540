"""Real servers of models, asked as a node asks them: Triton, by bytes, and MLServer, by JSON.

They are heavy, and no part of the environment of Limen. Each is taken from one of its own, with
nvidia-pytriton or mlserver, whose Python TRITON_PYTHON or MLSERVER_PYTHON names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from limen import config
from limen.command.edge import FAILED, OK
from limen.errors import Delayed
from tests.support.ports import free_ports
from tests.support.synthetic import fake_bundle
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Remote as Place
from worker.serving.backends.remote import Remote
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool

HERE = Path(__file__).parent / "model_servers"
START_S = 120.0
IMAGES = np.random.default_rng(18).random((40, 64, 64, 3), dtype=np.float32)
IMAGES *= np.linspace(0.4, 1.6, 40, dtype=np.float32)[:, None, None, None]
IMAGES = np.clip(IMAGES, 0, 1)


def truth(images: np.ndarray) -> np.ndarray:
    """What the model says, in NumPy alone."""
    level = images[..., 0].mean(axis=(1, 2), dtype=np.float64)
    return (1 / (1 + np.exp(8 - 16 * level)))[:, None].astype(np.float32)


def python_of(name: str, package: str) -> Path:
    variable = f"{name.upper()}_PYTHON"
    if variable not in os.environ:
        pytest.skip(f"no {name}: {variable} names no Python that has {package}")
    return Path(os.environ[variable])


@contextmanager
def running(words: list[str], url: str, environment: dict[str, str]) -> Iterator[str]:
    """Run a server until the end of the block; it is ready when its model is."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    with subprocess.Popen(
        words,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            ends_s = time.monotonic() + START_S
            while not ready(url):
                assert process.poll() is None, f"{words} ended"
                assert time.monotonic() < ends_s, f"{words} did not start"
                time.sleep(0.2)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def ready(url: str) -> bool:
    try:
        return all(
            requests.get(f"{url}/v2/models/{name}/versions/1/ready", timeout=2).ok
            for name in ("blood", "two")
        )
    except requests.RequestException:
        return False


@contextmanager
def triton() -> Iterator[str]:
    python = python_of("triton", "nvidia-pytriton")
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    library = subprocess.check_output([python, "-c", asked], text=True).strip()
    (port,) = free_ports(1)
    words = [str(python), str(HERE / "triton.py"), str(port)]
    with running(words, f"http://127.0.0.1:{port}", {"LD_LIBRARY_PATH": library}) as url:
        yield url


@contextmanager
def mlserver() -> Iterator[str]:
    python = python_of("mlserver", "mlserver")
    http, grpc, metrics = free_ports(3)
    environment = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_PARALLEL_WORKERS": "0",
    }
    words = [str(python.parent / "mlserver"), "start", str(HERE / "mlserver")]
    with running(words, f"http://127.0.0.1:{http}", environment) as url:
        yield url


@pytest.fixture(scope="module", params=[triton, mlserver], ids=["triton", "mlserver"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param() as found:
        yield found


def released(url: str, version: str = "1") -> Bundle:
    golden = IMAGES[::10]
    return fake_bundle(
        remote=Place(url=url, model="blood", version=version),
        weights_format="remote",
        golden_tensor=golden,
        golden_probability=truth(golden),
    )


def test_a_real_server_answers_in_batches_what_its_model_computes(url: str) -> None:
    settings = config.Engine(max_batch=16, remote=config.RemoteModels(url=url))
    with Engine(released(url), settings) as engine:
        found = engine.answer(engine.submit(IMAGES, Lane.PREDICT))
    assert np.ptp(found) > 0.9
    np.testing.assert_allclose(found, truth(IMAGES), atol=1e-6)


def test_a_version_that_a_real_server_does_not_have_is_waited_for(url: str) -> None:
    backend = Remote(released(url, "7"), config.RemoteModels(url=url))
    with pytest.raises(Delayed, match="blood"):
        backend.predict(IMAGES[:1])


def test_a_bundle_of_a_real_server_is_made_and_held_to_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMEN_ENGINE__REMOTE__URL", url)
    new = ["new", "mine", "--remote", url, "blood", "1", "--scale", "0", "1"]
    assert model_tool.main([*new, "--activation", "none"]) == OK
    made = bundles.load(Path("mine"))
    np.testing.assert_allclose(made.golden_probability, truth(made.golden_tensor), atol=1e-6)
    assert model_tool.main(["check", "mine"]) == OK
    golden = dict(np.load("mine/golden.npz"))
    golden["probability"] = 1 - golden["probability"]
    np.savez("mine/golden.npz", **golden)
    assert model_tool.main(["check", "mine"]) == FAILED


def test_a_real_server_is_given_each_input_by_its_name(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMEN_ENGINE__REMOTE__URL", url)
    new = ["new", "mine", "--remote", url, "two", "1", "--scale", "0", "1", "--activation", "none"]
    assert model_tool.main([*new, "--input", "zeta=40/380", "--input", "alpha=40/80,80/200"]) == OK
    assert model_tool.main(["check", "mine"]) == OK
    made = bundles.load(Path("mine"))
    images = IMAGES * np.array([1, 0.5, 0.8], np.float32)  # no channel is like another
    zeta, alpha = (
        images[..., list(made.tensors[name])].mean(axis=(1, 2, 3), dtype=np.float64)
        for name in ("zeta", "alpha")
    )
    with Engine(made, config.Engine(remote=config.RemoteModels(url=url))) as engine:
        found = engine.answer(engine.submit(images, Lane.PREDICT))
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(6 * zeta - 9 * alpha)), atol=1e-6)
