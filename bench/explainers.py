"""Ways to explain a slice that are compared: Limen's own, and its peers.

Each maps (tensor, model, seed) to a weight for each pixel, as its own
documentation says to call it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.forward import Forward
from worker.lime import explain as limen
from worker.lime.superpixels import brain_median, slic_in_head

__all__ = ["Explained", "Explainer", "lime_package", "occlusion", "ours"]

Tensor = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """Weights of superpixels.

    Attributes
    ----------
    segments
        (rows, columns) int64, from 0; a number without a weight is background.
    weights
        (superpixels,) float64.
    samples
        Passes through the model that were made.
    """

    segments: NDArray[np.int64]
    weights: NDArray[np.float64]
    samples: int

    @property
    def weight_map(self) -> NDArray[np.float64]:
        """(rows, columns) float64: the weight of each pixel, 0 in the background."""
        return np.append(self.weights, 0.0)[np.minimum(self.segments, len(self.weights))]


Explainer = Callable[[Tensor, Forward, int, int], Explained]
"""(tensor, model, label, seed) -> weights."""


def ours(settings: limen.Settings) -> Explainer:
    """Return Limen's explainer with these settings, the seed apart."""

    def run(tensor: Tensor, model: Forward, label: int, seed: int) -> Explained:
        asked = limen.Settings(settings.mode, settings.samples, settings.superpixels, seed)
        found = limen.explain(tensor, model, label, asked)
        return Explained(found.segments, found.weights, found.samples)

    return run


def lime_package(samples: int) -> Explainer:
    """Return lime 0.2.0.1 as its README calls it: own segmentation, fill and batches."""

    def run(tensor: Tensor, model: Forward, label: int, seed: int) -> Explained:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lime import lime_image

            lime_image.tqdm = _no_bar
            found = lime_image.LimeImageExplainer(random_state=seed).explain_instance(
                tensor.astype(np.double),
                model,
                labels=(label,),
                top_labels=None,
                hide_color=None,
                num_samples=samples,
            )
        pairs = sorted(found.local_exp[label])
        weights = np.array([weight for _, weight in pairs])
        return Explained(found.segments.astype(np.int64), weights, samples)

    return run


def _no_bar(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stand in for tqdm: a progress bar is not what is measured."""
    return rows


def occlusion(passes: int) -> Explainer:
    """Return leave-one-out occlusion: each superpixel of the head hidden by itself, once.

    As many superpixels as there are passes, one less: the slice itself is one.
    """

    def run(tensor: Tensor, model: Forward, label: int, seed: int) -> Explained:
        del seed  # nothing is drawn
        cut = slic_in_head(tensor, passes - 1)
        fill = brain_median(tensor, cut)
        images = np.repeat(tensor[None], cut.count + 1, axis=0)
        for number, image in enumerate(images[1:]):
            hidden = cut.segments == number
            image[hidden] = fill[hidden]
        parts = [model(images[i : i + 32])[:, label] for i in range(0, len(images), 32)]
        answers = np.concatenate(parts).astype(np.float64)
        return Explained(cut.segments, answers[0] - answers[1:], len(images))

    return run
