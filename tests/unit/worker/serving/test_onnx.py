"""A model that was not made with Keras: ONNX and OpenVINO's own format, run as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limen import config
from limen.command.edge import FAILED, OK, USAGE
from limen.errors import BundleError, ConfigError
from tests.support import synthetic
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.serving import self_test
from worker.serving.backends import choice
from worker.serving.backends.openvino_file import import_openvino, open_network, read_facts
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool
from worker.tools.model_golden import golden_tensor
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

SIDE = 32
SAID = Wishes(scale=(0.0, 1.0))
Array = np.ndarray


def weights(seed: int = 4) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "kernel": random.normal(0, 0.6, (4, 3, 3, 3)).astype(np.float32),
        "dense": random.normal(0, 0.5, (4, 1)).astype(np.float32),
        "bias": np.array([0.2], np.float32),
    }


def classifier(
    path: Path,
    *,
    batch: Any = "n",
    before: Sequence[Any] = (),
    image: str = "image",
    after: str = "Sigmoid",
    shape: Sequence[Any] = (3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    extra: Sequence[onnx.NodeProto] = (),
    pool: str = "",
) -> Path:
    """Write what torch.onnx.export writes of a small classifier: channels first."""
    nodes = [
        *before,
        helper.make_node("Conv", [image, "kernel"], ["c"], strides=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f" if not pool else "f0"]),
        *([helper.make_node("ReduceMean", ["f0"], ["f"], axes=[0])] if pool else []),
        helper.make_node("Gemm", ["f", "dense", "bias"], ["logit"]),
        *extra,
        helper.make_node(after, ["logit"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", kind, [batch, *shape])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [batch, 1])],
        [numpy_helper.from_array(values, name) for name, values in weights().items()]
        + [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in CONSTANTS.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return path


CONSTANTS = {
    "two": 2.0,
    "one": 1.0,
    "mean": [[[0.485]], [[0.456]], [[0.406]]],
    "deviation": [[[0.229]], [[0.224]], [[0.225]]],
}


def by_hand(tensor: Array) -> Array:
    """What the model above answers to (n, rows, columns, channels), in NumPy alone."""
    known = weights()
    image = tensor.transpose(0, 3, 1, 2).astype(np.float64)
    steps = range(0, SIDE - 2, 4)
    found = np.stack(
        [
            np.einsum("nchw,kchw->nk", image[:, :, y : y + 3, x : x + 3], known["kernel"])
            for y in steps
            for x in steps
        ]
    )
    logit = np.maximum(found, 0).mean(axis=0) @ known["dense"] + known["bias"]
    return 1 / (1 + np.exp(-logit))


def answer(bundle: Bundle, tensor: Array, **settings: Any) -> Array:
    with Engine(bundle, config.Engine(max_batch=8, **settings)) as engine:
        return engine.answer(engine.submit(tensor, Lane.PREDICT))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an ONNX model."""
    place = tmp_path_factory.mktemp("onnx")
    make(classifier(place / "model.onnx"), place / "bundle", SAID)
    return place / "bundle"


def test_an_onnx_classifier_becomes_a_bundle_that_answers_as_its_author_computes(
    folder: Path,
) -> None:
    found = self_test.check(folder)
    assert (found.weights_format, found.layout, found.input_shape) == ("onnx", "nchw", (32, 32, 3))
    assert found.output.activation == "none"
    tensor = np.random.default_rng(8).random((11, *found.input_shape), dtype=np.float32)
    assert np.abs(answer(found, tensor) - by_hand(tensor)).max() < 1e-5
    assert np.abs(found.golden_probability - by_hand(found.golden_tensor)).max() < 1e-5


