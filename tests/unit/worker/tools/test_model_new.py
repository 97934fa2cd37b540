"""Any Keras image classifier becomes a bundle, with what it says of itself and marked guesses."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from limen import config
from limen.command.edge import FAILED, OK, USAGE
from limen.errors import BundleError, ConfigError
from tests.support import synthetic
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.serving import self_test
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.tools import explain, model_golden, model_plan, model_tool
from worker.tools.model_new import Made, make
from worker.tools.model_plan import Wishes as AnyWishes

Build = Callable[[Any], Any]


def Wishes(**said: Any) -> AnyWishes:  # noqa: N802 - as the class that it makes
    """Return wishes with the range that the small models here do not tell."""
    return AnyWishes(**{"scale": (0.0, 1.0), **said})


@pytest.fixture(scope="module")
def keras() -> Any:
    _, found = import_tensorflow()
    found.utils.set_random_seed(11)
    return found


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras about its own legacy format
        yield


@pytest.fixture(scope="module")
def applications(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three classifiers on MobileNetV2 of keras.applications, untrained."""
    folder = tmp_path_factory.mktemp("applications")
    heads = {"sigmoid": (1, "sigmoid"), "softmax": (2, "softmax"), "many": (6, "sigmoid")}
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (outputs, activation) in heads.items():
            base = keras.applications.MobileNetV2(
                weights=None, include_top=False, input_shape=(64, 64, 3), pooling="avg", alpha=0.35
            )
            head = keras.layers.Dense(outputs, activation=activation, kernel_initializer="normal")
            found[name] = folder / f"{name}.keras"
            keras.Sequential([base, head]).save(found[name])
    return found


def small(keras: Any, outputs: int = 1, last: str | None = "sigmoid", **shape: Any) -> Any:
    """Return a model of a few weights whose answer depends on its input."""
    image = keras.Input(shape.get("shape", (32, 32, 3)))
    found = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    found = keras.layers.BatchNormalization()(found)
    found = keras.layers.DepthwiseConv2D(3, padding="same")(found)
    found = keras.layers.GlobalAveragePooling2D()(found)
    return keras.Model(image, keras.layers.Dense(outputs, activation=last)(found))


def saved(model: Any, name: str = "model.keras") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(name)
    return Path(name)


def guess_of(made: Made, key: str) -> model_plan.Guess:
    return next(guess for guess in made.guesses if guess.key == key)


def answer(bundle: Bundle, tensor: np.ndarray) -> np.ndarray:
    with Engine(bundle, config.Engine(max_batch=8)) as engine:
        return engine.submit(tensor, Lane.PREDICT).result()


# -- classifiers of keras.applications -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "labels", "decision"),
    [
        ("sigmoid", ["positive"], "positive"),
        ("softmax", ["negative", "positive"], "positive"),
        ("many", [f"output-{n}" for n in range(1, 7)], "output-1"),
    ],
)
def test_a_classifier_of_keras_applications_becomes_a_bundle_that_passes_its_check(
    applications: dict[str, Path], kind: str, labels: list[str], decision: str
) -> None:
    made = make(applications[kind], Path("mine"), AnyWishes())
    found = self_test.check(Path("mine"))
    assert found.name == "mine"
    assert found.input_shape == (64, 64, 3)
    assert (found.label_names, found.decision_label) == (labels, decision)
    assert found.output.activation == "none"
    assert found.scale == (-1.0, 1.0)
    assert "mobilenetv2" in guess_of(made, "input.scale").why
    assert found.windows == model_plan.HEAD_WINDOWS
    assert found.accepts.body_part == ("HEAD", "BRAIN", "SKULL")
    assert len(found.golden_tensor) == model_golden.GOLDEN_COUNT
    assert not list(Path().glob(".*.part"))


def test_the_same_model_gives_the_same_bundle(applications: dict[str, Path]) -> None:
    for folder in ("one", "two"):
        make(applications["sigmoid"], Path(folder), Wishes(name="same"))
    for name in ("bundle.toml", "model.keras"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    one, two = bundles.load(Path("one")), bundles.load(Path("two"))
    assert np.array_equal(one.golden_tensor, two.golden_tensor)
    assert np.array_equal(one.golden_probability, two.golden_probability)


# -- what is read and what is guessed --------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "last", "activation"),
    [
        (1, "sigmoid", "none"),
        (3, "softmax", "none"),
        (1, None, "sigmoid"),
    ],
)
def test_the_last_activation_says_what_has_to_follow(
    keras: Any, outputs: int, last: str | None, activation: str
) -> None:
    made = make(saved(small(keras, outputs, last)), Path("mine"), Wishes())
    assert made.bundle.output.activation == activation
    assert guess_of(made, "output.activation").certain is (last is not None)
    assert made.bundle.golden_probability.sum(axis=1) == pytest.approx(
        np.ones(4) if outputs > 1 else made.bundle.golden_probability[:, 0]
    )


