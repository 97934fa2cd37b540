"""Several inputs by name where else a model may have them: files of Keras 2 and OpenVINO, volumes,
segmentations, with neighbours, and as a version that is deployed. Numbers are known by hand.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from onnx import helper

from limen import config
from limen.command.edge import FAILED, OK
from limen.errors import Delayed
from limen.result import Outcome, Phase, Result, Task
from limen.uids import key_of
from tests.support import synthetic
from tests.support.bundle_worker import BundleWorker
from tests.support.model_host import Console, host_with_versions
from tests.support.model_server import ModelServer, model_server
from tests.support.onnx_models import of_named_means, save
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.serving.backends.openvino_file import import_openvino
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool

SIDE, DEPTH = 64, 6
ZETA, ALPHA = (40.0, 380.0), (40.0, 80.0)
"""Their names are not in the order of the alphabet: a model that is given one for the other, or by
that order, says something else."""

WINDOWS = {"zeta": ZETA, "alpha": ALPHA}
SAID = ("--input", "zeta=40/380", "--input", "alpha=40/80")
GAIN, BIAS = {"zeta": -6.0, "alpha": 9.0}, 0.4
WEIGHTS = np.array(list(GAIN.values()))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sigmoid(logit: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(logit, float)))


def grey(hu: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return HU in a window, 0..1."""
    centre, width = window
    return np.clip((hu - (centre - width / 2)) / width, 0, 1)


def expected(hu: np.ndarray) -> float:
    """Return what the models here say of all pixels or voxels together, in NumPy alone."""
    logit = sum(gain * grey(hu, WINDOWS[name]).mean() for name, gain in GAIN.items()) + BIAS
    return float(sigmoid(logit))


def answered(tensor: np.ndarray) -> np.ndarray:
    """Return what the models here say of tensors (n, ..., 2), 0..1."""
    means = tensor.reshape(len(tensor), -1, 2).mean(axis=1)
    return np.asarray(sigmoid(means @ WEIGHTS + BIAS))


# -- the files -------------------------------------------------------------------------------------


def onnx_file(shape: tuple[int, ...], name: str = "model.onnx") -> str:
    shapes: Any = dict.fromkeys(WINDOWS, (*shape, 1))
    return str(of_named_means(Path(name), shapes, WEIGHTS, BIAS))


def xml_file(shape: tuple[int, ...]) -> str:
    """Write the same for OpenVINO."""
    network = import_openvino().Core().read_model(onnx_file(shape))
    import_openvino().save_model(network, "model.xml", compress_to_fp16=False)
    Path("model.onnx").unlink()
    return "model.xml"


def keras_file(shape: tuple[int, ...], name: str = "model.keras", *, by_name: bool = False) -> str:
    _, keras = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        given = {one: keras.Input((*shape, 1), name=one) for one in WINDOWS}
        flat = f"GlobalAveragePooling{len(shape)}D"
        means = [getattr(keras.layers, flat)()(one) for one in given.values()]
        head = keras.layers.Dense(1, activation="sigmoid")
        model = keras.Model(
            given if by_name else list(given.values()), head(keras.layers.Concatenate()(means))
        )
        head.set_weights([WEIGHTS[:, None], np.array([BIAS])])
        model.save(name)
    return name


def keras_2_file(*, by_name: bool) -> str:
    """Write an .h5 file as Keras 2 spelt it."""
    keras_file((SIDE, SIDE), "model.h5")
    with h5py.File("model.h5", "r+") as file:
        tree = json.loads(file.attrs["model_config"])
        layers = tree["config"]["layers"]
        for layer in layers:
            kept = layer["config"]
            if layer["class_name"] == "InputLayer":
                shape = kept.pop("batch_shape", None) or kept.pop("batch_input_shape")
                layer["config"] = {
                    "batch_input_shape": shape,
                    "dtype": "float32",
                    "sparse": False,
                    "ragged": False,
                    "name": kept["name"],
                }
            else:
                kept["dtype"] = "float32"
            layer["inbound_nodes"] = [_as_keras_2(node) for node in layer["inbound_nodes"]]
            for key in ("module", "registered_name", "build_config"):
                layer.pop(key, None)
        for key in ("module", "registered_name", "build_config"):
            tree.pop(key, None)
        ends = [[name, 0, 0] for name in WINDOWS]
        tree["config"]["input_layers"] = dict(zip(WINDOWS, ends, strict=True)) if by_name else ends
        tree["config"]["output_layers"] = [[layers[-1]["config"]["name"], 0, 0]]
        file.attrs["model_config"] = json.dumps(tree).encode()
        file.attrs["keras_version"] = b"2.15.0"
    return "model.h5"


