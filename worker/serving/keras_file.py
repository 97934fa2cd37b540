"""A Keras file opened safely, and what can be read from it.

Keras itself comes in as an argument: it is imported in ``backends`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Format
from worker.serving import keras_2, keras_graph
from worker.serving.facts import Facts
from worker.serving.graph import Ending
from worker.serving.named_inputs import Shape, in_a_row, joined, parted
from worker.serving.shapes import input_fault, outputs_fault

__all__ = ["answer_and_map", "facts_of", "open_model", "refuse_other_shapes"]

_ADVICE: Final = (
    "save it with model.save('model.keras'), without Lambda layers and without layers of your own"
)
_SHOWN_CHARACTERS: Final = 160
_BATCH: Final = 16


def open_model(keras: Any, path: Path, file_format: Format) -> Any:
    """Return the Keras model of a file; it is never compiled.

    Raises
    ------
    BundleError
        It cannot be loaded, or it would run code.
    """
    try:
        with keras_2.spelt_anew(path, file_format) as readable:
            return keras.models.load_model(readable, compile=False, safe_mode=True)
    except BundleError:
        raise
    except Exception as exc:
        is_old = keras_2.is_of_keras_2(path, file_format)
        advice = keras_2.AS_GRAPH if is_old else _ADVICE
        # Keras tells what it was doing, from the outside in; what went wrong comes last.
        told = str(exc).rpartition("Exception encountered: ")[2].strip()
        why = (told.splitlines() or [""])[0][:_SHOWN_CHARACTERS]
        raise BundleError(
            f"{path} cannot be loaded by Keras {keras.__version__} "
            f"{'as a file of Keras 2' if is_old else 'in safe mode'} "
            f"({type(exc).__name__}: {why}); {advice}"
        ) from exc


def facts_of(keras: Any, model: Any, path: Path, beside: str = "") -> Facts:
    """Return what can be read from a loaded model, and from what it does.

    Parameters
    ----------
    beside
        The output that is a map of where the model looks; empty where none is.

    Raises
    ------
    BundleError
        It has several inputs, of which not all can be made of one slice.
    """
    each, outputs = _inputs_of(model), _outputs_of(model)
    shapes = {name: _shape(tensor) for name, tensor in outputs.items()}
    answer = _only(name for name in outputs if name != beside)
    given = shapes[answer] if answer else ()
    taken, counts = joined(each, path) if len(each) > 1 else (next(iter(each.values()), ()), {})
    models = [model, *(layer for layer in _layers(model) if hasattr(layer, "layers"))]
    is_plain = not counts and len(taken) == 3 and len(given) in {1, 3}
    return Facts(
        input_shape=taken,
        output_shape=given,
        ending=keras_graph.ending(outputs[answer]) if answer else Ending("linear", "linear"),
        front=keras_graph.front(keras, model) if is_plain else None,
        norm=keras_graph.norm(keras, model) if is_plain else None,
        names=tuple(str(m.name).lower() for m in models),
        predict=lambda tensors: _predicted(model, tensors, in_a_row(counts), beside),
        inputs=counts,
        outputs=shapes,
    )


def _predicted(
    model: Any,
    tensors: NDArray[np.float32],
    channels: Mapping[str, tuple[int, ...]],
    beside: str,
) -> NDArray[np.float32]:
    found = []
    for start in range(0, len(tensors), _BATCH):
        batch = tensors[start : start + _BATCH]
        given = parted(batch, channels) if channels else batch
        answer, _ = answer_and_map(model, model(given, training=False), beside)
        found.append(np.asarray(answer, np.float32))
    return np.concatenate(found)


def _inputs_of(model: Any) -> dict[str, Shape]:
    """Return the name and the shape, without the batch, of each input; they are called by it."""
    graph = getattr(model, "_functional", None) or model
    named = getattr(graph, "_inputs_struct", None)
    if not isinstance(named, dict):
        named = {tensor.name: tensor for tensor in graph.inputs}
    return {str(name): _shape(tensor) for name, tensor in named.items()}


def _outputs_of(model: Any) -> dict[str, Any]:
    """Return each output by its name: its key, where the model gives a dictionary."""
    graph = getattr(model, "_functional", None) or model
    named = getattr(graph, "_outputs_struct", None)
    if isinstance(named, dict):
        return {str(name): tensor for name, tensor in named.items()}
    return dict(zip(map(str, graph.output_names), graph.outputs, strict=True))


def _shape(tensor: Any) -> Shape:
    """Return the shape without the batch; empty of what is no tensor."""
    return tuple(getattr(tensor, "shape", ())[1:])


def _only(names: Iterable[str]) -> str:
    """Return the only one of them; empty where there are others, or none."""
    found = list(names)
    return found[0] if len(found) == 1 else ""


def answer_and_map(model: Any, given: Any, beside: str) -> tuple[Any, Any]:
    """Return what a model says, and its own map of where it looks; None where it has none.

    Parameters
    ----------
    given
        What the model gave: a tensor, or several in a list or a dictionary.
    beside
        The name of the output that is the map; empty where none is.
    """
    if isinstance(given, dict):
        found = {str(name): one for name, one in given.items()}
    else:
        each = given if isinstance(given, list | tuple) else [given]
        found = dict(zip(_outputs_of(model), each, strict=True))
    shown = found.pop(beside, None)
    (answer,) = found.values()
    return answer, shown


def refuse_other_shapes(model: Any, bundle: Bundle) -> None:
    """Raise unless the model maps the bundle's input to the bundle's labels.

    Raises
    ------
    BundleError
        Naming the file, the key of the manifest, and what was expected.
    """
    given = {name: _shape(tensor) for name, tensor in _outputs_of(model).items()}
    fault = input_fault(_inputs_of(model), bundle) or outputs_fault(given, bundle)
    if fault:
        raise BundleError(f"{bundle.weights} {fault}")


def _layers(model: Any) -> Iterator[Any]:
    for layer in getattr(model, "layers", []):
        yield layer
        yield from _layers(layer)