def test_a_last_activation_that_gives_no_probability_is_refused(keras: Any) -> None:
    with pytest.raises(ConfigError, match="ends with relu.*--activation sigmoid"):
        make(saved(small(keras, 1, "relu")), Path("mine"), Wishes())
    assert not Path("mine").exists()


def test_an_activation_without_an_upper_end_is_refused_however_small_its_answers(
    keras: Any,
) -> None:
    model = small(keras, 1, "relu")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e-3, bias + 0.3])
    with pytest.raises(ConfigError, match="ends with relu.*--activation sigmoid"):
        make(saved(model), Path("mine"), Wishes())


def test_an_activation_in_a_layer_of_its_own_is_found(keras: Any) -> None:
    model = keras.Sequential([small(keras, 3, None), keras.layers.Softmax()])
    assert make(saved(model), Path("mine"), Wishes()).bundle.output.activation == "none"


def test_one_channel_gets_the_brain_window_and_any_size_gets_224(keras: Any) -> None:
    made = make(saved(small(keras, shape=(None, None, 1))), Path("mine"), Wishes())
    assert made.bundle.windows == ((40.0, 80.0),)
    assert made.bundle.size == (224, 224)
    assert not guess_of(made, "input.size").certain
    assert self_test.check(Path("mine")).input_shape == (224, 224, 1)


def test_a_model_that_rescales_itself_gets_0_to_255(keras: Any) -> None:
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), small(keras)]
    )
    assert make(saved(model), Path("mine"), AnyWishes()).bundle.scale == (0.0, 255.0)


def test_wishes_go_before_guesses(keras: Any) -> None:
    wishes = Wishes(
        name="chest",
        labels=("normal", "nodule"),
        decision="nodule",
        threshold=0.3,
        windows=((-600, 1500), (40, 400), (300, 1500)),
        scale=(0, 255),
        body_part=("CHEST",),
        licence="MIT",
    )
    made = make(saved(small(keras, 2, "softmax")), Path("mine"), wishes)
    found = self_test.check(Path("mine"))
    assert (found.name, found.licence, found.threshold) == ("chest", "MIT", 0.3)
    assert (found.label_names, found.decision_index) == (["normal", "nodule"], 1)
    assert found.windows[0] == (-600.0, 1500.0)
    assert found.scale == (0.0, 255.0)
    assert found.accepts.body_part == ("CHEST",)
    assert {g.key for g in made.guesses if not g.certain} <= {
        *("input.crop", "label", "accepts", "golden", "examples")
    }


