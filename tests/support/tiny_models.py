"""Bundles of a model that is tiny and real: an ONNX file that answers by the brightness.

Or one that a server runs, which answers so, too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support import synthetic

__all__ = ["SIDE", "answer_of", "write_remote_version", "write_version"]

SIDE = 32
_MANIFEST = (
    synthetic.MANIFEST.replace('"tiny"', '"{name}"')
    .replace('"0.1.0"', '"{version}"')
    .replace('"model.keras"', '"model.onnx"\nformat = "onnx"')
    .replace("size = [32, 32]", 'size = [32, 32]\nlayout = "nchw"')
)


def write_version(  # noqa: PLR0913 - all but two by name
    folder: Path,
    version: str,
    *,
    gain: float = 1.0,
    bias: float = 0.0,
    golden_off: float = 0.0,
    threshold: float = 0.5,
) -> Path:
    """Write a version of a model into its folder of versions; return where.

    Parameters
    ----------
    folder
        Of the model, which it is called after.
    gain, bias
        The probability is the sigmoid of ``gain`` times the mean of the input plus ``bias``.
    golden_off
        How far the golden answers are from what the model says.
    """
    where = folder / version
    where.mkdir(parents=True)
    _write_model(where / "model.onnx", gain, bias)
    _write_golden(where, gain, bias, golden_off)
    digest = hashlib.sha256((where / "model.onnx").read_bytes()).hexdigest()
    text = _MANIFEST.format(name=folder.name, version=version, sha256=digest)
    text = text.replace("threshold = 0.5", f"threshold = {threshold}")
    (where / "bundle.toml").write_text(text, "utf-8")
    return where


def write_remote_version(  # noqa: PLR0913 - all but three by name
    folder: Path, version: str, url: str, *, runs: str, gain: float = 1.0, bias: float = 0.0
) -> Path:
    """Write a version that a server runs; return where.

    Parameters
    ----------
    runs
        The version of ``blood`` that the server knows it by.
    gain, bias
        What it answered when it was released: see ``answer_of``.
    """
    where = folder / version
    where.mkdir(parents=True)
    _write_golden(where, gain, bias)
    text = _MANIFEST.format(name=folder.name, version=version, sha256="")
    before, _, rest = text.partition("[weights]")
    remote = f'[remote]\nurl = "{url}"\nmodel = "blood"\nversion = "{runs}"\n\n[input]'
    text = before + remote + rest.partition("[input]")[2].replace('\nlayout = "nchw"', "")
    (where / "bundle.toml").write_text(text, "utf-8")
    return where


def _write_golden(where: Path, gain: float, bias: float, off: float = 0.0) -> None:
    tensor = np.random.default_rng(2).random((3, SIDE, SIDE, 3), dtype=np.float32)
    probability = np.clip(answer_of(tensor, gain, bias) + off, 0, 1).astype(np.float32)
    np.savez(where / "golden.npz", tensor=tensor, probability=probability)


def answer_of(tensor: NDArray[np.float32], gain: float, bias: float) -> NDArray[np.float64]:
    """Return what the model says of (n, rows, columns, channels): (n, 1)."""
    mean = tensor.astype(np.float64).mean(axis=(1, 2, 3))
    return np.asarray(1 / (1 + np.exp(-(gain * mean + bias))))[:, None]


def _write_model(path: Path, gain: float, bias: float) -> None:
    channels = np.full((3, 1), gain / 3, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "gain", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    known = {"gain": channels, "bias": np.array([bias], np.float32)}
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(values, name) for name, values in known.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