def _as_keras_2(node: Any) -> Any:
    """Return [[layer, node, tensor, {}], ...] of what Keras 3 writes of a call."""
    found = []

    def walk(tree: Any) -> None:
        if isinstance(tree, dict) and tree.get("class_name") == "__keras_tensor__":
            found.append([*tree["config"]["keras_history"], {}])
        elif isinstance(tree, dict | list):
            for branch in tree.values() if isinstance(tree, dict) else tree:
                walk(branch)

    walk(node["args"])
    return found


FILES: Mapping[str, Callable[[], str]] = {
    "h5": lambda: keras_file((SIDE, SIDE), "model.h5"),
    "h5 by name": lambda: keras_file((SIDE, SIDE), "model.h5", by_name=True),
    "h5 of Keras 2": lambda: keras_2_file(by_name=False),
    "h5 of Keras 2 by name": lambda: keras_2_file(by_name=True),
    "keras": lambda: keras_file((SIDE, SIDE)),
    "keras by name": lambda: keras_file((SIDE, SIDE), by_name=True),
    "xml": lambda: xml_file((SIDE, SIDE)),
    "onnx": lambda: onnx_file((SIDE, SIDE)),
}


@pytest.fixture
def _h5_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_ENGINE__ALLOW_LEGACY_H5", "true")


def new(source: str, *said: str, folder: str = "mine") -> int:
    return model_tool.main(["new", folder, "--from", source, "--scale", "0", "1", *said])


def edited(folder: str = "mine") -> Path:
    """Let a bundle look at a few small slices, and explain with few samples."""
    path = Path(folder) / "bundle.toml"
    text = path.read_text("utf-8").replace("samples = 96", "samples = 40")
    accepts = '[accepts]\nmin_extent_mm = 0\nlooks_like = ""'
    path.write_text(text.replace("[accepts]", accepts, 1), "utf-8")
    return path.parent.absolute()


Looked = Callable[..., list[Result]]


@pytest.fixture
def looked(tmp_path: Path, decoder: Decoder) -> Iterator[Looked]:
    """Let a worker do all of a study of slices, from the feet up."""
    open_workers: list[BundleWorker] = []

    def run(bundle: Path, slices: list[np.ndarray], **sections: Any) -> list[Result]:
        worker = BundleWorker(tmp_path / f"node{len(open_workers)}", bundle, decoder, **sections)
        open_workers.append(worker)
        usual = {"PixelSpacing": [2.0, 2.0], "SliceThickness": 1.0}
        return worker.analyse(
            [
                synthetic.save(
                    synthetic.instance(n, pixels=hu.astype(np.int16), **usual),
                    worker.spool,
                    f"{n}.dcm",
                )
                for n, hu in enumerate(slices, start=1)
            ]
        )

    yield run
    for worker in open_workers:
        worker.__exit__(None, None, None)


HEADS = [synthetic.head_hu(), synthetic.head_hu(lesion=True), synthetic.head_hu() + 20]


