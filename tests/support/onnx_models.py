"""Small ONNX models whose answers are known without running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "Linear",
    "of_depths",
    "of_means",
    "of_named_means",
    "of_pixels",
    "of_voxels",
    "save",
]


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    given: Sequence[Any],
    answered: Sequence[Any],
    constants: dict[str, np.ndarray],
    inputs: Mapping[str, Sequence[Any]] | None = None,
    beside: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """Write a graph from ``image`` to ``answer``, whose shapes are without the batch.

    Parameters
    ----------
    inputs
        Several by their names, in the place of ``image``.
    beside
        Outputs before ``answer``, by their names.
    """
    outputs = {**(beside or {}), "answer": answered}
    graph = helper.make_graph(
        list(nodes),
        "model",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
            for name, shape in (inputs or {"image": given}).items()
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


class Linear:
    """A weight for each value of the input, and a sigmoid: it sees what is where.

    Parameters
    ----------
    path
        Where the model is written.
    shape
        (rows, columns, channels); the model has its channels first.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], seed: int = 5) -> None:
        rows, columns, channels = shape
        random = np.random.default_rng(seed)
        # In blocks of 4, so that a little noise of a pixel counts little.
        coarse = random.normal(0, 0.04, (rows // 4, columns // 4, channels))
        self._weights = coarse.repeat(4, 0).repeat(4, 1)
        flat = self._weights.transpose(2, 0, 1).reshape(-1, 1).astype(np.float32)
        nodes = [
            helper.make_node("Flatten", ["image"], ["f"]),
            helper.make_node("Gemm", ["f", "weights"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["answer"]),
        ]
        self.path = save(path, nodes, (channels, rows, columns), [1], {"weights": flat})

    def __call__(self, tensor: np.ndarray) -> float:
        """Return what the model answers to (rows, columns, channels), in NumPy alone."""
        return float(1 / (1 + np.exp(-(tensor * self._weights).sum())))


def of_means(
    path: Path, shape: tuple[int, int, int], weights: np.ndarray, bias: Sequence[float]
) -> Path:
    """Write a model that sees only the mean of each channel, with a sigmoid for each output.

    Parameters
    ----------
    shape
        (rows, columns, channels); the model has its channels first.
    weights
        (channels, outputs).
    """
    rows, columns, channels = shape
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {"weights": np.float32(weights), "bias": np.float32(bias)}
    return save(path, nodes, (channels, rows, columns), [len(bias)], constants)


def of_named_means(
    path: Path, shapes: Mapping[str, tuple[int, int, int]], weights: np.ndarray, bias: float
) -> Path:
    """Write a model that sees only the mean of each channel of each of its inputs.

    Parameters
    ----------
    shapes
        (rows, columns, channels) of each input; the model has its channels first.
    weights
        (channels,) of all inputs, one behind the other.
    """
    nodes = [
        *(helper.make_node("GlobalAveragePool", [name], [f"{name}-mean"]) for name in shapes),
        helper.make_node("Concat", [f"{name}-mean" for name in shapes], ["means"], axis=1),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {"weights": np.float32(weights)[:, None], "bias": np.float32([bias])}
    inputs = {name: (channels, *size) for name, (*size, channels) in shapes.items()}
    return save(path, nodes, (), [1], constants, inputs)


def of_pixels(
    path: Path, size: tuple[int, int], weights: np.ndarray, bias: Sequence[float]
) -> Path:
    """Write a segmentation that judges each pixel by itself, with a sigmoid for each output.

    Parameters
    ----------
    size
        Rows and columns.
    weights
        (channels, outputs).
    """
    channels, outputs = weights.shape
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["logit"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {"weights": np.float32(weights.T)[..., None, None], "bias": np.float32(bias)}
    return save(path, nodes, (channels, *size), [outputs, *size], constants)


def of_depths(
    path: Path, size: tuple[int, int], weights: np.ndarray, bias: Sequence[float]
) -> Path:
    """Write a model of volumes that sees the mean of each slice of its input, with sigmoids.

    Parameters
    ----------
    size
        Rows and columns.
    weights
        (depth, outputs).
    """
    depth, outputs = weights.shape
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[3, 4], keepdims=0),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    constants = {"weights": np.float32(weights), "bias": np.float32(bias)}
    return save(path, nodes, (1, depth, *size), [outputs], constants)


def of_voxels(path: Path, weights: Sequence[np.ndarray], bias: Sequence[float]) -> Path:
    """Write a model of volumes with a weight for each voxel, and sigmoids: it sees what is where.

    Parameters
    ----------
    weights
        (depth, rows, columns) of each output; the model has its one channel first.
    """
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Gemm", ["f", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["answer"]),
    ]
    flat = np.stack([np.float32(one).ravel() for one in weights], axis=1)
    constants = {"weights": flat, "bias": np.float32(bias)}
    return save(path, nodes, (1, *weights[0].shape), [len(bias)], constants)
