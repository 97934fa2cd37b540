"""What a Keras model does to its input before its first weights, and how it ends: by its graph.

Keras itself comes in as an argument: it is imported in ``backends`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ending", "Front", "Norm", "ending", "front", "norm"]

Array = NDArray[np.float32]
Run = Callable[[Array], Array]

_NOT_LEARNED: Final = {"Normalization", "Rescaling", "InputLayer"}
"""Layers before the first weights: what they hold is the range of the input."""

_ACTIVATIONS: Final = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "ReLU": "relu",
    "Relu": "relu",
    "LeakyReLU": "leaky_relu",
    "Tanh": "tanh",
}
_SAME_VALUES: Final = {
    *("Flatten", "Reshape", "Dropout", "ActivityRegularization", "Identity", "Cast", "Squeeze"),
    *("ExpandDims", "GetItem", "Transpose", "Permute", "Stack", "Concatenate", "Concat"),
}
"""Layers and operations that give the values that they get."""

_STAY_WITHIN: Final = {
    *("Average", "Maximum", "Minimum", "Multiply", "Mean", "Max", "Min", "Amax", "Amin", "Median"),
}
"""Of probabilities they make probabilities."""

_PROBABILITIES: Final = {"sigmoid", "softmax", "hard_sigmoid"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a model ends.

    Attributes
    ----------
    activation
        ``sigmoid``, ``softmax``, ``linear``, ``relu``, ...: of what the output is made of.
    words
        The same for people: "average of sigmoids".
    """

    activation: str
    words: str


@dataclass(frozen=True, slots=True)
class Front:
    """What is done to the values of the input before the first weights: x * factor + offset.

    Attributes
    ----------
    factor, offset
        One for each channel there.
    layers
        Names of the kinds of layers that do it.
    """

    factor: tuple[float, ...]
    offset: tuple[float, ...]
    layers: tuple[str, ...]

    @property
    def does_nothing(self) -> bool:
        """Whether the values stay as they are."""
        return all(f == 1 for f in self.factor) and all(o == 0 for o in self.offset)

    def image(self, low: float, high: float) -> tuple[float, float]:
        """Return the lowest and the highest value that a range of the input becomes."""
        ends = [
            f * x + o for f, o in zip(self.factor, self.offset, strict=True) for x in (low, high)
        ]
        return min(ends), max(ends)


class Norm:
    """The first batch normalisation: it remembers what images of the training looked like there."""

    def __init__(self, run: Run, mean: Array, variance: Array, epsilon: float) -> None:
        self._run = run
        self._mean = mean
        self._variance = variance + epsilon
        self._epsilon = epsilon

    def apart(self, tensors: Array) -> float:
        """Return how far images are from what it has seen; 0 is the same mean and variance."""
        found = self._run(tensors)
        axes = tuple(range(found.ndim - 1))
        mean, variance = found.mean(axes), found.var(axes) + self._epsilon
        of_mean = np.abs(mean - self._mean) / np.sqrt(self._variance)
        of_variance = np.abs(np.log(variance / self._variance))
        return float(np.mean(np.minimum(of_mean, 10) + np.minimum(of_variance, 10)))


_DEEPEST: Final = 200
_UNKNOWN: Final = Ending("unknown", "unknown")