@pytest.mark.usefixtures("_h5_allowed")
@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_any_format_gives_each_input_what_its_name_says(
    kind: str, looked: Looked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(FILES[kind](), *SAID) == OK
    assert "channels: zeta 0; alpha 1" in capsys.readouterr().out
    assert model_tool.main(["check", "mine"]) == OK
    found = bundles.load(Path("mine"), allow_legacy_h5=True)
    known = answered(found.golden_tensor)
    np.testing.assert_allclose(found.golden_probability[:, 0], known, atol=1e-4)
    sections = {"engine": {"allow_legacy_h5": True}}
    predicted, *_ = looked(edited(), HEADS, **sections)
    told = [image.probability["positive"] for image in predicted.images if image.probability]
    assert told == pytest.approx([expected(hu) for hu in HEADS], abs=1e-4)
    assert np.ptp(told) > 0.05


@pytest.mark.usefixtures("_h5_allowed")
@pytest.mark.parametrize("kind", ["h5", "h5 of Keras 2 by name", "keras by name"])
def test_what_is_converted_for_openvino_says_the_same(kind: str) -> None:
    assert new(FILES[kind](), *SAID) == OK
    assert model_tool.main(["convert", "mine"]) == OK
    found = bundles.load(Path("mine"), allow_legacy_h5=True)
    tensor = np.random.default_rng(3).random((5, *found.input_shape), dtype=np.float32)
    for backend in ("tensorflow", "openvino"):
        settings = config.Engine(backend=backend, precision="fp32", allow_legacy_h5=True)  # type: ignore[arg-type]
        with Engine(found, settings) as engine:
            answer = engine.answer(engine.submit(tensor, Lane.PREDICT))
        assert np.abs(answer[:, 0] - answered(tensor)).max() <= 1e-4


# -- volumes ---------------------------------------------------------------------------------------


def stack(levels: list[int]) -> list[np.ndarray]:
    """Return heads of which each is so much brighter, HU."""
    return [np.where(synthetic.head_hu() == 35, 35 + n, synthetic.head_hu()) for n in levels]


@pytest.mark.parametrize("kind", ["onnx", "xml", "keras"])
def test_a_volume_of_two_inputs_is_judged_and_explained_as_a_whole(
    kind: str, looked: Looked, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"onnx": onnx_file, "xml": xml_file, "keras": keras_file}
    assert new(files[kind]((DEPTH, SIDE, SIDE)), *SAID) == OK  # type: ignore[operator]
    found = bundles.load(Path("mine"))
    assert (found.task, found.input_shape) == (Task.VOLUME, (DEPTH, SIDE, SIDE, 2))
    assert dict(found.tensors) == {"zeta": (0,), "alpha": (1,)}
    assert model_tool.main(["check", "mine"]) == OK
    if kind == "keras":
        assert model_tool.main(["convert", "mine"]) == OK
    slices = stack([0, 10, 40, 20, -10, 0])
    told = looked(edited(), slices)
    assert told[0].finding is not None
    known = expected(np.stack(slices).astype(float))
    assert told[0].finding.probability == pytest.approx(known, abs=1e-4)
    assert told[0].outcome is Outcome.POSITIVE
    explained = next(one for one in told if one.phase is Phase.EXPLANATION)
    assert explained.reason == told[0].reason
    (first, *_) = explained.explanations
    assert first.probability == pytest.approx(known, abs=1e-4)
    assert first.baseline_probability is not None
    assert abs(first.baseline_probability - known) > 1e-3


def test_what_each_input_of_a_volume_is_given_is_told_to_its_author(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert new(onnx_file((DEPTH, SIDE, SIDE)), *SAID) == OK
    (study := Path("study")).mkdir()
    slices = stack([0, 10, 40, 20, -10, 0])
    for n, hu in enumerate(slices, start=1):
        synthetic.save(synthetic.instance(n, pixels=hu.astype(np.int16)), study, f"{n}.dcm")
    capsys.readouterr()
    assert model_tool.main(["preprocess", "study", "--bundle", "mine", "-o", "t.npy"]) == OK
    said = capsys.readouterr().out
    assert "zeta is given its channels 0" in said
    assert "alpha is given its channels 1" in said
    (tensor,) = np.load("t.npy")  # channels first, as this model takes them
    assert tensor.shape == (2, DEPTH, SIDE, SIDE)
    for channel, window in enumerate(WINDOWS.values()):
        np.testing.assert_allclose(
            tensor[channel], grey(np.stack(slices).astype(float), window), atol=1e-5
        )


# -- segmentations ---------------------------------------------------------------------------------

MARKS = np.array([-300.0, 400.0])
MARKS_BIAS = -150.0
"""Blood is what ``alpha`` shows bright and ``zeta`` not yet white: from 64 to 139 HU."""


def marking(kind: str) -> str:
    """Write a segmentation that judges each pixel by itself; return its file."""
    if kind == "keras":
        return _marking_keras()
    nodes = [
        helper.make_node("Concat", list(WINDOWS), ["both"], axis=1),
        helper.make_node("Conv", ["both", "weights", "bias"], ["logit"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {
        "weights": np.float32(MARKS)[None, :, None, None],
        "bias": np.float32([MARKS_BIAS]),
    }
    inputs = dict.fromkeys(WINDOWS, (1, SIDE, SIDE))
    save(Path("model.onnx"), nodes, (), [1, SIDE, SIDE], constants, inputs)
    if kind == "onnx":
        return "model.onnx"
    network = import_openvino().Core().read_model("model.onnx")
    import_openvino().save_model(network, "model.xml", compress_to_fp16=False)
    return "model.xml"


def _marking_keras() -> str:
    _, keras = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        given = [keras.Input((SIDE, SIDE, 1), name=one) for one in WINDOWS]
        head = keras.layers.Conv2D(1, 1, activation="sigmoid")
        model = keras.Model(given, head(keras.layers.Concatenate()(given)))
        head.set_weights([MARKS[None, None, :, None], np.array([MARKS_BIAS])])
        model.save("model.keras")
    return "model.keras"


def marked(hu: np.ndarray) -> np.ndarray:
    """Return the probability of each pixel, in NumPy alone."""
    logit = sum(w * grey(hu, window) for w, window in zip(MARKS, WINDOWS.values(), strict=True))
    with np.errstate(over="ignore"):
        return np.asarray(sigmoid(logit + MARKS_BIAS))


@pytest.mark.parametrize("kind", ["onnx", "xml", "keras"])
def test_a_segmentation_of_two_inputs_marks_what_is_known_by_hand(
    kind: str, looked: Looked
) -> None:
    assert new(marking(kind), *SAID, "--volume-ml", "1") == OK
    found = bundles.load(Path("mine"))
    assert found.task is Task.SEGMENTATION
    if kind == "keras":
        assert model_tool.main(["convert", "mine"]) == OK
    heads = [synthetic.head_hu(lesion=n in {2, 3}) for n in range(6)]
    (told,) = looked(edited(), heads)
    areas_mm2 = [float((marked(hu.astype(float)) >= 0.5).sum() * 2.0 * 2.0) for hu in heads]
    assert min(areas_mm2) == 0 < max(areas_mm2)
    assert [image.areas_mm2.get("positive", 0.0) for image in told.images] == areas_mm2
    assert told.finding is not None
    assert told.finding.volume_ml == pytest.approx(sum(areas_mm2) / 1000, abs=1e-4)  # 1 mm apart
    assert told.outcome is Outcome.POSITIVE


# -- neighbours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_with_neighbours_an_input_sees_the_slices_that_its_channels_ask_for(
    kind: str, looked: Looked
) -> None:
    """``zeta`` is shown three slices, ``alpha`` that in the middle."""
    weights = np.array([-5.0, 2.0, 3.0, 4.0])
    shapes = {"zeta": (SIDE, SIDE, 3), "alpha": (SIDE, SIDE, 1)}
    of_named_means(Path("model.onnx"), shapes, weights, -1.0)
    if kind == "xml":
        network = import_openvino().Core().read_model("model.onnx")
        import_openvino().save_model(network, "model.xml", compress_to_fp16=False)
    assert new(f"model.{kind}", *SAID, "--neighbours", "1") == OK
    assert dict(bundles.load(Path("mine")).tensors) == {"zeta": (0, 2, 4), "alpha": (3,)}
    slices = stack([0, 30, -20, 10, 5])
    predicted, *others = looked(edited(), slices)
    around = [slices[1], *slices, slices[-2]]  # mirrored at the ends
    for n, image in enumerate(predicted.images):
        seen = [grey(hu.astype(float), ZETA).mean() for hu in around[n : n + 3]]
        seen.append(grey(slices[n].astype(float), ALPHA).mean())
        assert image.probability is not None
        known = float(sigmoid(np.array(seen) @ weights - 1.0))
        assert image.probability["positive"] == pytest.approx(known, abs=1e-4)
    assert all(one.outcome is predicted.outcome for one in others)


# -- a version of it -------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[ModelServer]:
    def answer(tensors: np.ndarray) -> np.ndarray:
        return answered(tensors)[:, None]

    shape = (-1, SIDE, SIDE, 1)
    with model_server(inputs=tuple(WINDOWS), shape=shape, model=answer) as served:
        yield served
        assert served.faults == []


@pytest.fixture
def console(
    server: ModelServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Console]:
    """A host where 1.0, with one input, looks at studies."""
    engine = {"remote": {"url": server.url}, "allow_legacy_h5": True}
    host = host_with_versions(tmp_path, engine=engine)
    with Console.at_work(host, capsys, monkeypatch) as made:
        yield made


def asked(console: Console) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the version that looks at a study, tensors, and what it says of them."""
    (models,) = console.host.running
    with models.for_study(str(console.host.folder), key_of("1.2.3")) as chosen:
        shape = chosen.bundle.input_shape
        tensor = np.random.default_rng(4).random((3, *shape), dtype=np.float32)
        answer = chosen.engine.answer(chosen.engine.submit(tensor, Lane.PREDICT))
        return chosen.bundle.version, tensor, answer[:, 0]


DEPLOYED: Mapping[str, Callable[[], str]] = {
    "keras": lambda: keras_file((SIDE, SIDE)),
    "h5": lambda: keras_file((SIDE, SIDE), "model.h5"),
    "onnx": lambda: onnx_file((SIDE, SIDE)),
    "xml": lambda: xml_file((SIDE, SIDE)),
    "volume": lambda: onnx_file((DEPTH, SIDE, SIDE)),
}


@pytest.mark.usefixtures("_h5_allowed")
@pytest.mark.parametrize("kind", [*DEPLOYED, "remote"])
def test_a_version_of_two_inputs_takes_over_from_one_of_one_input(
    kind: str, console: Console, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = console.host.folder / "3.0"
    monkeypatch.setenv("LIMEN_ENGINE__REMOTE__URL", server.url)
    if kind == "remote":
        words = ["new", str(folder), "--remote", server.url, "blood", "3", "--scale", "0", "1"]
        assert model_tool.main([*words, *SAID]) == OK
    else:
        assert new(DEPLOYED[kind](), *SAID, folder=str(folder)) == OK
    code, said = console.run("deploy", "heads", "3.0")
    assert (code, "heads 3.0 looks at all studies" in said) == (OK, True), said
    version, tensor, answer = asked(console)
    assert version == "3.0"
    np.testing.assert_allclose(answer, answered(tensor), atol=1e-4)
    assert console.run("rollback", "heads")[0] == OK
    version, tensor, _ = asked(console)
    assert (version, tensor.shape[-1]) == ("1.0", 3)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ("{ zeta = [1], alpha = [0] }", "bundle.toml was edited since they were answered"),
        ("{ zeta = [0], beta = [1] }", "has the inputs zeta, alpha, but input.tensors"),
    ],
)
def test_a_version_that_gives_its_inputs_something_else_is_refused_and_the_old_one_goes_on(
    tensors: str, why: str, console: Console
) -> None:
    folder = console.host.folder / "3.0"
    assert new(onnx_file((SIDE, SIDE)), *SAID, folder=str(folder)) == OK
    manifest = folder / "bundle.toml"
    text = manifest.read_text("utf-8")
    changed = text.replace('{ "zeta" = [0], "alpha" = [1] }', tensors)
    assert changed != text
    manifest.write_text(changed, "utf-8")
    code, said = console.run("deploy", "heads", "3.0")
    assert code == FAILED
    assert "heads 1.0 goes on" in said
    assert why in said
    assert asked(console)[0] == "1.0"


def test_a_server_that_calls_its_inputs_otherwise_never_serves(
    console: Console, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = console.host.folder / "3.0"
    monkeypatch.setenv("LIMEN_ENGINE__REMOTE__URL", server.url)
    words = ["new", str(folder), "--remote", server.url, "blood", "3", "--scale", "0", "1"]
    assert model_tool.main([*words, *SAID]) == OK
    server.inputs = ("zeta", "beta")
    code, said = console.run("deploy", "heads", "3.0")
    assert (code, "has the inputs zeta, beta, but input.tensors" in said) == (FAILED, True)
    assert asked(console)[0] == "1.0"
    server.inputs = ("alpha", "zeta")  # their order is no matter: each is given by its name
    server.model = lambda tensors: answered(tensors[..., ::-1])[:, None]
    assert console.run("deploy", "heads", "3.0")[0] == OK
    version, tensor, answer = asked(console)
    assert version == "3.0"
    np.testing.assert_allclose(answer, answered(tensor), atol=1e-4)
    server.inputs = ("zeta", "beta")
    console.host.start()
    with pytest.raises(Delayed, match="has the inputs zeta, beta"):
        asked(console)


# -- what cannot be -------------------------------------------------------------------------------


def several(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Write an ONNX model that takes the mean of each of its inputs, of whatever shape."""
    nodes = [
        *(
            helper.make_node(
                "ReduceMean", [name], [f"{name}-mean"], axes=list(range(1, len(shape) + 1))
            )
            for name, shape in shapes.items()
        ),
        *(
            helper.make_node("Reshape", [f"{name}-mean", "column"], [f"{name}-flat"])
            for name in shapes
        ),
        helper.make_node("Concat", [f"{name}-flat" for name in shapes], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {
        "column": np.array([-1, 1], np.int64),
        "weights": np.ones((len(shapes), 1), np.float32),
        "bias": np.zeros(1, np.float32),
    }
    return str(save(Path("model.onnx"), nodes, (), [1], constants, shapes))


@pytest.mark.parametrize("kind", ["onnx", "xml"])
@pytest.mark.parametrize(
    ("shapes", "why", "next_step"),
    [
        (
            {"all": (1, DEPTH, SIDE, SIDE), "one": (1, SIDE, SIDE)},
            "takes a volume as 'all' and a slice as 'one'",
            "Save it with the volume alone, and take the slice out of it inside the model",
        ),
        (
            {"all": (1, DEPTH, SIDE, SIDE), "few": (1, 3, SIDE, SIDE)},
            "has inputs of several sizes (all (6, 64, 64, 1), few (3, 64, 64, 1))",
            "Give them one size, and bring it to that of each inside the model",
        ),
        (
            {"all": (1, DEPTH, SIDE, SIDE), "age": (1,)},
            "its input 'age' takes (1), which is no image",
            "Save it with that input left out, or with a constant in its place",
        ),
    ],
)
def test_what_cannot_be_made_of_one_study_is_refused_with_the_reason_and_what_to_do(
    kind: str,
    shapes: Mapping[str, tuple[int, ...]],
    why: str,
    next_step: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    several(shapes)
    if kind == "xml":
        network = import_openvino().Core().read_model("model.onnx")
        import_openvino().save_model(network, "model.xml", compress_to_fp16=False)
    assert new(f"model.{kind}") == FAILED
    said = capsys.readouterr().err
    assert why in said
    assert next_step in said
    assert not Path("mine").exists()