def test_scale_means_activation_temperature_and_direction_are_those_of_the_manifest(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    text = (copy / "bundle.toml").read_text("utf-8")
    text = text.replace("scale = [0.0, 1.0]", f"scale = [-1, 1]\nmean = {list(mean)}", 1)
    text = text.replace("mean = ", f"deviation = {list(deviation)}\nmean = ", 1)
    text = text.replace("inverted = false", "inverted = true", 1)
    text = text.replace("temperature = 1.0", "temperature = 2.0", 1)
    (copy / "bundle.toml").write_text(text, "utf-8")
    found = bundles.load(copy)
    tensor = found.golden_tensor
    p = by_hand((tensor * 2 - 1 - np.array(mean)) / np.array(deviation))
    logit = np.log(p / (1 - p))
    assert answer(found, tensor) == pytest.approx(1 - 1 / (1 + np.exp(-logit / 2)), abs=1e-5)


def test_a_tensor_gets_the_same_digits_alone_and_in_company(folder: Path) -> None:
    found = bundles.load(folder)
    images = np.random.default_rng(3).random((20, *found.input_shape), dtype=np.float32)
    with Engine(found, config.Engine(max_batch=8)) as engine:
        assert engine.chosen.name == "openvino"
        together = engine.answer(engine.submit(images, Lane.EXPLAIN))
        alone = [engine.answer(engine.submit(one[None], Lane.PREDICT)) for one in images]
    np.testing.assert_array_equal(np.concatenate(alone), together)


def test_a_model_of_one_image_takes_batches_where_only_its_declaration_says_one(
    tmp_path: Path,
) -> None:
    made = make(classifier(tmp_path / "model.onnx", batch=1), Path("mine"), SAID).bundle
    assert np.abs(made.golden_probability - by_hand(made.golden_tensor)).max() < 1e-5


def test_a_file_of_openvino_is_pinned_with_its_constants(tmp_path: Path) -> None:
    openvino = import_openvino()
    network = open_network(classifier(tmp_path / "model.onnx"))
    openvino.save_model(network, tmp_path / "model.xml", compress_to_fp16=False)
    made = make(Path("model.xml"), Path("mine"), SAID).bundle
    assert self_test.check(Path("mine")).weights_format == "openvino"
    assert np.abs(made.golden_probability - by_hand(made.golden_tensor)).max() < 1e-5
    with Path("mine/model.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.bin: SHA-256 is .* weights\.constants_sha256"):
        bundles.load(Path("mine"))
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ConfigError, match=r"model\.bin does not exist; an \.xml file"):
        make(Path("model.xml"), Path("other"), SAID)


def test_the_command_makes_checks_shows_and_runs_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    classifier(Path("model.onnx"))
    synthetic.save(synthetic.instance(1), Path(), "1.dcm")
    new = ["new", "mine", "--from", "model.onnx"]
    assert model_tool.main(new) == USAGE
    assert "after torchvision: --scale 0 1 --mean 0.485,0.456,0.406" in capsys.readouterr().err
    normal = ["--scale", "0", "1", "--mean", "0.485,0.456,0.406", "--deviation", "0.229,0.224,0.2"]
    assert model_tool.main([*new, *normal]) == OK
    assert "the model ends with sigmoid" in capsys.readouterr().out
    assert model_tool.main(["check", "mine", "--as-configured"]) == OK
    assert model_tool.main(["info", "mine", "--json"]) == OK
    assert '"layout": "nchw"' in capsys.readouterr().out
    assert model_tool.main(["golden", "mine", "--example", "1.dcm", "--expect", "0.999"]) == FAILED
    assert "the author's program says 0.999" in capsys.readouterr().err
    assert model_tool.main(["convert", "mine"]) == USAGE
    assert "runs on OpenVINO as it is" in capsys.readouterr().err


# -- what is read from it --------------------------------------------------------------------------


def fronts() -> dict[str, tuple[list[onnx.NodeProto], str, tuple[float, float]]]:
    node = helper.make_node
    return {
        "nothing": ([], "image", (0, 1)),
        "x * 2 - 1": (
            [node("Mul", ["image", "two"], ["m"]), node("Sub", ["m", "one"], ["s"])],
            "s",
            (-1, 1),
        ),
        "means and deviations": (
            [node("Sub", ["image", "mean"], ["m"]), node("Div", ["m", "deviation"], ["d"])],
            "d",
            (-2.12, 2.64),
        ),
    }