@pytest.mark.parametrize(
    ("wishes", "fault"),
    [
        (Wishes(labels=("a", "b")), "gives 1 outputs; give --label 1 times"),
        (Wishes(decision="b"), "--decision b: no such label; they are positive"),
        (Wishes(windows=((40, 80),)), "--windows lists 1, but model.keras takes 3 channels"),
        (Wishes(size=(64, 64)), "--size 64 64: model.keras takes 32 x 32"),
        (Wishes(activation="softmax"), "has one output"),
    ],
)
def test_a_wish_that_contradicts_the_model_is_refused(
    keras: Any, wishes: Wishes, fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        make(saved(small(keras)), Path("mine"), wishes)
    assert sorted(p.name for p in Path().iterdir()) == ["model.keras"]


def test_a_range_that_nothing_tells_is_asked_for(
    keras: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(small(keras))
    assert model_tool.main(["new", "mine", "--from", "model.keras"]) == USAGE
    said = capsys.readouterr().err
    assert "0 to 1 (answers" in said
    assert "--scale LOW HIGH" in said
    assert not Path("mine").exists()


def test_an_inverted_model_needs_a_single_output(keras: Any) -> None:
    with pytest.raises(ConfigError, match="--inverted is for a single output"):
        make(saved(small(keras, 2, "softmax")), Path("mine"), Wishes(inverted=True))


def test_channels_without_usual_windows_have_to_be_said(keras: Any) -> None:
    path = saved(small(keras, shape=(32, 32, 2)))
    with pytest.raises(ConfigError, match="2 channels.*--windows"):
        make(path, Path("mine"), Wishes())
    assert make(path, Path("mine"), Wishes(windows=((40, 80), (80, 200)))).bundle.size == (32, 32)


def test_channels_of_neighbours_share_the_usual_windows(keras: Any) -> None:
    path = saved(small(keras, shape=(32, 32, 9)))
    made = make(path, Path("mine"), Wishes(neighbours=1, crop="head", spacing_mm=0.95))
    found = self_test.check(Path("mine"))
    assert (found.windows, found.neighbours) == (model_plan.HEAD_WINDOWS, 1)
    assert (found.crop, found.spacing_mm, found.input_shape) == ("head", 0.95, (32, 32, 9))
    assert guess_of(made, "input.windows").why == "usual for head CT with 3 channels of each slice"
    assert guess_of(made, "input.neighbours").certain


def test_the_part_that_nobody_declared_is_marked_as_a_guess(keras: Any) -> None:
    made = make(saved(small(keras)), Path("mine"), Wishes())
    assert "--neighbours" in guess_of(made, "input.crop").why
    text = Path("mine/bundle.toml").read_text("utf-8")
    assert 'crop = "none"  # guessed: check it\n# spacing_mm = 0.95' in text
    assert "neighbours = 0\n" in text
    found = bundles.load(Path("mine"))
    assert (found.crop, found.spacing_mm, found.neighbours) == ("none", None, 0)


@pytest.mark.parametrize(
    ("channels", "wishes", "fault"),
    [
        (4, Wishes(neighbours=1), "takes 4 channels for 3 slices .* no multiple of 3"),
        (
            9,
            Wishes(neighbours=1, windows=((40, 80),)),
            r"lists 1, but model\.keras takes 9 channels for 3 .*1 windows x 3 slices make 3",
        ),
        (9, Wishes(), "takes 9 channels, .* no usual set of windows .*--neighbours"),
        (3, Wishes(crop="head", modality="MR"), "--crop head .* only CT has"),
        (3, Wishes(spacing_mm=40.0), r"--spacing-mm 40: 32 pixels of the input would be 1280 mm"),
    ],
)
def test_a_part_that_the_model_or_its_modality_cannot_have_is_refused(
    keras: Any, channels: int, wishes: Wishes, fault: str
) -> None:
    path = saved(small(keras, shape=(32, 32, channels)))
    with pytest.raises(ConfigError, match=fault):
        make(path, Path("mine"), wishes)
    assert not Path("mine").exists()


@pytest.mark.parametrize("shape", [(2, 8, 32, 32, 3), (32,)])
def test_what_is_no_image_classifier_is_refused(keras: Any, shape: tuple[int, ...]) -> None:
    image = keras.Input(shape)
    model = keras.Model(image, keras.layers.Dense(1)(keras.layers.Flatten()(image)))
    with pytest.raises(BundleError, match="an image classifier maps"):
        make(saved(model), Path("mine"), Wishes())


def test_an_existing_folder_is_never_written_over(keras: Any) -> None:
    Path("mine").mkdir()
    with pytest.raises(ConfigError, match="mine exists"):
        make(saved(small(keras)), Path("mine"), Wishes())
    assert list(Path("mine").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("absent.keras", "does not exist"),
        ("folder", "is a folder"),
        ("model.pt", "is no .keras file"),
        ("model.h5", "set engine.allow_legacy_h5 = true"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_next_step(name: str, fault: str) -> None:
    Path("folder").mkdir()
    for file in ("model.pt", "model.h5"):
        Path(file).write_bytes(b"")
    with pytest.raises(ConfigError, match=fault):
        make(Path(name), Path("mine"), Wishes())


def test_a_file_that_is_no_model_is_refused() -> None:
    Path("model.keras").write_bytes(b"no model")
    with pytest.raises(BundleError, match=r"model\.keras cannot be loaded by Keras"):
        make(Path("model.keras"), Path("mine"), Wishes())


def test_a_lambda_layer_is_refused(keras: Any) -> None:
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Lambda(lambda x: x * 2), small(keras)]
    )
    with pytest.raises(BundleError, match="safe mode.*without Lambda"):
        make(saved(model), Path("mine"), Wishes())


# -- scale, activation, direction, temperature -----------------------------------------------------


def test_the_engine_maps_tensor_and_output_as_the_manifest_says(keras: Any) -> None:
    model = small(keras, 1, None)
    path = saved(model)
    made = make(path, Path("mine"), Wishes(scale=(-1, 1), inverted=True))
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8").replace("temperature = 1.0", "temperature = 2.0")
    manifest.write_text(text, "utf-8")
    tensor = made.bundle.golden_tensor
    logit = model(tensor * 2 - 1).numpy()
    expected = 1 / (1 + np.exp(-logit))
    assert made.bundle.golden_probability == pytest.approx(1 - expected, abs=1e-5)
    calibrated = answer(bundles.load(Path("mine")), tensor)
    assert calibrated == pytest.approx(1 - 1 / (1 + np.exp(-logit / 2)), abs=1e-5)


def test_temperature_acts_on_the_logit_of_a_probability_too(keras: Any) -> None:
    make(saved(small(keras)), Path("mine"), Wishes())
    found = bundles.load(Path("mine"))
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8").replace("temperature = 1.0", "temperature = 3.0")
    manifest.write_text(text, "utf-8")
    logit = np.log(found.golden_probability / (1 - found.golden_probability))
    calibrated = answer(bundles.load(Path("mine")), found.golden_tensor)
    assert calibrated == pytest.approx(1 / (1 + np.exp(-logit / 3)), abs=1e-5)


def test_temperature_acts_on_a_softmax(keras: Any) -> None:
    model = small(keras, 3, None)
    make(saved(model), Path("mine"), Wishes(activation="softmax"))
    manifest = Path("mine/bundle.toml")
    text = manifest.read_text("utf-8").replace("temperature = 1.0", "temperature = 0.5")
    manifest.write_text(text, "utf-8")
    found = bundles.load(Path("mine"))
    exponent = np.exp(model(found.golden_tensor).numpy() / 0.5)
    expected = exponent / exponent.sum(axis=1, keepdims=True)
    assert answer(found, found.golden_tensor) == pytest.approx(expected, abs=1e-5)


# -- .h5 files of Keras 2 --------------------------------------------------------------------------


@pytest.mark.usefixtures("_quiet")
def test_a_legacy_h5_where_low_means_positive_is_turned_round(keras: Any) -> None:
    model = small(keras)
    model.save("model.h5")
    wishes = Wishes(inverted=True, labels=("ich",))
    made = make(Path("model.h5"), Path("mine"), wishes, allow_legacy_h5=True)
    assert made.bundle.weights_format == "h5-legacy"
    assert made.bundle.weights.name == "model.h5"
    raw = model(made.bundle.golden_tensor).numpy()
    assert made.bundle.golden_probability == pytest.approx(1 - raw, abs=1e-6)
    assert self_test.check(Path("mine"), allow_legacy_h5=True).output.inverted
    with pytest.raises(BundleError, match=r"weights\.format: 'h5-legacy' is not allowed here"):
        bundles.load(Path("mine"))


@pytest.mark.usefixtures("_quiet")
def test_code_in_an_h5_file_is_refused(keras: Any) -> None:
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Lambda(lambda x: x * 2), small(keras)]
    )
    model.save("model.h5")
    with pytest.raises(BundleError, match="holds a Lambda layer, which is Python code"):
        make(Path("model.h5"), Path("mine"), Wishes(), allow_legacy_h5=True)


