"""Files that Keras 2 wrote, .h5 and .keras, in the spelling that Keras 3 reads.

Keras 3 reads the weights of both as they are. What it does not understand, or takes for something
else, is the description of the model beside them. All that is mended here was found with files that
Keras 2.12, 2.15 and tf_keras 2.21 wrote.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from limen.errors import BundleError
from worker.bundles.manifest import Format

__all__ = ["AS_GRAPH", "is_of_keras_2", "spelt_anew"]

AS_GRAPH: Final = (
    "where it was made, write it with tf.saved_model.save(model, 'folder'), and give --from folder"
)
"""What to do with a file of Keras 2 that Keras 3 cannot read."""

_CODE: Final = "Python code in a model file"
_OPERATION: Final = "an operation between layers (x / 255, preprocess_input) that Keras 3 has not"
_CODE_LAYERS: Final = {"Lambda": _CODE, "TFOpLambda": _OPERATION, "SlicingOpLambda": _OPERATION}
"""Layers that carry code, or stand for it -> what they are."""

_KNOWN_PACKAGES: Final = {"keras", "tf_keras", "builtins"}
_MAX_CONFIG_DEPTH: Final = 200

_MODELS: Final = {"Functional", "Model", "Sequential"}
_WRAPPED: Final = ("layer", "backward_layer")
"""Settings that are a layer, which Keras 2 names without saying whose it is."""

_UNKNOWN: Final = {
    "Conv2DTranspose": {"groups"},
    "Conv3DTranspose": {"groups"},
    "DepthwiseConv2D": {"groups"},
    "GRU": {"time_major"},
    "LSTM": {"time_major"},
    "SeparableConv2D": {"groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"},
    "SimpleRNN": {"time_major"},
    **{f"SpatialDropout{n}D": {"noise_shape", "trainable"} for n in (1, 2, 3)},
}
"""Settings that Keras 2 writes of layers, and that say nothing: Keras 3 refuses them."""

_HDF5: Final = b"\x89HDF\r\n\x1a\n"


@contextmanager
def spelt_anew(path: Path, file_format: Format) -> Iterator[Path]:
    """Give a file that Keras 3 reads: this one, or a copy until the end of the block.

    Raises
    ------
    BundleError
        It is no such file; or, of an .h5 file and of any of Keras 2, it would run code, or Keras 3
        would compute something else.
    """
    is_h5 = file_format == "h5-legacy"
    is_old = is_of_keras_2(path, file_format)
    if not is_h5 and not is_old:
        yield path
        return
    config = _h5_config(path) if is_h5 else _archived_config(path)
    _refuse_code(config, path)
    if is_old:
        _refuse_other_meaning(config, path)
    modern = _modernised(config)
    if modern == config:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"model{path.suffix}"
        (_copy_h5 if is_h5 else _copy_archive)(path, copy, modern)
        yield copy


def is_of_keras_2(path: Path, file_format: Format) -> bool:
    """Return whether a file says so; of what is none, Keras itself tells what is wrong.

    Raises
    ------
    BundleError
        It is an .h5 file by another name.
    """
    if file_format == "h5-legacy":
        with suppress(OSError):
            return not str(_h5_attribute(path, "keras_version")).startswith("3")
        return True
    with suppress(OSError, ValueError, AttributeError, KeyError, zipfile.BadZipFile):
        with path.open("rb") as file:
            is_hdf5 = file.read(len(_HDF5)) == _HDF5
        if is_hdf5:
            raise BundleError(
                f"{path} is an HDF5 file (TensorFlow up to 2.12 wrote such by the name of .keras); "
                "give it the ending .h5"
            )
        with zipfile.ZipFile(path) as archive:
            told = json.loads(archive.read("metadata.json"))
        return str(told.get("keras_version")).startswith("2")
    return False


# -- the two kinds of file -------------------------------------------------------------------------


def _h5_config(path: Path) -> Any:
    try:
        text = _h5_attribute(path, "model_config")
    except OSError as exc:
        raise BundleError(f"{path} is not an HDF5 file; save the model as .keras") from exc
    if text is None:
        raise BundleError(
            f"{path} holds weights without a model; save the whole model with model.save(...)"
        )
    return json.loads(text)


def _h5_attribute(path: Path, name: str) -> Any:
    import h5py  # noqa: PLC0415 - comes with Keras

    with h5py.File(path, "r") as file:
        found = file.attrs.get(name)
    return found.decode() if isinstance(found, bytes) else found


def _copy_h5(path: Path, copy: Path, config: Any) -> None:
    import h5py  # noqa: PLC0415

    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(config).encode()


def _archived_config(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def _copy_archive(path: Path, copy: Path, config: Any) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        new.writestr("config.json", json.dumps(config))
        for one in old.infolist():
            if one.filename != "config.json":
                with old.open(one) as source, new.open(one.filename, "w") as target:
                    shutil.copyfileobj(source, target)


# -- what they say of the model --------------------------------------------------------------------


def _refuse_code(tree: Any, path: Path, depth: int = 0) -> None:
    """Raise when any layer of the file is, or stands for, Python code."""
    if depth > _MAX_CONFIG_DEPTH:
        raise BundleError(
            f"{path}: its model_config is nested too deeply; save the model as .keras"
        )
    if isinstance(tree, dict):
        kind = tree.get("class_name")
        if kind in _CODE_LAYERS or "__lambda__" in {kind, tree.get("function_type")}:
            raise BundleError(
                f"{path} holds a {kind} layer, which is {_CODE_LAYERS.get(str(kind), _CODE)}; "
                "replace it by a layer of Keras (Rescaling, for instance) and save the model "
                f"again. Or {AS_GRAPH}"
            )
        module = tree.get("module") if "class_name" in tree else None
        if isinstance(module, str) and module.partition(".")[0] not in _KNOWN_PACKAGES:
            raise BundleError(
                f"{path} names a class of {module}, which is not Keras; save the model again from "
                "layers that Keras has"
            )
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            _refuse_code(branch, path, depth + 1)


def _refuse_other_meaning(tree: Any, path: Path) -> None:
    """Raise where a word means something else in Keras 3: the model would say something else."""
    if isinstance(tree, list):
        for branch in tree:
            _refuse_other_meaning(branch, path)
    if not isinstance(tree, dict):
        return
    for key, branch in tree.items():
        named = branch.get("config") if isinstance(branch, dict) else branch
        if key.endswith("activation") and named == "hard_sigmoid":
            raise BundleError(
                f"{path} has a hard_sigmoid, which is 0.2 x + 0.5 in Keras 2 and x / 6 + 0.5 in "
                "Keras 3: its answers would be others, and nobody would see it. "
                f"{AS_GRAPH.capitalize()}"
            )
        _refuse_other_meaning(branch, path)


def _modernised(tree: Any) -> Any:
    """Return a description of Keras 2 in the spelling of Keras 3, where Keras 3 needs that."""
    if isinstance(tree, list):
        return [_modernised(branch) for branch in tree]
    if not isinstance(tree, dict):
        return tree
    found = {key: _modernised(branch) for key, branch in tree.items()}
    kind, inner = found.get("class_name"), found.get("config")
    if not isinstance(inner, dict):
        return found
    inner = _settings(str(kind), inner)
    if ".engine." in str(found.get("module")):  # where Keras 2 has its models
        found["module"] = "keras.src.models.functional" if kind == "Functional" else "keras"
    for place in (found, inner):
        if isinstance(place.get("name"), str):
            place["name"] = _plain(place["name"])
    return found | {"config": inner}


def _settings(kind: str, inner: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a layer, or what a model is made of, as Keras 3 knows them."""
    unknown = _UNKNOWN.get(kind, set()) | {"rng_type"}
    inner = {k: v for k, v in inner.items() if k not in unknown}
    for key in _WRAPPED:
        if isinstance(inner.get(key), dict):
            module = "keras" if inner[key].get("class_name") in _MODELS else "keras.layers"
            inner[key] = {"module": module, "registered_name": None} | inner[key]
    if kind == "BatchNormalization" and isinstance(inner.get("axis"), list):
        inner["axis"] = inner["axis"][0]
    if kind == "LeakyReLU" and "alpha" in inner:
        inner["negative_slope"] = inner.pop("alpha")
    if isinstance(inner.get("dtype"), dict) and inner["dtype"].get("class_name") == "Policy":
        inner["dtype"] = inner["dtype"].get("config", {}).get("name", "float32")
    if kind == "Sequential" and isinstance(inner.get("layers"), list):
        inner["layers"] = _without_shapes(inner["layers"])
    if kind in {"Functional", "Model"} and isinstance(inner.get("layers"), list):
        inner = _graph(inner)
    return inner


