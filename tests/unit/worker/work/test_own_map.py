"""A model with a map of its own of where it looks: a further opinion on each explanation."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from limen import config
from limen.command.edge import FAILED, OK, USAGE
from limen.result import Explanation, Outcome, Phase
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.onnx_models import save
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.tools import explain, model_tool

SIDE, CELLS = 64, 8
BLOOD = np.array([1.0, -2.0]), -0.05
"""Weights of the windows 40/80 and 600/2800, and bias: above 0 where there is blood, and nowhere
else in the head of ``synthetic``."""

SEES = {
    "blood": (*BLOOD, 1),
    "the other side": (*BLOOD, -1),
    "air": (np.array([-1.0, 0.0]), 0.02, 1),
    "everything": (np.array([0.0, 0.0]), 1.0, 1),
    "nothing": (np.array([0.0, 0.0]), -1.0, 1),
}
"""What the map of a model is high at: weights, bias, and in which direction its columns go."""

KINDS = ["keras", "keras, by name", "onnx"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keras_model(sees: str, *, by_name: bool = False) -> str:
    """Write a model that answers by blood, and whose map is of something."""
    _, keras = import_tensorflow()
    weights, bias, step = SEES[sees]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        image = keras.Input((SIDE, SIDE, 2))
        blood, looks = (keras.layers.Conv2D(1, 1, activation="relu") for _ in range(2))
        mean = keras.layers.GlobalAveragePooling2D()(blood(image))
        head = keras.layers.Dense(1, activation="sigmoid", name="answer")
        pooled = keras.layers.AveragePooling2D(SIDE // CELLS, name="cam")
        answer, cam = head(mean), pooled(looks(image)[:, :, ::step])
        model = keras.Model(image, {"answer": answer, "cam": cam} if by_name else [cam, answer])
        blood.set_weights([BLOOD[0][None, None, :, None], np.array([BLOOD[1]])])
        looks.set_weights([weights[None, None, :, None], np.array([bias])])
        head.set_weights([np.array([[1000.0]]), np.array([-4.0])])
        model.save("model.keras")
    return "model.keras"


def onnx_model(sees: str, blind: int = 0, *, parted: bool = False) -> str:
    """Write the same as PyTorch would: channels first, the map (n, 1, rows, columns).

    Parameters
    ----------
    blind
        So many channels more, of which nothing depends.
    parted
        Each channel is an input of its own, ``brain`` and ``bone``.
    """
    weights, bias, step = SEES[sees]
    weights, blood = (np.pad(np.float32(one), (0, blind)) for one in (weights, BLOOD[0]))
    side, cell = SIDE, SIDE // CELLS
    last = -SIDE - 1 if step < 0 else SIDE
    nodes = [
        helper.make_node("Conv", ["image", "blood-w", "blood-b"], ["blood-raw"]),
        helper.make_node("Relu", ["blood-raw"], ["blood"]),
        helper.make_node("GlobalAveragePool", ["blood"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head-w", "head-b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
        helper.make_node("Conv", ["image", "looks-w", "looks-b"], ["looks-raw"]),
        helper.make_node("Relu", ["looks-raw"], ["looks"]),
        helper.make_node("Slice", ["looks", "from", "to", "axis", "step"], ["turned"]),
        helper.make_node(
            "AveragePool", ["turned"], ["cam"], kernel_shape=[cell, cell], strides=[cell, cell]
        ),
    ]
    constants = {
        "blood-w": blood[None, :, None, None],
        "blood-b": np.float32([BLOOD[1]]),
        "looks-w": weights[None, :, None, None],
        "looks-b": np.float32([bias]),
        "head-w": np.float32([[1000]]),
        "head-b": np.float32([-4]),
        "from": np.array([side - 1 if step < 0 else 0]),
        "to": np.array([last]),
        "axis": np.array([3]),
        "step": np.array([step]),
    }
    beside = {"cam": [1, CELLS, CELLS]}
    inputs = {"brain": (1, side, side), "bone": (1, side, side)} if parted else None
    if parted:
        nodes.insert(0, helper.make_node("Concat", ["brain", "bone"], ["image"], axis=1))
    given = (2 + blind, side, side)
    path = Path("model.onnx")
    return str(save(path, nodes, given, [1], constants, inputs=inputs, beside=beside))


def model(kind: str, sees: str = "blood") -> str:
    """Write the model in one of its forms, and return its file."""
    if kind == "onnx":
        return onnx_model(sees)
    return keras_model(sees, by_name=kind == "keras, by name")


def by_hand(tensor: np.ndarray, sees: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) answers and (n, cells, cells) maps as shares of their highest, in NumPy alone."""
    blood = np.maximum(tensor @ BLOOD[0] + BLOOD[1], 0).mean(axis=(1, 2))
    weights, bias, step = SEES[sees]
    looks = np.maximum(tensor @ weights + bias, 0)[:, :, ::step]
    cell = SIDE // CELLS
    cam = looks.reshape(-1, CELLS, cell, CELLS, cell).mean(axis=(2, 4))
    most = cam.max(axis=(1, 2), keepdims=True)
    return 1 / (1 + np.exp(-(1000 * blood - 4))), np.divide(
        cam, most, out=np.zeros_like(cam), where=most > 0
    )