@pytest.mark.usefixtures("_quiet")
def test_a_class_from_outside_keras_is_refused_in_an_h5_file(keras: Any) -> None:
    small(keras).save("model.h5")
    with h5py.File("model.h5", "r+") as file:
        text = file.attrs["model_config"]
        assert '"module": "keras.' in text
        file.attrs["model_config"] = text.replace('"module": "keras.', '"module": "os.', 1)
    with pytest.raises(BundleError, match="names a class of os.*not Keras"):
        make(Path("model.h5"), Path("mine"), Wishes(), allow_legacy_h5=True)


@pytest.mark.parametrize("body", [b"", b"\x89HDF\r\n\x1a\nxxxx"])
def test_a_file_that_is_no_hdf5_is_refused(body: bytes) -> None:
    Path("model.h5").write_bytes(body)
    with pytest.raises(BundleError, match="is not an HDF5 file"):
        make(Path("model.h5"), Path("mine"), Wishes(), allow_legacy_h5=True)


def test_weights_alone_are_refused() -> None:
    with h5py.File("weights.h5", "w") as file:
        file.create_dataset("kernel", data=np.zeros(3))
    with pytest.raises(BundleError, match="weights without a model"):
        make(Path("weights.h5"), Path("mine"), Wishes(), allow_legacy_h5=True)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_says_what_it_guessed_and_what_comes_next(
    keras: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(small(keras))
    assert model_tool.main(["new", "mine", "--from", "model.keras", "--scale", "0", "1"]) == OK
    shown = capsys.readouterr().out
    for text in ("mine: written", "input.windows", "guessed", "next: limen model check mine"):
        assert text in shown
    assert "# guessed: check it" in Path("mine/bundle.toml").read_text("utf-8")
    assert model_tool.main(["check", "mine"]) == OK
    assert "mine 0.1.0: ok" in capsys.readouterr().out
    assert model_tool.main(["info", "mine"]) == OK
    assert "99LIMEN" in capsys.readouterr().out


def test_the_command_speaks_json_and_takes_every_option(
    keras: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(small(keras, 2, "softmax"))
    code = model_tool.main(
        ["new", "mine", "--from", "model.keras", "--json", "--label", "no", "--label", "yes"]
        + ["--decision", "yes", "--threshold", "0.25", "--windows=-600/1500,40/400,300/1500"]
        + ["--scale", "-1", "1", "--modality", "ct", "--body-part", "chest", "--licence", "MIT"]
        + ["--name", "chest", "--crop", "none", "--spacing-mm", "1.5", "--neighbours", "0"]
    )
    assert code == OK
    tree = json.loads(capsys.readouterr().out)
    assert (tree["input"]["spacing_mm"], tree["input"]["channels"]) == (1.5, 3)
    assert tree["ok"] is True
    assert tree["next"] == "limen model check mine"
    assert tree["input"]["windows_hu"][0] == [-600.0, 1500.0]
    assert tree["input"]["scale"] == [-1.0, 1.0]
    assert tree["decision"]["threshold"] == 0.25
    assert tree["accepts"]["body_part"] == ["CHEST"]


@pytest.mark.parametrize(
    "words",
    [
        ["new", "mine", "--from", "absent.keras"],
        ["check", "absent"],
        ["info", "absent", "--json"],
    ],
)
def test_a_fault_of_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert model_tool.main(words) == USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--scale", "low", "1"],
        ["--windows", "40"],
        ["--windows", "40/0"],
        ["--threshold", "2"],
        ["--label", "two words"],
        ["--name", "Name"],
    ],
)
def test_an_option_that_cannot_be_read_ends_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        model_tool.main(["new", "mine", "--from", "model.keras", *words])
    assert caught.value.code == USAGE


