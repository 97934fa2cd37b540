"""What a model says of itself, whatever the format of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.bundles.manifest import Layout
from worker.serving.graph import Ending, Front, Norm

__all__ = ["Facts"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model says of itself.

    Attributes
    ----------
    input_shape, output_shape
        Without the batch, rows and columns before channels; None where any size will do. Of
        several inputs that of their channels one behind the other. Empty when the model has
        several outputs, of which none was said to be the map.
    ending
        How it ends, by its graph.
    front
        What it does to its input before the first weights; None where that is not known.
    norm
        What images of its training looked like; None where nothing in it remembers.
    names
        Of the model and the models inside it, in lower case.
    predict
        Maps (n, rows, columns, channels) float32, of any range, to (n, outputs) float32.
    layout
        Where its own input has the channels.
    inputs
        Of a model with several: the name of each, and how many channels it takes, in its order.
    outputs
        The name and the shape of each.
    """

    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]
    ending: Ending
    front: Front | None
    norm: Norm | None
    names: tuple[str, ...]
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    layout: Layout = "nhwc"
    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
