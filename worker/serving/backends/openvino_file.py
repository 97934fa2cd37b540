"""An ONNX file, or one of OpenVINO, opened: what can be read from it, and how it is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError, ConfigError
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Layout
from worker.serving.facts import Facts
from worker.serving.graph import Ending, Front, chosen_among, measured
from worker.serving.named_inputs import Shape, in_a_row, joined, parted
from worker.serving.shapes import (
    as_given,
    as_taken,
    axes_of,
    given_by,
    input_fault,
    layout_of,
    outputs_fault,
)

__all__ = [
    "compiled",
    "import_openvino",
    "open_network",
    "read_facts",
    "refuse_other_shapes",
    "runner",
    "save_as_openvino",
]

Array = NDArray[np.float32]
Runner = Callable[[Array], tuple[Array, Array | None]]
"""Maps (n, rows, columns, channels) float32 to what the model says of each, raw, and to its own map
(n, cells); None where it has none."""

_SHOWN_CHARACTERS: Final = 240
_DEEPEST: Final = 8
"""So many operations make a constant of constants at most."""

_TELLING: Final = ("No conversion rule", "support", "xternal")
"""What the line of OpenVINO's error says that tells something."""

_BATCH: Final = 8
_WEIGHTED: Final = {"Convolution", "GroupConvolution", "MatMul", "BatchNormInference"}
_ACTIVATIONS: Final = {
    **{"Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid", "Softmax": "softmax"},
    **{"SoftMax": "softmax", "Relu": "relu", "Tanh": "tanh", "Clamp": "clip"},
}
_SAME_VALUES: Final = {
    *("Identity", "Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Gather"),
}
_STAY_WITHIN: Final = {"Maximum", "Minimum", "ReduceMean", "ReduceMax", "ReduceMin"}
_STAY_LINEAR: Final = {"Add", "Subtract", "Multiply", "Divide"}
_EXPORT: Final = (
    "torch.onnx.export(model.eval(), image, 'model.onnx', dynamo=False, input_names=['image'], "
    "dynamic_axes={'image': {0: 'n'}})"
)
_EXPORT_KERAS: Final = "model.save('model.keras'), or model.export('folder')"
"""How a SavedModel is made again, or something better."""


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would call home and write to ~/intel."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: PLC0415 - only where it is used
    import openvino.properties.hint  # noqa: PLC0415

    return openvino


def compiled(openvino: Any, network: Any) -> Any:
    """Compile a network as it is served: all cores on one batch, in full float32.

    Threads are not pinned to cores: decoders and other processes want them too, and a pinned
    thread waits for its core while another one is free.
    """
    hints = openvino.properties.hint
    settings = {
        hints.performance_mode: hints.PerformanceMode.LATENCY,
        hints.inference_precision: openvino.Type.f32,  # some CPUs would take bfloat16
        hints.enable_cpu_pinning: False,
    }
    return openvino.Core().compile_model(network, "CPU", settings)


def open_network(path: Path, export: str = _EXPORT) -> Any:
    """Return the network of a file, or of the folder of a SavedModel, of which no code is run.

    Parameters
    ----------
    export
        How such a file is made again.

    Raises
    ------
    BundleError
        OpenVINO cannot read it; the text names the operation that is in the way, where it does.
    """
    openvino = import_openvino()
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as exc:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        telling = [line.lstrip("- ") for line in lines if any(word in line for word in _TELLING)]
        why = " ".join((telling or lines[-1:])[:2])[:_SHOWN_CHARACTERS]
        raise BundleError(
            f"{path} cannot be read by OpenVINO {openvino.__version__}: {why}. Where it names an "
            "operation, replace that in the model; where the weights lie in a file beside it, "
            f"save them inside. Export it again, with: {export}"
        ) from exc


def save_as_openvino(folder: Path, path: Path) -> None:
    """Write a SavedModel of TensorFlow as an .xml file of OpenVINO, its .bin beside it.

    Raises
    ------
    BundleError
        It cannot be read, or does what OpenVINO does not: Python code, for one.
    """
    network = open_network(folder, _EXPORT_KERAS)
    import_openvino().save_model(network, path, compress_to_fp16=False)


