"""What a Keras model does to its input before its first weights, and how it ends: by its graph.

Keras itself comes in as an argument: it is imported in ``backends`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worker.serving.graph import Ending, Front, Norm, Run, chosen_among, measured

__all__ = ["ending", "front", "norm"]

Array = NDArray[np.float32]

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


_DEEPEST: Final = 200
_UNKNOWN: Final = Ending("unknown", "unknown")


def ending(output: Any) -> Ending:
    """Follow the graph backwards from an output."""
    try:
        return _ending(output, {}, 0)
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
        found = {_ending(source, given, depth + 1) for source in sources}
        return chosen_among(kind, found, _SAME_VALUES)
    return _own(operation, kind)


def _own(operation: Any, kind: str) -> Ending:
    """Return what one layer or operation does to its input, by its name."""
    name = getattr(operation, "activation", None)
    said = str(getattr(name, "__name__", name)).lower() if name is not None else ""
    if not said and getattr(operation, "weights", None):
        said = "linear"
    said = _ACTIVATIONS.get(kind) or said or kind.lower()
    return Ending(said, said)


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
    kinds = [type(one).__name__ for one in _every(model)]
    named = tuple(k for k in ("Rescaling", "Normalization") if k in kinds)

    def of_levels(levels: Array) -> Array:
        return run(np.ones((len(levels), *shape), np.float32) * levels[:, None, None, None])

    return measured(of_levels, named or ("operations",))


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
