"""What a new bundle says of scale and activation goes by the model's numbers, not by its names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen.errors import ConfigError
from worker.serving import keras_file
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.facts import Facts
from worker.tools import model_guesses, model_probes
from worker.tools.model_plan import HEAD_WINDOWS

VIEW = model_probes.View((32, 32), HEAD_WINDOWS)
SOURCE = Path("model.keras")


@pytest.fixture(scope="module")
def keras() -> Any:
    _, found = import_tensorflow()
    found.utils.set_random_seed(3)
    return found


@pytest.fixture
def facts(keras: Any, tmp_path: Path) -> Callable[[Any], Facts]:
    """Return what is read from a model after it went through a file, as an engineer's does."""

    def read(model: Any) -> Facts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(tmp_path / "model.keras")
            loaded = keras_file.open_model(keras, tmp_path / "model.keras", "keras")
            return keras_file.facts_of(keras, loaded, tmp_path / "model.keras")

    return read


def net(
    keras: Any,
    before: Callable[[Any], Any] = lambda image: image,
    after: Callable[[Any], Any] | None = None,
    norm: bool = False,
) -> Any:
    """Return a small model with something before its first weights and something at its end."""
    image = keras.Input((32, 32, 3))
    found = keras.layers.Conv2D(4, 3, strides=4, kernel_initializer="he_normal")(before(image))
    found = keras.layers.BatchNormalization(momentum=0.3)(found) if norm else found
    found = keras.layers.Activation("relu")(found)
    found = keras.layers.GlobalAveragePooling2D()(found)
    dense = keras.layers.Dense
    found = after(found) if after is not None else dense(1, activation="sigmoid")(found)
    return keras.Model(image, found)


def preprocess(keras: Any, name: str) -> Callable[[Any], Any]:
    return getattr(keras.applications, name).preprocess_input


# -- scale -----------------------------------------------------------------------------------------


def fronts(keras: Any) -> dict[str, tuple[Callable[[Any], Any], tuple[float, float]]]:
    """What a model may do to its own input, and the range that it wants then."""
    layers, ops = keras.layers, keras.ops
    return {
        "Rescaling(1/255)": (layers.Rescaling(1 / 255), (0, 255)),
        "Rescaling(1/127.5, -1)": (layers.Rescaling(1 / 127.5, offset=-1), (0, 255)),
        "Rescaling(2, -1)": (layers.Rescaling(2, offset=-1), (0, 1)),
        "Rescaling(0.5, 0.5)": (layers.Rescaling(0.5, offset=0.5), (-1, 1)),
        "x / 255": (lambda x: x / 255.0, (0, 255)),
        "x * 2 - 1": (lambda x: x * 2.0 - 1.0, (0, 1)),
        "(x - 127.5) / 127.5": (lambda x: ops.divide(ops.subtract(x, 127.5), 127.5), (0, 255)),
        "ImageNet of 0..1": (
            layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.0524, 0.0502, 0.0506]),
            (0, 1),
        ),
        "Normalization of 0..255": (
            layers.Normalization(mean=[90.0, 100.0, 80.0], variance=[4900.0, 5200.0, 6000.0]),
            (0, 255),
        ),
        "preprocess_input of MobileNetV2": (preprocess(keras, "mobilenet_v2"), (0, 255)),
        "preprocess_input of ResNet50": (preprocess(keras, "resnet50"), (0, 255)),
    }


def test_what_a_model_does_to_its_own_input_tells_its_range(
    keras: Any, facts: Callable[[Any], Facts]
) -> None:
    told = {}
    for name, (before, wanted) in fronts(keras).items():
        decided = model_guesses.scale_of(facts(net(keras, before)), None, VIEW, SOURCE)
        told[name] = (decided.scale, decided.others) == (wanted, ())
    assert [name for name, right in told.items() if not right] == []


def test_a_model_inside_a_model_is_followed(keras: Any, facts: Callable[[Any], Facts]) -> None:
    inner = net(keras, keras.layers.Rescaling(1 / 255))
    outer = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(127.5, 127.5), inner]
    )
    assert model_guesses.scale_of(facts(outer), None, VIEW, SOURCE).scale == (-1, 1)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_the_first_batch_normalisation_remembers_the_range(
    keras: Any, facts: Callable[[Any], Facts], scale: tuple[float, float]
) -> None:
    model = net(keras, norm=True)
    images = model_guesses.scaled(model_probes.heads(VIEW), scale)
    other_heads = np.clip(images * 0.9 + 0.03 * (scale[1] - scale[0]), *scale)
    for _ in range(8):
        model(other_heads, training=True)
    decided = model_guesses.scale_of(facts(model), None, VIEW, SOURCE)
    assert (decided.scale, decided.others) == (scale, ())
    assert "batch normalisation" in decided.why