def read_facts(path: Path, layout: Layout | None, beside: str = "") -> Facts:
    """Open a file and return what it says of itself.

    Parameters
    ----------
    layout
        Where its input has the channels; None: what its shape says.
    beside
        The output that is a map of where the model looks; empty where none is.

    Raises
    ------
    BundleError
        It cannot be read, is no image classifier, or has inputs that are no images of one slice.
    ConfigError
        Its shape does not say where the channels are.
    """
    network = open_network(path)
    answer, _ = _answer_and_map(network, beside)
    if not network.inputs or answer is None:
        return _several(_given(network, layout or "nhwc"))
    if len(network.inputs) == 1:
        _refuse_other_types(network, path)
    found = layout or _layout(network, path)
    each = _taken(network, found)
    taken, counts = joined(each, path) if len(each) > 1 else (next(iter(each.values())), {})
    _refuse_other_types(network, path)
    outputs = _given(network, found)
    if len(taken) not in {3, 4} or not all(n is None or n > 0 for n in taken):
        return _several(outputs)
    shape = tuple(n or 64 for n in taken)
    run: Runner | None = None

    def predict(tensors: Array) -> Array:
        nonlocal run
        if run is None:
            run = runner(network, path, found, tensors.shape[1:], in_a_row(counts), beside)
        return np.concatenate(
            [run(tensors[n : n + _BATCH])[0] for n in range(0, len(tensors), _BATCH)]
        )

    return Facts(
        input_shape=taken,
        output_shape=outputs[_name(network.outputs[answer])],
        ending=_ending(network.outputs[answer].get_node().input_value(0).get_node()),
        front=None if counts else _front(network, found, shape),
        norm=None,
        names=(),
        predict=predict,
        layout=found,
        inputs=counts,
        outputs=outputs,
    )


def runner(
    network: Any,
    path: Path,
    layout: Layout,
    shape: tuple[int, ...],
    channels: Mapping[str, tuple[int, ...]],
    beside: str = "",
) -> Runner:
    """Compile a network for batches of any size.

    Parameters
    ----------
    shape
        Rows, columns, channels; of a volume its depth before them.
    channels
        Those that each of several inputs is given; empty for one input.
    beside
        The output that is a map of where the model looks; empty where none is.

    Raises
    ------
    BundleError
        It takes a fixed number of images only.
    """
    openvino = import_openvino()
    names = [_name(port) for port in network.inputs]
    counts = [len(channels[name]) if channels else shape[-1] for name in names]
    own = [[n, *shape[:-1]] if layout == "nchw" else [*shape[:-1], n] for n in counts]
    count = network.inputs[0].partial_shape[0]
    export = f"Export it with a batch of any size: {_EXPORT}"
    try:
        network.reshape(
            {
                port: openvino.PartialShape([-1, *one])
                for port, one in zip(network.inputs, own, strict=True)
            }
        )
        request = compiled(openvino, network).create_infer_request()
    except RuntimeError as exc:
        raise BundleError(
            f"{path} takes {count} image at a time; a batch is needed. {export}"
        ) from exc
    for answered in (port.partial_shape for port in network.outputs):
        if answered.rank.is_static and len(answered) == 0:
            raise BundleError(
                f"{path} gives one number for all images of a batch; one for each is needed: save "
                "it without the mean, or the sum, over the batch"
            )
        if answered.rank.is_static and answered[0].is_static:
            raise BundleError(
                f"{path} answers for {answered[0]} image, however many it is given; a batch is "
                f"needed. {export}"
            )

    answer, shown = _answer_and_map(network, beside)
    assert answer is not None  # noqa: S101 - whoever runs a network has looked at its outputs
    of_pixels = len(_given(network, layout)[_name(network.outputs[answer])]) > 1

    def run(tensors: Array) -> tuple[Array, Array | None]:
        parts = parted(tensors, channels) if channels else {names[0]: tensors}
        given = {n: as_taken(parts[name], layout) for n, name in enumerate(names)}
        found = request.infer(given, share_inputs=True)
        # It lies in OpenVINO's own memory until the next call.
        said = as_given(np.array(found[answer], np.float32), layout, of_pixels=of_pixels)
        if shown is None:
            return said, None
        return said, np.array(found[shown], np.float32).reshape(len(tensors), -1)

    return run


def refuse_other_shapes(network: Any, bundle: Bundle) -> None:
    """Raise unless the network maps the bundle's input to the bundle's labels.

    Raises
    ------
    BundleError
        Naming the file, the key of the manifest, and what was expected.
    """
    if not network.inputs:
        raise BundleError(f"{bundle.weights} has no inputs; export the classifier of images")
    _refuse_other_types(network, bundle.weights)
    fault = input_fault(_taken(network, bundle.layout), bundle) or outputs_fault(
        _given(network, bundle.layout), bundle
    )
    if fault:
        raise BundleError(f"{bundle.weights} {fault} (input.layout = {bundle.layout!r})")


def _several(outputs: Mapping[str, Shape]) -> Facts:
    def none(tensors: Array) -> Array:
        raise NotImplementedError  # pragma: no cover - such a model is refused by its shapes

    unknown = Ending("unknown", "unknown")
    return Facts((), (), unknown, None, None, (), none, outputs=outputs)