def test_a_bundle_at_fault_ends_with_1_and_says_so_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty").mkdir()
    assert model_tool.main(["check", "empty"]) == FAILED
    assert "bundle.toml" in capsys.readouterr().err
    assert model_tool.main(["check", "empty", "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_every_command_says_which_part_the_model_sees(
    keras: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(small(keras, shape=(32, 32, 9)))
    words = ["--crop", "head", "--spacing-mm", "0.95", "--neighbours", "1"]
    assert (
        model_tool.main(["new", "mine", "--from", "model.keras", "--scale", "0", "1", *words]) == OK
    )
    assert "input.neighbours" in capsys.readouterr().out
    assert model_tool.main(["check", "mine"]) == OK
    seen = "sees the head, 0.95 mm a pixel, 1 more slice on each side"
    assert seen in capsys.readouterr().out
    assert model_tool.main(["info", "mine", "--json"]) == OK
    shown = json.loads(capsys.readouterr().out)["input"]
    assert (shown["crop"], shown["spacing_mm"], shown["neighbours"]) == ("head", 0.95, 1)
    Path("study").mkdir()
    synthetic.series(Path("study"), 3)
    model_tool.main(["compare", "mine", "mine", "study"])
    assert capsys.readouterr().out.count(seen) == 2
    explain.main(["study", "-o", "out", "--bundle", "mine"])
    assert f"mine 0.1.0 {seen}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--spacing-mm", "0.05"], ["--neighbours", "4"]])
def test_a_part_that_no_manifest_may_declare_is_a_fault_of_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        model_tool.main(["new", "mine", "--from", "model.keras", *words])
    assert end.value.code == USAGE
    assert words[0] in capsys.readouterr().err
