"""A model without what its manifest says of scale and output: any tensor in, its raw output back.

For the tools that look for what a manifest should say; no study comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen import config
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Output
from worker.serving.backends import choice

__all__ = ["Raw", "open_raw"]

BATCH: Final = 8

Raw = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps (n, rows, columns, channels) float32, of any range, to (n, outputs) float32, as they are."""


def open_raw(bundle: Bundle, remote: config.RemoteModels | None = None) -> Raw:
    """Load the weights of a bundle as they are.

    Parameters
    ----------
    remote
        The server that runs the models of bundles without weights.

    Raises
    ------
    BundleError
        They cannot be loaded, or do not fit the manifest.
    """
    plain = replace(
        bundle,
        scale=(0.0, 1.0),
        mean=(),
        deviation=(),
        output=Output(),
        temperature=1.0,
        converted={},
        golden_probability=bundle.golden_probability[:0],  # they are those of other keys
    )
    settings = config.Engine(precision="fp32", remote=remote or config.RemoteModels())
    backend = choice.choose(plain, settings).backend

    def run(tensors: NDArray[np.float32]) -> NDArray[np.float32]:
        found = []
        for start in range(0, len(tensors), BATCH):
            batch = np.zeros((BATCH, *bundle.input_shape), np.float32)
            part = tensors[start : start + BATCH]
            batch[: len(part)] = part
            found.append(np.asarray(backend.predict(batch), np.float32)[: len(part)])
        return np.concatenate(found)[..., : bundle.outputs]

    return run