def _refuse_other_types(network: Any, path: Path) -> None:
    for port in network.inputs:
        kind = port.element_type.get_type_name()
        if kind != "f32":
            raise BundleError(
                f"{path}: its input {_name(port)!r} takes {kind}; float32 is needed. Export the "
                "model with a float32 image"
            )


def _name(port: Any) -> str:
    """Return the name of an input or output; of several that it has, the first in their order."""
    return str(min(port.names, default=port.node.friendly_name))


def _layout(network: Any, path: Path) -> Layout:
    """Return where the inputs have their channels; the first image of them tells."""
    shapes = (port.partial_shape for port in network.inputs)
    images = (s for s in shapes if s.rank.is_static and len(s) in {4, 5})
    shape = next(images, network.inputs[0].partial_shape)
    if shape.rank.is_dynamic or len(shape) not in {4, 5}:
        return "nhwc"
    found = layout_of(_lengths(shape))
    if found is not None:
        return found
    raise ConfigError(
        f"{path} takes {shape}, which does not tell where its channels are; say --layout nchw "
        "(before rows and columns, as PyTorch has them) or --layout nhwc"
    )


def _length(dimension: Any) -> int | None:
    return None if dimension.is_dynamic else int(dimension.get_length())


def _taken(network: Any, layout: Layout) -> dict[str, Shape]:
    """Return the shape of each input by its name; see ``worker.serving.shapes.axes_of``."""
    shapes = {_name(port): port.partial_shape for port in network.inputs}
    return {
        name: () if shape.rank.is_dynamic else axes_of(_lengths(shape), layout)
        for name, shape in shapes.items()
    }


def _given(network: Any, layout: Layout) -> dict[str, Shape]:
    """Return the shape of each output by its name; see ``worker.serving.shapes.given_by``."""
    shapes = {_name(port): port.partial_shape for port in network.outputs}
    return {
        name: () if shape.rank.is_dynamic else given_by(_lengths(shape), layout)
        for name, shape in shapes.items()
    }


def _answer_and_map(network: Any, beside: str) -> tuple[int | None, int | None]:
    """Return the places of the only output that is no map, None among several, and of the map."""
    names = [_name(port) for port in network.outputs]
    answers = [place for place, name in enumerate(names) if name != beside]
    shown = names.index(beside) if beside in names else None
    return answers[0] if len(answers) == 1 else None, shown


def _lengths(shape: Any) -> list[int | None]:
    """Return the lengths of the axes, without the batch."""
    return [_length(dimension) for dimension in list(shape)[1:]]


def _ending(node: Any) -> Ending:
    """Follow the graph backwards from the output."""
    kind = node.get_type_name()
    if kind in _ACTIVATIONS:
        return Ending(_ACTIVATIONS[kind], _ACTIVATIONS[kind])
    sources = list(_computed(node))
    if kind in _WEIGHTED:
        return Ending("linear", "linear")
    if kind in _SAME_VALUES | _STAY_WITHIN and sources:
        return chosen_among(kind, {_ending(source) for source in sources}, _SAME_VALUES)
    if kind in _STAY_LINEAR and len(sources) == 1:  # a bias, or the factor of Gemm
        before = _ending(sources[0])
        return before if before.activation == "linear" else Ending(kind.lower(), kind.lower())
    return Ending(kind.lower(), kind.lower())


def _computed(node: Any) -> Iterator[Any]:
    """Yield what a node takes that depends on the input."""
    sources = (node.input_value(place).get_node() for place in range(node.get_input_size()))
    return (source for source in sources if not _is_constant(source))


def _is_constant(node: Any, depth: int = 0) -> bool:
    sources = [node.input_value(place).get_node() for place in range(node.get_input_size())]
    if node.get_type_name() == "Parameter" or depth > _DEEPEST:
        return False
    return all(_is_constant(source, depth + 1) for source in sources)


def _front(network: Any, layout: Layout, shape: tuple[int, ...]) -> Front | None:
    openvino = import_openvino()
    weighted = (n for n in network.get_ordered_ops() if n.get_type_name() in _WEIGHTED)
    first = next(weighted, None)
    if first is None:
        return None
    source = first.input_value(0)
    channels = shape[-1]
    if source.get_node().get_type_name() == "Parameter":
        return Front((1.0,) * channels, (0.0,) * channels, ())
    try:
        part = openvino.Model([source], network.get_parameters())
        request = openvino.Core().compile_model(part, "CPU").create_infer_request()
        own = (channels, *shape[:-1]) if layout == "nchw" else shape

        def run(levels: Array) -> Array:
            found = [
                request.infer({0: np.full((1, *own), v, np.float32)})[0].copy() for v in levels
            ]
            answer = np.concatenate(found)
            is_image = layout == "nchw" and answer.ndim > 2
            return np.moveaxis(answer, 1, -1) if is_image else answer

        return measured(run, ("operations",))
    except RuntimeError:
        return None