def test_where_two_ranges_give_sense_nothing_is_guessed(
    keras: Any, facts: Callable[[Any], Facts]
) -> None:
    decided = model_guesses.scale_of(facts(net(keras)), None, VIEW, SOURCE)
    assert (0.0, 1.0) in {decided.scale, *decided.others}
    assert (-1.0, 1.0) in {decided.scale, *decided.others}
    assert "--scale LOW HIGH" in decided.question
    assert "--example FILE --expect NUMBER" in decided.question


def test_a_model_that_wants_means_subtracted_is_refused_with_what_to_do(
    keras: Any, facts: Callable[[Any], Facts]
) -> None:
    image = keras.Input((32, 32, 3))
    base = keras.Model(image, net(keras)(image), name="resnet50")
    with pytest.raises(ConfigError, match="put preprocess_input into the model, before resnet50"):
        model_guesses.scale_of(facts(base), None, VIEW, SOURCE)
    assert model_guesses.scale_of(facts(base), (0, 1), VIEW, SOURCE).certain


# -- output ----------------------------------------------------------------------------------------


def endings(keras: Any) -> dict[str, tuple[Callable[[Any], Any], str, bool]]:
    """How a model may end: what has to follow, and whether that is sure."""
    layers, ops = keras.layers, keras.ops

    def of(*outputs: Any) -> Callable[[Any], list[Any]]:
        return lambda x: [layers.Dense(n, activation=a)(x) for n, a in outputs]

    two = of((1, "sigmoid"), (1, "sigmoid"))
    return {
        "a sigmoid": (layers.Dense(1, activation="sigmoid"), "none", True),
        "a logit": (layers.Dense(1), "sigmoid", False),
        "average of sigmoids": (lambda x: layers.Average()(two(x)), "none", True),
        "maximum of sigmoids": (lambda x: layers.Maximum()(two(x)), "none", True),
        "mean of sigmoids": (lambda x: ops.mean(ops.stack(two(x)), axis=0), "none", True),
        "half of a sum": (lambda x: sum(two(x)) / 2, "none", False),
        "1 - sigmoid": (lambda x: 1 - layers.Dense(1, activation="sigmoid")(x), "none", False),
        "average of softmaxes": (
            lambda x: layers.Average()(of((3, "softmax"), (3, "softmax"))(x)),
            "none",
            True,
        ),
        "sigmoid as an operation": (lambda x: ops.sigmoid(layers.Dense(1)(x)), "none", True),
        "sigmoids side by side": (lambda x: layers.Concatenate()(two(x)), "none", True),
    }


def test_what_follows_the_output_goes_by_the_graph_and_by_numbers(
    keras: Any, facts: Callable[[Any], Facts]
) -> None:
    told = {}
    for name, (after, wanted, sure) in endings(keras).items():
        found = model_guesses.activation_of(facts(net(keras, after=after)), None, VIEW, SOURCE)
        told[name] = (found[0], found[2]), (wanted, sure), found[1]
    assert [(name, *one) for name, one in told.items() if one[0] != one[1]] == []


@pytest.mark.parametrize(
    ("ends", "said", "fault"),
    [
        (lambda k: k.layers.Dense(3), None, "3 outputs: its answers go from .* --activation softm"),
        (lambda k: k.layers.Dense(1, activation="relu"), None, "ends with relu.* no probability"),
        (lambda k: k.layers.Dense(1, activation="tanh"), None, "ends with tanh.* no probability"),
        (lambda k: k.layers.Dense(1), "none", "--activation none: .* gives no probability: its an"),
        (
            lambda k: k.layers.Dense(1, activation="sigmoid"),
            "sigmoid",
            "ends with sigmoid already, and a second one would press",
        ),
        (lambda k: k.layers.Dense(1), "softmax", "has one output; say sigmoid"),
        (
            lambda k: lambda x: k.ops.log(-k.ops.abs(k.layers.Dense(1)(x)) - 1),
            None,
            "answers what is no number",
        ),
    ],
)
def test_an_output_that_can_be_two_things_is_asked_for(
    keras: Any, facts: Callable[[Any], Facts], ends: Any, said: Any, fault: str
) -> None:
    model = facts(net(keras, after=ends(keras)))
    with pytest.raises(ConfigError, match=fault):
        model_guesses.activation_of(model, said, VIEW, SOURCE)