def test_what_it_does_to_its_own_input_is_measured(tmp_path: Path) -> None:
    for name, (before, image, wanted) in fronts().items():
        facts = read_facts(classifier(tmp_path / "m.onnx", before=before, image=image), None)
        assert facts.front is not None, name
        assert facts.front.image(0, 1) == pytest.approx(wanted, abs=0.01), name


def test_a_logit_and_an_average_of_sigmoids_are_told_apart(tmp_path: Path) -> None:
    node = helper.make_node
    twice = [
        node("Sigmoid", ["logit"], ["a"]),
        node("Sigmoid", ["f2"], ["b"]),
        node("Max", ["a", "b"], ["both"]),
    ]
    logit = read_facts(classifier(tmp_path / "l.onnx", after="Identity"), None)
    both = read_facts(
        classifier(
            tmp_path / "b.onnx",
            extra=[node("Gemm", ["f", "dense", "bias"], ["f2"]), *twice],
            after="Identity",
        ),
        None,
    )
    assert logit.ending.activation == "linear"
    assert both.ending.activation in {"linear", "sigmoid"}
    made = make(tmp_path / "l.onnx", Path("mine"), SAID).bundle
    assert made.output.activation == "sigmoid"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (
            lambda p: classifier(p, batch=1, pool="over the batch"),
            "answers for 1 image, however many it is given; a batch is needed. Export",
        ),
        (
            lambda p: classifier(
                p,
                kind=TensorProto.UINT8,
                before=[helper.make_node("Cast", ["image"], ["s"], to=TensorProto.FLOAT)],
                image="s",
            ),
            "'image' takes u8; float32 is needed",
        ),
        (lambda p: p.write_bytes(b"no model"), r"cannot be read by OpenVINO .*torch\.onnx\.export"),
        (
            lambda p: classifier(p, shape=("c", "h", "w")),
            "does not tell where its channels are; say --layout nchw",
        ),
        (
            lambda p: classifier(
                p, before=[helper.make_node("Special", ["image"], ["s"], domain="mine")], image="s"
            ),
            "cannot be read by OpenVINO .*Special.* replace that in the model",
        ),
    ],
    ids=["batch", "type", "no model", "layout", "operation"],
)
def test_a_model_that_cannot_be_run_names_what_is_in_the_way(
    tmp_path: Path, write: Callable[[Path], Any], fault: str
) -> None:
    write(tmp_path / "model.onnx")
    with pytest.raises((BundleError, ConfigError), match=fault):
        make(tmp_path / "model.onnx", Path("mine"), SAID)
    assert not Path("mine").exists()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"backend": "tensorflow"}, r'runs on OpenVINO.* set both to "auto"'),
        ({"precision": "int8"}, r'runs on OpenVINO.* set both to "auto"'),
    ],
)
def test_settings_that_cannot_run_it_are_named(
    folder: Path, settings: dict[str, str], fault: str
) -> None:
    with pytest.raises(BundleError, match=fault):
        choice.choose(bundles.load(folder), config.Engine(**settings))
    with pytest.raises(BundleError, match=r"install limen\[openvino\]"):
        choice.possible(bundles.load(folder), config.Engine(), installed=lambda name: False)


def test_a_model_that_needs_more_memory_than_a_worker_may_have_fails_its_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMEN_WORKER__MAX_MEMORY_BYTES", str(32 << 20))
    assert model_tool.main(["check", str(folder)]) == FAILED
    said = capsys.readouterr().err
    assert "model.onnx needs too much memory: with openvino" in said
    assert "a worker may have 32 (worker.max_memory_bytes). Make that larger" in said
    monkeypatch.setenv("LIMEN_WORKER__MAX_MEMORY_BYTES", "0")
    assert model_tool.main(["check", str(folder)]) == OK


def test_altered_weights_are_refused_also_after_they_were_verified(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    intact = bundles.load(copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"put that file back, or make a bundle of this one"):
        bundles.load(copy)
    with pytest.raises(BundleError, match="altered after the bundle was verified"):
        Engine(intact)


def test_the_golden_tensors_here_are_those_of_every_format(folder: Path) -> None:
    np.testing.assert_array_equal(
        bundles.load(folder).golden_tensor, golden_tensor((SIDE, SIDE, 3))
    )
