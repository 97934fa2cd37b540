"""What runs a model: one small protocol, and a module for each library behind it.

TensorFlow, Keras and OpenVINO are imported below this package and nowhere else in the worker
(``worker.serving.conversion``, which makes the files of one out of the other, comes through here
too), each only when it is used: a worker that runs on OpenVINO never loads TensorFlow.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend"]


class Backend(Protocol):
    """The model itself. Called from one thread at a time.

    Attributes
    ----------
    smallest_batch
        The size from which on a tensor gets the same digits, whatever its company.
    """

    smallest_batch: int

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (n, ...) float32, 0..1, to (n, ...) float32 probabilities.

        Of the shapes that ``Bundle.input_shape`` and ``answer_shape`` say: where the model has a
        map of its own (``Bundle.map``), its cells, each a share of the highest, come last.
        """
