"""A model with several inputs, all made of one slice: each has windows of its own, by its name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen import config
from limen.command.edge import FAILED, OK, USAGE
from limen.result import Outcome, Phase
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.model_server import model_server
from tests.support.onnx_models import of_means, of_named_means
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.serving import self_test
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool

SIDE = 64
SHAPES = {"bone": (SIDE, SIDE, 2), "brain": (SIDE, SIDE, 1)}
WINDOWS = ((600.0, 2800.0), (40.0, 380.0), (40.0, 80.0))
"""Of the inputs, one behind the other."""

WEIGHTS, BIAS = np.array([-2.0, 1.0, 300.0]), -98.5
INPUTS = ("--input", "bone=600/2800,40/380", "--input", "brain=40/80")
BLOOD = synthetic.head_hu(lesion=True)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keras_model(path: str, shapes: dict[str, tuple[int, ...]], *, by_name: bool = False) -> str:
    """Write a model whose answer is that of ``expected``, where the shapes are those here."""
    _, keras = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        given = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
        pool = keras.layers.GlobalAveragePooling2D()
        means = [pool(one) if len(one.shape) == 4 else one for one in given.values()]
        head = keras.layers.Dense(1, activation="sigmoid")
        answer = head(keras.layers.Concatenate()(means))
        model = keras.Model(given if by_name else list(given.values()), answer)
        if len(WEIGHTS) == means[0].shape[-1] + means[1].shape[-1] and len(means) == 2:
            head.set_weights([WEIGHTS[:, None], np.array([BIAS])])
        model.save(path)
    return path


def expected(hu: np.ndarray) -> float:
    """Return what the model says of a slice of 64 x 64, in NumPy alone."""
    means = [np.clip((hu - (c - w / 2)) / w, 0, 1).mean() for c, w in WINDOWS]
    return float(1 / (1 + np.exp(-(np.array(means) @ WEIGHTS + BIAS))))


def model(kind: str) -> str:
    """Write the model in one of its forms, and return its file."""
    if kind == "onnx":
        return str(of_named_means(Path("model.onnx"), SHAPES, WEIGHTS, BIAS))
    return keras_model("model.keras", SHAPES, by_name=kind == "keras, by name")


def new(source: str, *said: str) -> int:
    return model_tool.main(["new", "mine", "--from", source, "--scale", "0", "1", *said])


def card(capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert model_tool.main(["info", "mine", "--json"]) == OK
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["keras", "keras, by name", "onnx"])
def test_a_model_of_two_inputs_is_made_checked_and_judges_and_explains_a_study(
    kind: str, tmp_path: Path, decoder: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(model(kind), *INPUTS) == OK
    said = capsys.readouterr().out
    assert "channels: bone 0, 1; brain 2" in said
    assert model_tool.main(["check", "mine"]) == OK
    found = card(capsys)["input"]
    assert found["tensors"] == {"bone": [0, 1], "brain": [2]}
    assert found["windows_hu"] == [[600, 2800], [40, 380], [40, 80]]
    if kind == "keras":
        assert model_tool.main(["convert", "mine"]) == OK
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8").replace("samples = 96", "samples = 40")
    text = text.replace("[accepts]", '[accepts]\nmin_extent_mm = 0\nlooks_like = ""', 1)
    manifest.write_text(text, "utf-8")
    with BundleWorker(tmp_path / "node", tmp_path / "mine", decoder) as worker:
        slices = [synthetic.head_hu(), BLOOD, synthetic.head_hu()]
        paths = [
            synthetic.save(
                synthetic.instance(n, pixels=hu.astype(np.int16)), worker.spool, f"{n}.dcm"
            )
            for n, hu in enumerate(slices, start=1)
        ]
        told = worker.analyse(paths)
    predicted = next(one for one in told if one.phase is Phase.PREDICTION)
    assert predicted.outcome is Outcome.POSITIVE
    for image, hu in zip(predicted.images, slices, strict=True):
        assert image.probability is not None
        assert image.probability["positive"] == pytest.approx(expected(hu), abs=1e-4)
    explained = next(one for one in told if one.phase is Phase.EXPLANATION)
    (one,) = explained.explanations
    assert one.baseline_probability is not None
    assert one.baseline_probability < 0.5 < one.probability  # hidden of both inputs at once


@pytest.mark.parametrize("kind", ["keras", "onnx"])
def test_every_backend_gives_the_answer_that_is_known_by_hand(kind: str) -> None:
    assert new(model(kind), *INPUTS) == OK
    if kind == "keras":
        assert model_tool.main(["convert", "mine"]) == OK
    tensor = np.random.default_rng(3).random((5, SIDE, SIDE, 3), dtype=np.float32) * 0.65
    true = 1 / (1 + np.exp(-(tensor.mean(axis=(1, 2)) @ WEIGHTS + BIAS)))
    found = bundles.load(Path("mine"))
    for backend in ("tensorflow", "openvino") if kind == "keras" else ("openvino",):
        settings = config.Engine(backend=backend, precision="fp32")  # type: ignore[arg-type]
        with Engine(found, settings) as engine:
            answer = engine.answer(engine.submit(tensor, Lane.PREDICT))
        assert np.abs(answer[:, 0] - true).max() <= 1e-4


def test_neighbours_may_be_for_one_input_alone(capsys: pytest.CaptureFixture[str]) -> None:
    of_named_means(
        Path("model.onnx"),
        {"around": (SIDE, SIDE, 3), "middle": (SIDE, SIDE, 2)},
        np.array([1.0, 0, 0, 0, 8.0]),
        -3,
    )
    said = ("--input", "around=40/80", "--input", "middle=40/380,600/2800", "--neighbours", "1")
    assert new("model.onnx", *said) == OK
    assert card(capsys)["input"]["tensors"] == {"around": [0, 3, 6], "middle": [4, 5]}
    bundle = bundles.load(Path("mine"))
    tensor = np.zeros((1, SIDE, SIDE, 9), np.float32)
    tensor[..., 0], tensor[..., 5] = 0.5, 0.25  # below: brain; the slice itself: bone
    with Engine(bundle, config.Engine()) as engine:
        answer = engine.answer(engine.submit(tensor, Lane.PREDICT))
    assert answer[0, 0] == pytest.approx(1 / (1 + np.exp(-(0.5 + 2 - 3))), abs=1e-4)


def test_an_input_that_gets_the_channels_of_another_fails_its_golden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = {"bone": (SIDE, SIDE, 1), "brain": (SIDE, SIDE, 1)}
    of_named_means(Path("model.onnx"), shapes, np.array([-2.0, 30.0]), -10)
    assert new("model.onnx", "--input", "bone=600/2800", "--input", "brain=40/80") == OK
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    swapped = text.replace('{ "bone" = [0], "brain" = [1] }', "{ bone = [1], brain = [0] }")
    assert swapped != text
    manifest.write_text(swapped, "utf-8")
    assert model_tool.main(["check", "mine"]) == FAILED
    fault = capsys.readouterr().err
    assert 'input.tensors is {"bone": [1], "brain": [0]}, was {"bone": [0], "brain": [1]}' in fault
    assert "limen model golden" in fault


AGE = {"image": (SIDE, SIDE, 3), "age": (1,)}
SMALL = {"large": (SIDE, SIDE, 2), "small": (32, 32, 1)}


@pytest.mark.parametrize(
    ("shapes", "said", "status", "fault"),
    [
        (SHAPES, (), USAGE, "has the inputs bone (2 channels), brain (1 channel), all made from"),
        (SHAPES, (), USAGE, "such as --input bone=40/80 --input brain=40/80 (said: none)"),
        (SHAPES, ("--windows", "40/80,40/380,600/2800"), USAGE, "--windows: model.keras has sever"),
        (SHAPES, INPUTS[:2], USAGE, "(said: bone)"),
        (SHAPES, (*INPUTS[:2], "--input", "liver=40/80"), USAGE, "(said: bone, liver)"),
        (SHAPES, ("--input", "bone=40/80", *INPUTS[2:]), USAGE, "--input bone says 1 windows, and"),
        (SHAPES, (*INPUTS, *INPUTS), USAGE, "--input names an input twice"),
        (SHAPES, ("--input", "brain"), USAGE, "is not NAME=CENTRE/WIDTH, such as brain=40/80"),
        (AGE, (), FAILED, "its input 'age' takes (1), which is no image; Limen gives a model what"),
        (SMALL, (), FAILED, "has inputs of several sizes (large (64, 64, 2), small (32, 32, 1))"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_of_a_slice_or_is_not_said_is_refused(
    shapes: dict[str, tuple[int, ...]],
    said: tuple[str, ...],
    status: int,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keras_model("model.keras", shapes)
    try:
        found = new("model.keras", *said)
    except SystemExit as exc:  # an option that cannot be read
        found = exc.code  # type: ignore[assignment]
    assert found == status
    assert fault in capsys.readouterr().err
    assert not Path("mine").exists()


def test_a_model_of_one_input_is_told_by_windows(capsys: pytest.CaptureFixture[str]) -> None:
    path = of_means(Path("one.onnx"), (SIDE, SIDE, 1), np.array([[3.0]]), (-1.0,))
    assert new(str(path), "--input", "image=40/80") == USAGE
    assert "--input image: one.onnx has one input; say its channels with --windows" in (
        capsys.readouterr().err
    )


def test_an_integer_beside_the_image_of_an_onnx_model_is_no_image(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import onnx  # noqa: PLC0415 - only here
    from onnx import TensorProto, helper  # noqa: PLC0415

    path = of_named_means(Path("model.onnx"), SHAPES, WEIGHTS, BIAS)
    made = onnx.load(path)
    made.graph.input.append(helper.make_tensor_value_info("age", TensorProto.INT64, ["n", 1]))
    onnx.save(made, path)
    assert new("model.onnx", *INPUTS) == FAILED
    assert "its input 'age' takes (1), which is no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ("{ bone = [0, 1], liver = [2] }", "has the inputs bone, brain, but input.tensors of"),
        ("{ bone = [0], brain = [1, 2] }", "takes 2 channels as 'bone', but input.tensors of"),
        ("{ bone = [0, 1], brain = [3] }", "tensors.brain must list channels from 0 to 2"),
        ("{ bone = [0, 0], brain = [2] }", "tensors.bone must list channels from 0 to 2, each"),
        ("{ bone = [0, 1], brain = [1] }", "tensors gives window 2 (from 0) to no input"),
        ("{ bone = [0, 1, 2] }", "tensors names the inputs of a model with several; leave it out"),
        ("{}", "has the inputs bone, brain, but input.tensors of bundle.toml names none"),
    ],
)
def test_what_bundle_toml_says_of_the_inputs_is_held_to_the_model(
    tensors: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(model("onnx"), *INPUTS) == OK
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    manifest.write_text(text.replace('{ "bone" = [0, 1], "brain" = [2] }', tensors), "utf-8")
    assert manifest.read_text("utf-8") != text
    assert model_tool.main(["check", "mine"]) == FAILED
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_a_server_of_models_is_given_each_input_by_its_name(
    binary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(tensors: np.ndarray) -> np.ndarray:
        logit = tensors.mean(axis=(1, 2)) @ np.array([-2.0, 30.0]) - 10
        return np.asarray(1 / (1 + np.exp(-logit)))[:, None]

    with model_server(
        inputs=("bone", "brain"), shape=(-1, SIDE, SIDE, 1), model=answer, binary=binary
    ) as server:
        monkeypatch.setenv("LIMEN_ENGINE__REMOTE__URL", server.url)
        where = ["new", "mine", "--remote", server.url, "blood", "3", "--scale", "0", "1"]
        assert model_tool.main([*where, "--input", "bone=600/2800"]) == USAGE
        said = ["--input", "bone=600/2800", "--input", "brain=40/80"]
        assert model_tool.main([*where, *said]) == OK
        assert model_tool.main(["check", "mine"]) == OK
        found = bundles.load(Path("mine"))
        np.testing.assert_allclose(found.golden_probability, answer(found.golden_tensor), atol=1e-6)
        remote = config.RemoteModels(url=server.url)
        assert self_test.check(Path("mine"), remote=remote).tensors == {"bone": (0,), "brain": (1,)}
        assert server.faults == []