def new(source: str, *said: str, windows: str = "40/80,600/2800") -> int:
    wanted = ["--windows", windows, "--scale", "0", "1", *said]
    return model_tool.main(["new", "mine", "--from", source, *wanted])


def small_heads() -> None:
    """Let the bundle take the heads of ``synthetic``, which are few slices."""
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    text = text.replace("[accepts]", '[accepts]\nmin_extent_mm = 0\nlooks_like = ""', 1)
    manifest.write_text(text, "utf-8")


def explained(tmp_path: Path, decoder: Decoder) -> Explanation:
    """Return the explanation of the only positive slice of three, as a worker makes it."""
    small_heads()
    with BundleWorker(tmp_path / "node", tmp_path / "mine", decoder) as worker:
        told = worker.analyse(written(worker.spool))
    predicted = next(one for one in told if one.phase is Phase.PREDICTION)
    assert predicted.outcome is Outcome.POSITIVE
    assert [image.positive for image in predicted.images] == [False, True, False]
    (found,) = next(one for one in told if one.phase is Phase.EXPLANATION).explanations
    return found


def written(folder: Path) -> list[Path]:
    return [
        synthetic.save(
            synthetic.instance(n, pixels=synthetic.head_hu(lesion=n == 2)), folder, f"{n}.dcm"
        )
        for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_points_at_the_blood_agrees_with_lime(
    kind: str, tmp_path: Path, decoder: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(model(kind), "--map", "cam") == OK
    said = capsys.readouterr().out
    assert "cam, 8 x 8" in said
    assert model_tool.main(["check", "mine"]) == OK
    found = explained(tmp_path, decoder)
    assert found.own_map is not None
    weights = [one.weight for one in found.superpixels]
    assert found.own_map.output == "cam"
    assert found.own_map.verdict == "agrees"
    assert found.own_map.segment == int(np.argmax(weights))
    assert found.own_map.shares[found.own_map.segment] == max(found.own_map.shares)
    assert len(found.own_map.shares) == len(weights)
    assert not found.poor


@pytest.mark.parametrize(
    ("sees", "verdict", "words", "poor"),
    [
        ("the other side", "differs", "points at another region", True),
        ("air", "differs", "points at what is no part of the head", True),
        ("everything", "spread", "names no region", False),
        ("nothing", "spread", "names no region", False),
    ],
)
def test_a_map_that_points_elsewhere_says_so_in_the_document(
    sees: str, verdict: str, words: str, poor: bool, tmp_path: Path, decoder: Decoder
) -> None:
    assert new(model("onnx", sees), "--map", "cam") == OK
    found = explained(tmp_path, decoder)
    assert found.own_map is not None
    assert found.own_map.verdict == verdict
    assert words in found.own_map.words
    assert found.poor is poor
    assert (found.own_map.words in found.poor_reason) is poor
    assert found.second_opinion is not None
    assert found.second_opinion.verdict == "agrees"


def test_the_reference_method_is_held_to_the_map_too(tmp_path: Path, decoder: Decoder) -> None:
    source = onnx_model("the other side", blind=1)
    assert new(source, "--map", "cam", windows="40/80,600/2800,40/380") == OK
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    manifest.write_text(text.replace('mode = "settled"', 'mode = "reference"'), "utf-8")
    found = explained(tmp_path, decoder)
    assert found.second_opinion is None
    assert found.own_map is not None
    assert len(found.own_map.shares) == len(found.superpixels)
    assert found.own_map.segment == int(np.argmax(found.own_map.shares))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sees", ["blood", "the other side"])
def test_every_backend_gives_answer_and_map_that_are_known_by_hand(kind: str, sees: str) -> None:
    assert new(model(kind, sees), "--map", "cam") == OK
    if kind == "keras":
        assert model_tool.main(["convert", "mine"]) == OK
    tensor = np.random.default_rng(3).random((5, SIDE, SIDE, 2), dtype=np.float32)
    tensor[..., 1] *= 0.4
    true, cam = by_hand(tensor, sees)
    found = bundles.load(Path("mine"))
    for backend in ("tensorflow", "openvino") if kind == "keras" else ("auto",):
        settings = config.Engine(backend=backend, precision="fp32")  # type: ignore[arg-type]
        with Engine(found, settings) as engine:
            request = engine.submit(tensor, Lane.EXPLAIN)
            answer, both = engine.answer(request), engine.answer_and_map(request)
        assert answer.shape == (5, 1)
        assert np.abs(answer[:, 0] - true).max() <= 1e-4
        assert np.abs(both[:, 1:].reshape(cam.shape) - cam).max() <= 1e-4


def test_a_model_of_two_inputs_may_have_a_map_of_both() -> None:
    source = onnx_model("blood", parted=True)
    wanted = ["--input", "brain=40/80", "--input", "bone=600/2800", "--scale", "0", "1"]
    assert model_tool.main(["new", "mine", "--from", source, *wanted, "--map", "cam"]) == OK
    tensor = np.random.default_rng(3).random((3, SIDE, SIDE, 2), dtype=np.float32)
    true, cam = by_hand(tensor, "blood")
    with Engine(bundles.load(Path("mine")), config.Engine()) as engine:
        both = engine.answer_and_map(engine.submit(tensor, Lane.EXPLAIN))
    assert np.abs(both[:, 0] - true).max() <= 1e-4
    assert np.abs(both[:, 1:].reshape(cam.shape) - cam).max() <= 1e-4


def test_a_map_of_other_weights_fails_the_golden(capsys: pytest.CaptureFixture[str]) -> None:
    assert new(model("onnx"), "--map", "cam") == OK
    turned = Path(model("onnx", "the other side")).read_bytes()
    Path("mine/model.onnx").write_bytes(turned)
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    lines = [
        f'sha256 = "{bundles.sha256_of(Path("mine/model.onnx"))}"'
        if line.startswith("sha256")
        else line
        for line in text.splitlines()
    ]
    manifest.write_text("\n".join(lines), "utf-8")
    capsys.readouterr()
    assert model_tool.main(["check", "mine"]) == FAILED
    assert "its own map ('cam')" in capsys.readouterr().err


def test_an_edit_of_the_map_fails_the_golden_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert new(model("onnx"), "--map", "cam") == OK
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    manifest.write_text(text.replace("size = [8, 8]", "size = [4, 16]"), "utf-8")
    capsys.readouterr()
    assert model_tool.main(["check", "mine"]) == FAILED
    said = capsys.readouterr().err
    assert "map.size of bundle.toml is [4, 16]" in said
    assert "(1, 8, 8)" in said or "(8, 8, 1)" in said


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ((), FAILED, "say --map NAME"),
        (("--map", "heat"), USAGE, "say the one that is a map beside the answer"),
        (("--map", "answer"), USAGE, "one value for each cell"),
    ],
)
@pytest.mark.parametrize("kind", ["keras", "onnx"])
def test_what_is_no_map_or_is_not_said_is_refused_with_the_outputs_by_name(
    kind: str,
    said: tuple[str, ...],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert new(model(kind), *said) == code
    told = capsys.readouterr().err
    assert words in told
    assert "answer" in told
    assert not Path("mine").exists()


def test_a_map_belongs_to_weights_that_are_here_and_to_slices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert new(model("onnx"), "--map", "cam") == OK
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8")
    volumes = text.replace("[input]", "[input]\ndepth = 4", 1)
    manifest.write_text(f'task = "volume"\n{volumes}', "utf-8")
    capsys.readouterr()
    assert model_tool.main(["check", "mine"]) == FAILED
    assert "[map] is where a model looks that judges a slice" in capsys.readouterr().err


def test_limen_explain_writes_the_verdict_beside_the_second_opinion(tmp_path: Path) -> None:
    assert new(model("onnx", "the other side"), "--map", "cam") == OK
    small_heads()
    Path("in").mkdir()
    written(Path("in"))
    assert explain.main(["in", "-o", "out", "--bundle", str(tmp_path / "mine")]) == OK
    with (Path("out") / "explanations.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["own_map"] == "differs"
    assert "own map points at another region" in row["poor_reason"]


def test_the_card_names_the_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert new(model("onnx"), "--map", "cam") == OK
    capsys.readouterr()
    assert model_tool.main(["info", "mine", "--json"]) == OK
    card: Any = json.loads(capsys.readouterr().out)
    assert card["map"] == {"output": "cam", "size": [8, 8]}
