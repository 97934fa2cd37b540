"""Why the model called a slice positive: LIME, as the ``lime`` package defines it.

The slice is cut into superpixels, parts of the head are replaced by what
healthy brain looks like, the model answers for each such image, and a local
linear model says which superpixels its answer rests on.

Choices that LIME leaves open, and why they are as they are:

Superpixels
    SLIC on the model's own tensor, inside the head. The background is one
    more superpixel that is never changed (its fill is itself): hiding air
    would show the model a picture no scanner makes. Its weight says nothing
    and is not reported.
Fill
    LIME's default replaces a superpixel by its own mean, which leaves a bright
    haemorrhage bright. Here a hidden superpixel takes the median of the
    brain in each channel: "no lesion here".
Sampling, kernel, regression
    Those of lime 0.2.0.1: half of the superpixels are hidden at a time,
    cosine distance, kernel width 0.25, ridge regression.

Same tensor, same bundle, same seed: same numbers.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from limen.errors import EngineError, NotAnalysable

__all__ = ["Classifier", "SliceExplanation", "explain"]

Tensor = NDArray[np.float32]

METHOD: Final = "LIME, lime 0.2.0.1, SLIC"
BATCH: Final = 32

MIN_FIDELITY_R2: Final = 0.5
"""Below it the linear model explains less than half of what the model does nearby."""

MIN_STABILITY: Final = 0.3
"""Below it two halves of the samples hardly agree on the order of the superpixels."""

HEAD_LEVEL: Final = 0.02
"""Least mean of the channels (0..1) inside the head; air is 0 in every window."""

BRAIN_RANGE: Final = (0.05, 0.95)
"""First channel of brain (0..1); beyond it lie air and bone, clipped by the window."""

COMPACTNESS: Final = 0.1
SIGMA_PX: Final = 0.5
_DECIMALS: Final = 6
_LOCK: Final = threading.Lock()
"""Warning filters belong to the process, not to a thread."""


class Classifier(Protocol):
    """Answers for perturbed images; ``worker.analysis`` puts the explain lane behind it."""

    def __call__(self, tensors: Tensor) -> NDArray[np.float32]:
        """Map (n, rows, columns, channels) float32 to (n, labels) float32 probabilities."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceExplanation:
    """One explained slice.

    Attributes
    ----------
    segments
        (rows, columns) int64 at the model's input size: superpixels from 0;
        the number after the last weight is the background.
    weights
        (superpixels,) float64: above 0 speaks for the label.
    area_px
        (superpixels,) int64.
    fidelity_r2
        Weighted R2 of the local linear model, LIME's own score; at most 1.
    stability
        Spearman's rank correlation of the weights fitted on two halves of the
        samples, -1..1.
    poor
        Fidelity below ``MIN_FIDELITY_R2`` or stability below ``MIN_STABILITY``,
        or the model's answer does not depend on what is hidden.
    """

    segments: NDArray[np.int64]
    weights: NDArray[np.float64]
    area_px: NDArray[np.int64]
    fidelity_r2: float
    stability: float
    samples: int
    seed: int
    method: str
    poor: bool


def explain(
    tensor: Tensor,
    classifier: Classifier,
    label: int,
    *,
    samples: int = 300,
    superpixels: int = 60,
    seed: int = 0,
) -> SliceExplanation:
    """Explain one slice.

    Parameters
    ----------
    tensor
        (rows, columns, channels) float32, 0..1: the model's input.
    label
        Output of the model to explain, from 0.
    samples
        Perturbed images; the first is the slice itself.
    superpixels
        Wanted number; SLIC comes near it.

    Raises
    ------
    NotAnalysable
        The slice shows nothing but air.
    EngineError
        The model failed on the perturbed images.
    """
    segments = superpixels_of(tensor, superpixels)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside lime are not the operator's
        explainer = _explainer(seed)
    fitted = explainer.explain_instance(
        tensor.astype(np.float64),
        classifier,
        labels=(label,),
        top_labels=None,
        hide_color=fill_of(tensor, segments),
        num_samples=samples,
        batch_size=BATCH,
        segmentation_fn=lambda image: segments,
        random_seed=seed,
    )
    count = int(segments.max())  # the background comes after the superpixels
    weights = _vector(fitted.local_exp[label], count)
    fidelity = float(fitted.score) if np.ptp(explainer.answers[:, label]) > 0 else 0.0
    stability = _stability(explainer, label, count)
    return SliceExplanation(
        segments=segments,
        weights=weights,
        area_px=np.bincount(segments.ravel(), minlength=count)[:count].astype(np.int64),
        fidelity_r2=round(fidelity, _DECIMALS),
        stability=stability,
        samples=samples,
        seed=seed,
        method=METHOD,
        poor=fidelity < MIN_FIDELITY_R2 or stability < MIN_STABILITY,
    )