def _graph(inner: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a graph: how its layers are called, and where it ends.

    A model inside of another begins to count its calls at one in Keras 2, where its own input is a
    call, and at nought in Keras 3; what Keras 3 reads of ends, it turns round for a Functional.
    """
    layers = inner["layers"]
    counted = {
        _plain(str(layer.get("name"))): layer.get("class_name")
        for layer in layers
        if _is_a_call(layer)
    }
    calls = [node for layer in layers for node in layer.get("inbound_nodes") or ()]
    if any(isinstance(node, dict) for node in calls):
        counted = {}  # Keras 3 wrote it

    def place(entry: list[Any], models: dict[str, Any]) -> list[Any]:
        name, number, *rest = entry
        name = _plain(name)
        return [name, number - 1 if name in models else number, *rest]

    def node(entries: Any) -> Any:
        is_old = isinstance(entries, list) and all(isinstance(one, list) for one in entries)
        return [place(one, counted) for one in entries] if is_old else entries

    def ends(given: Any) -> Any:
        if isinstance(given, dict):
            return {key: ends(one) for key, one in given.items()}
        if _is_place(given):
            return place(given, {k: v for k, v in counted.items() if v == "Sequential"})
        return [ends(one) for one in given] if isinstance(given, list) else given

    called = [
        layer | {"inbound_nodes": [node(one) for one in layer.get("inbound_nodes") or ()]}
        for layer in layers
    ]
    return inner | {
        "layers": called,
        **{key: _one_end(ends(inner.get(key))) for key in ("input_layers", "output_layers")},
    }


def _without_shapes(layers: list[Any]) -> list[Any]:
    """Return layers in a row: the shape that stands in the first one's settings, too, goes."""
    if not _begin_with_input(layers):
        return layers
    first, *others = layers
    return [
        first,
        *(
            one | {"config": {k: v for k, v in one["config"].items() if k != "batch_input_shape"}}
            for one in others
        ),
    ]


def _is_a_call(layer: dict[str, Any]) -> bool:
    """Return whether a layer is a model whose own input is a call: not one built when called."""
    if layer.get("class_name") == "Sequential":
        return _begin_with_input((layer.get("config") or {}).get("layers"))
    return layer.get("class_name") in _MODELS


def _begin_with_input(layers: Any) -> bool:
    return bool(layers) and layers[0].get("class_name") == "InputLayer"


def _plain(name: str) -> str:
    """Return a name as Keras 3 allows it, without the slash of older ones (DenseNet has them)."""
    return name.replace("/", "_")


def _is_place(given: Any) -> bool:
    """Return whether it is [layer, call, tensor]."""
    return isinstance(given, list) and len(given) == 3 and isinstance(given[0], str)


def _one_end(end: Any) -> Any:
    """Return [layer, node, tensor] for a list of one of them: one tensor, not a list of one."""
    is_list_of_one = isinstance(end, list) and len(end) == 1 and isinstance(end[0], list)
    return end[0] if is_list_of_one else end
