"""Which backend runs a bundle, and that each of them gives the bundle's answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.errors import BundleError
from tests.support.services import REPOSITORY
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.serving.backends import choice
from worker.serving.engine import Engine, Lane, _warmed_up
from worker.serving.self_test import golden_check


@pytest.fixture(scope="module")
def bundle(converted_bundle: Path) -> Bundle:
    return bundles.load(converted_bundle)


def possible(bundle: Bundle, *packages: str, gpu: bool = False, **asked: str) -> list[str]:
    return choice.possible(
        bundle,
        config.Engine(**asked),
        installed=lambda name: name in packages,
        gpu=lambda: gpu,
    )


def exact(bundle: Bundle, *, enough: bool) -> Bundle:
    """Return the bundle with an int8 file that passes its gate, or does not."""
    int8 = replace(bundle.converted["int8"], exact_enough=enough)
    return replace(bundle, converted={**bundle.converted, "int8": int8})


def test_auto_takes_openvino_where_it_is_installed_and_has_files(bundle: Bundle) -> None:
    ours = exact(bundle, enough=False)
    both = ("openvino", "tensorflow")
    assert possible(ours, *both) == ["openvino-fp32"]
    assert possible(ours, "tensorflow") == ["tensorflow"]
    assert possible(replace(ours, converted={}), *both) == ["tensorflow"]


def test_auto_measures_only_what_may_change_the_answer(bundle: Bundle) -> None:
    both = ("openvino", "tensorflow")
    assert possible(exact(bundle, enough=False), *both, gpu=True) == ["openvino-fp32", "tensorflow"]
    exact_enough = exact(bundle, enough=True)
    assert possible(exact_enough, *both) == ["openvino-fp32", "openvino-int8"]
    assert possible(exact_enough, *both, precision="fp32") == ["openvino-fp32"]


def test_int8_that_is_not_exact_enough_runs_only_when_asked_for(bundle: Bundle) -> None:
    ours = exact(bundle, enough=False)
    assert possible(ours, "openvino", precision="int8") == ["openvino-int8"]
    assert possible(ours, "openvino") == ["openvino-fp32"]


@pytest.mark.parametrize(
    ("packages", "asked", "told"),
    [
        (("tensorflow",), {"backend": "openvino"}, "install limen[openvino]"),
        (("openvino",), {"backend": "tensorflow"}, "install limen[worker]"),
        (("openvino", "tensorflow"), {"backend": "openvino"}, "limen model convert"),
        (("openvino", "tensorflow"), {"precision": "int8"}, "--int8"),
        (("openvino", "tensorflow"), {"backend": "tensorflow", "precision": "int8"}, "openvino"),
        ((), {}, "TensorFlow is not installed"),
        (("openvino",), {}, "limen model convert"),
    ],
)
def test_what_cannot_run_says_what_to_do(
    bundle: Bundle, packages: tuple[str, ...], asked: dict[str, str], told: str
) -> None:
    with pytest.raises(BundleError) as caught:
        possible(replace(bundle, converted={}), *packages, **asked)
    assert told in str(caught.value)


class Steady:
    """Takes the same for each tensor, and more for its first batch of a size, on its own clock."""

    smallest_batch = 1

    def __init__(self, item_s: float, kernels_s: float = 0.0) -> None:
        self.now_s = 0.0
        self._item_s = item_s
        self._kernels_s = kernels_s
        self._seen: set[int] = set()

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.now_s += self._item_s * len(batch)
        self.now_s += 0 if len(batch) in self._seen else self._kernels_s
        self._seen.add(len(batch))
        return batch.mean(axis=(1, 2, 3))[:, None]


@pytest.mark.parametrize(("fast_s", "slow_s", "most_s"), [(0.001, 0.002, 30), (0.6, 5.0, 30)])
def test_the_fastest_backend_is_found_soon_however_slow_they_are(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fast_s: float, slow_s: float, most_s: float
) -> None:
    # The faster one takes longer for its first batches, as a GPU does.
    models = {"openvino-int8": Steady(slow_s), "openvino-fp32": Steady(fast_s, kernels_s=4.0)}
    monkeypatch.setattr(choice, "_open", lambda name, _: choice.Chosen(name, models[name], 1e-4))
    monkeypatch.setattr(choice.time, "perf_counter", lambda: sum(m.now_s for m in models.values()))
    chosen = choice.choose(exact(bundle, enough=True), config.Engine(backend="openvino"))
    assert chosen.name == "openvino-fp32"
    assert sum(m.now_s for m in models.values()) < most_s


@pytest.mark.parametrize(("item_s", "sizes"), [(0.6, [1, 2, 4, 8]), (5.0, [1])])
def test_a_slow_model_is_warmed_up_in_a_bounded_time(
    bundle: Bundle, item_s: float, sizes: list[int]
) -> None:
    model = Steady(item_s)
    found = _warmed_up(model, bundle, (1, 2, 4, 8, 16, 32), lambda: model.now_s)
    assert list(found) == sizes
    assert model.now_s <= 45


def test_kernels_that_take_long_to_make_stop_no_warm_up(bundle: Bundle) -> None:
    class Shared(Steady):
        def predict(self, batch: np.ndarray) -> np.ndarray:
            self.now_s += 0.1  # what a batch costs beside its tensors
            return super().predict(batch)

    model = Shared(0.001, kernels_s=15.0)
    assert list(_warmed_up(model, bundle, (8, 16, 32), lambda: model.now_s)) == [8, 16, 32]


@pytest.mark.parametrize("name", ["openvino-fp32", "openvino-int8", "tensorflow"])
def test_a_slice_gets_the_same_digits_alone_and_in_company(bundle: Bundle, name: str) -> None:
    backend, _, precision = name.partition("-")
    images = np.random.default_rng(3).random((20, 32, 32, 3), dtype=np.float32)
    settings = config.Engine(backend=backend, precision=precision or "fp32")
    with Engine(bundle, settings) as engine:
        assert engine.chosen.name == name
        golden_check(engine, bundle)
        together = engine.submit(images, Lane.EXPLAIN).result(20)
        alone = [engine.submit(i[None], Lane.PREDICT).result(20) for i in images]
    np.testing.assert_array_equal(np.concatenate(alone), together)


def test_both_backends_give_the_same_probabilities(bundle: Bundle) -> None:
    images = np.random.default_rng(5).random((16, 32, 32, 3), dtype=np.float32)
    found = []
    for backend in ("openvino", "tensorflow"):
        with Engine(bundle, config.Engine(backend=backend, precision="fp32")) as engine:
            found.append(engine.submit(images, Lane.PREDICT).result(20))
    np.testing.assert_allclose(found[0], found[1], atol=choice.OPENVINO_TOLERANCE)


def test_auto_with_two_candidates_measures_and_takes_one_of_them(bundle: Bundle) -> None:
    chosen = choice.choose(exact(bundle, enough=True), config.Engine())
    assert chosen.name in {"openvino-fp32", "openvino-int8"}


def test_an_answer_far_from_the_golden_one_is_refused_with_what_to_do(bundle: Bundle) -> None:
    other = replace(bundle, golden_probability=bundle.golden_probability + np.float32(2e-4))
    with (
        Engine(other, config.Engine(precision="fp32")) as engine,
        pytest.raises(BundleError, match="openvino-fp32.*limen model convert"),
    ):
        golden_check(engine, other)


def test_a_batch_size_that_changes_the_digits_is_left_out(bundle: Bundle) -> None:
    class OtherKernel:
        """Stands for a library that takes another kernel for batches of 32."""

        def predict(self, batch: np.ndarray) -> np.ndarray:
            found = batch.mean(axis=(1, 2, 3))[:, None]
            return np.nextafter(found, np.float32(1)) if len(batch) == 32 else found

    assert list(_warmed_up(OtherKernel(), bundle, (8, 16, 32), lambda: 0.0)) == [8, 16]


def test_larger_batches_are_tried_while_they_make_each_item_faster(bundle: Bundle) -> None:
    class Shared:
        """Has an overhead that batches share, up to 8 tensors."""

        now_ms = 0.0

        def predict(self, batch: np.ndarray) -> np.ndarray:
            self.now_ms += 2.0 + len(batch) if len(batch) < 8 else 1.25 * len(batch)
            return batch.mean(axis=(1, 2, 3))[:, None]

    model = Shared()
    found = _warmed_up(model, bundle, (1, 2, 4, 8, 16, 32), lambda: model.now_ms / 1000)
    assert found == pytest.approx({1: 0.003, 2: 0.004, 4: 0.006, 8: 0.010, 16: 0.020})


@pytest.fixture
def copy(converted_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("name", ["model-fp32.xml", "model-fp32.bin", "model-int8.bin"])
def test_altered_openvino_files_are_refused(copy: Path, name: str) -> None:
    intact = bundles.load(copy)
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=f"{name}: its SHA-256.*limen model convert"):
        bundles.load(copy)
    precision = name.split(".", maxsplit=1)[0].removeprefix("model-")
    with pytest.raises(BundleError, match="altered after the bundle was verified"):
        choice.choose(intact, config.Engine(backend="openvino", precision=precision))


def test_openvino_files_that_are_not_there_are_refused(copy: Path) -> None:
    (copy / "model-fp32.bin").unlink()
    with pytest.raises(BundleError, match=r"model-fp32\.bin: does not exist"):
        bundles.load(copy)


def test_openvino_files_of_other_weights_are_refused(copy: Path) -> None:
    manifest = copy / "bundle.toml"
    text = manifest.read_text("utf-8")
    made_from = text.split('made_from = "')[1][:64]
    manifest.write_text(text.replace(f'made_from = "{made_from}"', f'made_from = "{"0" * 64}"', 1))
    with pytest.raises(BundleError, match="made from other weights"):
        bundles.load(copy)


CHILD = """
import json, sys
calls = []
sys.addaudithook(lambda name, args: calls.append(name) if name.startswith("socket.") else None)
import worker.process
from limen.config import Config
from worker.serving.repository import Repository
models = Repository(Config())
with models.using(next(iter(models.named.values()))) as (_, engine):
    modules = sorted({m.split(".")[0] for m in sys.modules})
    print(json.dumps([engine.chosen.name, calls, modules]))
models.close()
"""


def test_a_worker_on_openvino_loads_no_tensorflow_and_calls_nobody(
    converted_bundle: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    route = [{"name": "a", "modality": "CT", "bundle": str(converted_bundle)}]
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "HOME": str(home), "LIMEN_ROUTE": json.dumps(route)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    name, calls, modules = json.loads(done.stdout.splitlines()[-1])
    assert name.startswith("openvino")
    assert not {"tensorflow", "keras", "nncf"} & set(modules)
    assert not [c for c in calls if c in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}]
    assert list(home.rglob("*intel*")) == []