def superpixels_of(tensor: Tensor, wanted: int) -> NDArray[np.int64]:
    """Return (rows, columns) int64: superpixels of the head from 0, then the background.

    Raises
    ------
    NotAnalysable
        The slice shows nothing but air.
    """
    from skimage.segmentation import slic  # noqa: PLC0415 - a second to import

    head = head_of(tensor)
    if not head.any():
        raise NotAnalysable("the slice shows nothing but air, so there is nothing to explain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is allowed
        found = slic(
            tensor.astype(np.float64),
            n_segments=wanted,
            compactness=COMPACTNESS,
            sigma=SIGMA_PX,
            mask=head,
            start_label=1,
            channel_axis=-1,
            convert2lab=False,
        )
    # SLIC leaves gaps in the numbers, and now and then a pixel of the head out.
    found = np.where(head & (found == 0), 1, found)
    _, numbers = np.unique(np.where(head, found, found.max() + 1), return_inverse=True)
    segments: NDArray[np.int64] = numbers.reshape(head.shape).astype(np.int64)
    if head.all():  # LIME counts superpixels by their numbers; the background may be empty
        segments[0, 0] = segments.max() + 1
    return segments


def head_of(tensor: Tensor) -> NDArray[np.bool_]:
    """Return (rows, columns) bool: the largest thing that is not air, its cavities filled."""
    from scipy import ndimage  # noqa: PLC0415

    parts, count = ndimage.label(tensor.mean(axis=-1) > HEAD_LEVEL)
    if not count:
        return np.zeros(tensor.shape[:2], bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(parts == sizes.argmax())
    return filled


def fill_of(tensor: Tensor, segments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (rows, columns, channels) float64: what stands in for a hidden superpixel.

    The median of the brain in each channel; the background stands in for itself.
    """
    head = segments < segments.max()
    low, high = BRAIN_RANGE
    brain = head & (tensor[..., 0] > low) & (tensor[..., 0] < high)
    source = tensor[brain if brain.any() else head].astype(np.float64)
    filled = tensor.astype(np.float64)
    filled[head] = np.median(source, axis=0)
    return filled


def _vector(pairs: list[tuple[int, float]], count: int) -> NDArray[np.float64]:
    """Return the weights in the order of the superpixels, without the background."""
    weights = np.zeros(count + 1)
    for number, weight in pairs:
        weights[number] = weight
    return np.round(weights[:count], _DECIMALS) + 0.0


def _stability(explainer: Any, label: int, count: int) -> float:
    """Fit both halves of the samples apart and compare the order of their weights."""
    from scipy.stats import rankdata  # noqa: PLC0415

    if count < 2:
        return 0.0
    ranks = []
    for first in (1, 2):
        rows = np.r_[0, first : len(explainer.masks) : 2]  # row 0 is the slice itself
        _, pairs, _, _ = explainer.base.explain_instance_with_data(
            explainer.masks[rows],
            explainer.answers[rows],
            explainer.distances(rows),
            label,
            count + 1,
        )
        ranks.append(rankdata(_vector(pairs, count)))
    if not all(np.ptp(r) for r in ranks):
        return 0.0
    return round(float(np.corrcoef(*ranks)[0, 1]), _DECIMALS)


def _explainer(seed: int) -> Any:
    """Return LIME's image explainer, seeded, that keeps its samples.

    The class is made here because importing lime takes seconds. It replaces
    one method: the perturbed images are made by batches instead of one by one,
    from the same random numbers, and no progress bar is drawn. A test holds it
    to the package's own method.
    """
    from lime.lime_image import LimeImageExplainer  # noqa: PLC0415
    from scipy.spatial.distance import cdist  # noqa: PLC0415

    class Explainer(LimeImageExplainer):  # type: ignore[misc]
        masks: NDArray[np.int64]
        answers: NDArray[np.float64]

        def data_labels(
            self,
            image: NDArray[np.float64],
            fudged_image: NDArray[np.float64],
            segments: NDArray[np.int64],
            classifier_fn: Classifier,
            num_samples: int,
            batch_size: int = BATCH,
        ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            features = int(segments.max()) + 1
            drawn = self.random_state.randint(0, 2, num_samples * features)
            self.masks = drawn.reshape(num_samples, features)
            self.masks[0, :] = 1
            self.answers = _answers(
                self.masks, image, fudged_image, segments, classifier_fn, batch_size
            )
            return self.masks, self.answers

        def distances(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
            masks = self.masks.astype(np.float64)
            found: NDArray[np.float64] = cdist(masks[rows], masks[:1], "cosine").ravel()
            return np.nan_to_num(found, nan=1.0)  # a mask that hides all has no direction

    return Explainer(random_state=seed)


def _answers(
    masks: NDArray[np.int64],
    image: NDArray[np.float64],
    fill: NDArray[np.float64],
    segments: NDArray[np.int64],
    classifier: Classifier,
    batch: int,
) -> NDArray[np.float64]:
    """Return (samples, labels) float64: the model's answer to each perturbed image."""
    image32, fill32 = image.astype(np.float32), fill.astype(np.float32)
    found = []
    for start in range(0, len(masks), batch):
        kept = masks[start : start + batch][:, segments].astype(bool)
        found.append(classifier(np.where(kept[..., None], image32, fill32)))
    answers = np.concatenate(found).astype(np.float64)
    if not np.isfinite(answers).all():
        raise EngineError("the model gave a value that is no number for a perturbed image")
    return answers