def ending(model: Any) -> Ending:
    """Follow the graph backwards from the only output."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        return Ending("linear", "linear")
    try:
        return _ending(outputs[0], {}, 0)
    except (AttributeError, IndexError, KeyError, TypeError):  # a graph of another kind
        return _UNKNOWN


def _ending(tensor: Any, given: dict[int, tuple[Any, dict[int, Any]]], depth: int) -> Ending:
    """Return what a tensor is made of; ``given`` has what inputs of a model inside stand for."""
    operation, node, place = tensor._keras_history
    if depth > _DEEPEST:
        return _UNKNOWN
    if id(tensor) in given:
        return _ending(*given[id(tensor)], depth + 1)
    if not operation._inbound_nodes[node].input_tensors:
        return Ending("input", "its own input")
    sources = operation._inbound_nodes[node].input_tensors
    if hasattr(operation, "layers"):
        inner = {id(i): (s, given) for i, s in zip(operation.inputs, sources, strict=False)}
        return _ending(operation.outputs[place], inner, depth + 1)
    kind = type(operation).__name__
    if kind in _SAME_VALUES | _STAY_WITHIN:
        return _of(kind, {_ending(source, given, depth + 1) for source in sources})
    return _own(operation, kind)


def _own(operation: Any, kind: str) -> Ending:
    """Return what one layer or operation does to its input, by its name."""
    name = getattr(operation, "activation", None)
    said = str(getattr(name, "__name__", name)).lower() if name is not None else ""
    if not said and getattr(operation, "weights", None):
        said = "linear"
    said = _ACTIVATIONS.get(kind) or said or kind.lower()
    return Ending(said, said)


def _of(kind: str, found: set[Ending]) -> Ending:
    """Return what a layer gives that only chooses among, or means, what it gets."""
    if kind in _SAME_VALUES and len(found) == 1:
        return found.pop()
    kinds = {one.activation for one in found}
    if not kinds <= _PROBABILITIES:
        return Ending(kind.lower(), kind.lower())
    words = f"{kind.lower()} of {' and '.join(sorted(f'{one.words}s' for one in found))}"
    is_sum_kept = kind in {"Average", "Mean"} and kinds == {"softmax"}
    return Ending("softmax" if is_sum_kept else "sigmoid", words)


def front(keras: Any, model: Any) -> Front | None:
    """Return what is done to the input before the first weights; None where that is no factor.

    It is measured, not read: whatever layers and operations do it.
    """
    run = _until(
        keras, model, lambda one: bool(one.weights) and type(one).__name__ not in _NOT_LEARNED
    )
    shape = [n or 32 for n in model.input_shape[1:]] if run is not None else []
    if run is None or len(shape) != 3:
        return None
    levels = np.array([0.0, 0.5, 1.0, 255.0], np.float32)
    found = run(np.ones((len(levels), *shape), np.float32) * levels[:, None, None, None])
    flat = np.median(found.reshape(len(levels), -1, found.shape[-1]), axis=1)
    offset, factor = flat[0], flat[2] - flat[0]
    straight = levels[:, None] * factor + offset
    if not np.isfinite(flat).all() or not np.allclose(flat, straight, rtol=1e-3, atol=1e-4):
        return None
    kinds = [type(one).__name__ for one in _every(model)]
    named = [k for k in ("Rescaling", "Normalization") if k in kinds]
    return Front(
        tuple(round(float(f), 7) for f in factor),
        tuple(round(float(o), 7) for o in offset),
        tuple(named or ["operations"]),
    )


def norm(keras: Any, model: Any) -> Norm | None:
    """Return the first batch normalisation; None where there is none, or it was never trained."""
    layers = [one for one in _every(model) if type(one).__name__ == "BatchNormalization"]
    if not layers:
        return None
    first = layers[0]
    mean, variance = (
        np.asarray(values, np.float32) for values in (first.moving_mean, first.moving_variance)
    )
    if not mean.any() and (variance == 1).all():
        return None
    run = _until(keras, model, lambda one: one is first)
    return None if run is None else Norm(run, mean, variance, float(first.epsilon))


def _every(model: Any) -> list[Any]:
    found = []
    for layer in getattr(model, "layers", []):
        found += _every(layer) if hasattr(layer, "layers") else [layer]
    return found


def _until(keras: Any, model: Any, wanted: Callable[[Any], bool]) -> Run | None:
    """Return what a model does before the first layer that is wanted."""
    try:
        chain = _chain(keras, model, wanted)
    except (AttributeError, ValueError, TypeError, RuntimeError):  # called twice, or no graph
        return None
    if chain is None:
        return None

    def run(tensors: Array) -> Array:
        found: Any = tensors
        for part in chain:
            found = part(found, training=False)
        return np.asarray(found, np.float32)

    return run


def _chain(keras: Any, model: Any, wanted: Callable[[Any], bool]) -> list[Any] | None:
    graph = getattr(model, "_functional", None) or model
    for layer in model.layers:
        inside = _chain(keras, layer, wanted) if hasattr(layer, "layers") else None
        if inside is None and (hasattr(layer, "layers") or not wanted(layer)):
            continue
        source = _source(graph, layer)
        before = [] if source is graph.inputs[0] else [keras.Model(graph.inputs[0], source)]
        return [*before, *(inside or [])]
    return None


def _source(graph: Any, layer: Any) -> Any:
    """Return the only tensor that a layer of a graph takes.

    Raises
    ------
    ValueError
        It takes several, or none of this graph.
    """
    for node in reversed(layer._inbound_nodes):
        tensors = node.input_tensors
        if len(tensors) == 1 and tensors[0]._keras_history.operation in graph.operations:
            return tensors[0]
    raise ValueError(layer.name)
