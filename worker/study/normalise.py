"""Channels normalised by numbers of the slice itself: z-scores, percentiles.

It is the last thing that is done to a tensor, as a notebook does it just before the model: what
it is taken over has the size of the input already. Tensors stay within 0..1; what 0 and 1 stand
for is ``input.scale``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.bundles.preparation import Preparation

__all__ = ["normalised"]

Array = NDArray[np.float32]


def normalised(tensor: Array, how: Preparation, heads: NDArray[np.bool_] | None = None) -> Array:
    """Return a tensor with its channels normalised as ``how`` says.

    ``z-score``: (x - mean) / standard deviation (of all, not of a sample; 1 where every pixel is
    the same), clipped at ``deviations`` on each side, which become 0 and 1. ``percentile``: the
    two percentiles (linear between pixels) become 0 and 1, what is beyond is clipped; 0 where
    they are the same.

    Parameters
    ----------
    tensor
        (rows, columns, channels) float32, 0..1.
    heads
        Of the same shape: the pixels that numbers are taken of; None: of all. A channel without
        such pixels has those of all.

    Returns
    -------
    Array
        (rows, columns, channels) float32, 0..1.
    """
    if how.normalise == "none":
        return tensor
    channels = tensor.shape[-1]
    low, high = np.empty(channels), np.empty(channels)
    for channel in range(channels) if how.statistics == "channel" else [slice(None)]:
        values = tensor[..., channel]
        if heads is not None and heads[..., channel].any():
            values = values[heads[..., channel]]
        low[channel], high[channel] = _ends(values, how)
    span = np.where(high > low, high - low, np.inf)
    found = (tensor - low.astype(np.float32)) / span.astype(np.float32)
    return np.asarray(found.clip(0, 1), np.float32)


def _ends(values: Array, how: Preparation) -> tuple[float, float]:
    """Return what becomes 0 and what becomes 1."""
    if how.normalise == "percentile":
        low, high = np.percentile(values, how.percentiles)
        return float(low), float(high)
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    reach = (deviation or 1.0) * how.deviations
    return mean - reach, mean + reach
