"""Why the model called a slice positive: LIME (Ribeiro, Singh and Guestrin, 2016), in two modes.

The slice is cut into superpixels, some of them are hidden, the model answers
for each such image, and a linear model, fitted near the slice, says which
superpixels its answer rests on.

``LIME, reference``
    What lime 0.2.0.1 does when it is called as its README says, number for
    number: quick shift, each superpixel filled with its own mean, coins, a fixed
    number of samples. A test holds it to the package.
``LIME, settled``
    The same kernel, regression and score; other choices where LIME leaves them
    open. Superpixels lie inside the head, and the background is never hidden.
    A hidden superpixel looks like brain without a lesion. Some masks hide one
    superpixel each, which is a second opinion as well (``worker.lime.occlusion``);
    the others are balanced. The weights are about the log-odds: a probability
    near 0 or 1 hides what a superpixel does, log-odds add up. Sampling stops when
    the weights no longer move.

An explanation is a generator: it yields perturbed images and is sent the
model's answers. Whoever runs it decides when and in what company they are
answered. Same tensor, same model, same settings: same bytes.

The input of a model that sees a volume at once is cut into supervoxels (``Settings.voxel_mm``), and
one linear model is of all of it. Only the settled mode does that: lime itself knows pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import EngineError, NotAnalysable
from worker.lime import masks as sampling
from worker.lime import surrogate
from worker.lime.masks import Masks
from worker.lime.occlusion import Opinion, Verdict, opinion
from worker.lime.own_map import Pointed, pointed
from worker.lime.superpixels import Superpixels, brain_median, own_mean, quickshift, slic_in_head
from worker.lime.supervoxels import supervoxels_in_head

__all__ = ["Classifier", "Mode", "Settings", "SliceExplanation", "Steps", "explain", "steps"]

Tensor = NDArray[np.float32]
Classifier = Callable[[Tensor], NDArray[np.float32]]
"""Maps (n, rows, columns, channels) float32, of volumes (n, depth, rows, columns, channels), to
(n, labels) float32 probabilities; the cells of a map of its own come last (``Settings.map_size``).
"""

ROUND: Final = 32
"""Perturbed images that are asked for at once."""

MOST_BYTES: Final = 128 << 20
"""Of large ones so many that they take no more than this: what an engine runs together, too."""

MIN_FIDELITY_R2: Final = 0.5
"""Below it the linear model explains less than half of what the model does nearby."""

MIN_STABILITY: Final = 0.6
"""Below it the weights are not the same when the samples are drawn again."""

SETTLED_STABILITY: Final = 0.995
"""From here on more samples are not asked for. So high because the strong weights settle long
before the order of the weak ones does."""

MIN_EFFECT: Final = 0.05
"""Least difference of probability between the slice and the slice with all superpixels hidden."""

LEAST_PROBABILITY: Final = 1e-6
"""Nearer to 0 or 1 than this the log-odds are those of this: near 1 float32 is no finer."""

BOOTSTRAPS: Final = 30
_DECIMALS: Final = 6


class Mode(StrEnum):
    """How LIME is run."""

    SETTLED = "settled"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one slice is explained.

    Attributes
    ----------
    samples
        Perturbed images: at most so many in the settled mode, exactly in the reference mode.
    superpixels
        Wanted number in the settled mode; the reference mode makes its own.
    slices
        How many slices the channels are of, slice by slice. The middle one is cut into
        superpixels; what is hidden of it is hidden of all.
    voxel_mm
        Of a volume: how far apart its slices, rows and columns are. None: it is a slice.
    map_size
        Rows and columns of the model's own map, where its answer has one for the label that is
        explained; None: it is not looked at.
    """

    mode: Mode = Mode.SETTLED
    samples: int = 96
    superpixels: int = 20
    seed: int = 0
    slices: int = 1
    voxel_mm: tuple[float, float, float] | None = None
    map_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SliceExplanation:
    """One explained slice, or volume.

    Attributes
    ----------
    segments
        (rows, columns) int64, of a volume (depth, rows, columns), at the model's input size:
        superpixels from 0; the number after the last weight is the background.
    weights
        (superpixels,) float64: above 0 speaks for the label. What keeping a superpixel adds to
        the probability (reference) or to its log-odds (settled).
    area_px
        (superpixels,) int64.
    fidelity_r2
        Weighted R2 of the local linear model, LIME's own score; at most 1.
    stability
        How alike the weights stay when the samples are weighed anew
        (Bayesian bootstrap), -1..1.
    samples
        Perturbed images that the weights rest on, the slice itself among them.
    probability
        The model's answer to the slice, 0..1.
    baseline_probability
        Its answer to the slice with every superpixel hidden; None where that was not asked.
    without_strongest
        Its answer to the slice with only the superpixel of the highest weight hidden; None where
        none speaks for the label.
    second
        What hiding each superpixel by itself says; None where that was not asked.
    own_map
        What the model's own map says; None where it has none.
    poor
        Why the explanation should not be leaned on; empty for a good one.
    """

    segments: NDArray[np.int64]
    weights: NDArray[np.float64]
    area_px: NDArray[np.int64]
    fidelity_r2: float
    stability: float
    samples: int
    probability: float
    baseline_probability: float | None
    settings: Settings
    poor: str
    without_strongest: float | None = None
    second: Opinion | None = None
    own_map: Pointed | None = None

    @property
    def method(self) -> str:
        """``LIME, settled`` or ``LIME, reference``."""
        return f"LIME, {self.settings.mode}"

    @property
    def parameters(self) -> str:
        """Everything that the method was run with, in words."""
        asked = self.settings
        if asked.mode is Mode.REFERENCE:
            how = f"quick shift; masks drawn by coins; {asked.samples} samples"
        else:
            cut = f"SLIC inside the head, about {asked.superpixels} superpixels"
            if asked.voxel_mm is not None:
                cut = (
                    "SLIC in three dimensions inside the head, what is alike merged to "
                    f"{len(self.weights)} supervoxels; one linear model of all "
                    f"{len(self.segments)} slices at once"
                )
            how = (
                f"{cut}; "
                f"{'each hidden by itself, and ' if self.second else ''}foldover Hadamard masks; "
                f"log-odds; at most {asked.samples} samples, fewer once the stability is "
                f"{SETTLED_STABILITY:g}"
            )
        if asked.slices > 1:
            how += f"; each superpixel in all {asked.slices} slices that the model sees"
        return f"{how}; kernel width {surrogate.KERNEL_WIDTH:g}, ridge {surrogate.ALPHA:g}"

    @property
    def baseline(self) -> str:
        """What stood in for a hidden superpixel, in words."""
        settled = self.settings.mode is Mode.SETTLED
        return "the median of the brain" if settled else "the mean of the superpixel"


Steps = Generator[Tensor, NDArray[np.float32], SliceExplanation]
"""Yields (n, *shape of the tensor) float32, is sent what a ``Classifier`` gives.

What it yields is written to again after the answer was sent, and not before.
"""


def explain(
    tensor: Tensor,
    classifier: Classifier,
    label: int,
    settings: Settings | None = None,
    picture: Tensor | None = None,
) -> SliceExplanation:
    """Explain one slice, or volume; parameters and errors are those of ``steps``."""
    running = steps(tensor, label, settings or Settings(), picture)
    try:
        wanted = next(running)
        while True:
            wanted = running.send(classifier(wanted))
    except StopIteration as done:
        found: SliceExplanation = done.value
        return found


def steps(tensor: Tensor, label: int, settings: Settings, picture: Tensor | None = None) -> Steps:
    """Explain one slice, or volume, the answers of the model being sent in.

    Parameters
    ----------
    tensor
        (rows, columns, channels) float32, 0..1, of a volume (depth, rows, columns, channels): the
        model's input.
    label
        Output of the model to explain, from 0.
    picture
        (rows, columns, windows) float32, 0..1: the slice as it is cut into superpixels, air 0.
        None: the middle slice of the tensor, which has to be so itself. Of a volume all of it.

    Raises
    ------
    NotAnalysable
        It shows nothing but air, or holds values that are no numbers; or it is a volume, and the
        mode is that of lime itself.
    EngineError
        The model answered with something that is no number.
    """
    if not np.isfinite(tensor).all():
        raise NotAnalysable("the slice holds values that are no numbers")
    shown = _middle(tensor, settings) if picture is None else picture
    if settings.mode is Mode.REFERENCE and settings.voxel_mm is not None:
        raise NotAnalysable(
            'the reference method is for slices, not for volumes; set explain.mode = "settled"'
        )
    made = _reference if settings.mode is Mode.REFERENCE else _settled
    if settings.map_size is None:
        return (yield from made(tensor, label, settings, shown))
    found, first = yield from _and_first_answer(made(tensor, label, settings, shown))
    return _with_own_map(found, first[-math.prod(settings.map_size) :], settings.map_size)


def _reference(tensor: Tensor, label: int, settings: Settings, picture: Tensor) -> Steps:
    superpixels = quickshift(picture)
    masks = sampling.bernoulli(settings.samples, superpixels.count, settings.seed)
    images = Perturbed(tensor, own_mean(tensor, superpixels), superpixels)
    answers = yield from _asked(images, masks, label)
    alone = np.arange(len(masks))
    found = _explanation(superpixels, masks, answers, alone, settings)
    return (yield from _tried(found, images, label))


def _settled(tensor: Tensor, label: int, settings: Settings, picture: Tensor) -> Steps:
    if settings.voxel_mm is None:
        superpixels = slic_in_head(picture, settings.superpixels)
    else:
        superpixels = supervoxels_in_head(picture, settings.superpixels, settings.voxel_mm)
    masks, alone = sampling.beside_alone(settings.samples, superpixels.count, settings.seed)
    units = sampling.units(len(masks), alone)
    images = Perturbed(tensor, brain_median(tensor, superpixels, picture), superpixels)
    answers = np.empty(0)
    while True:
        more = masks[len(answers) : len(answers) + ROUND]
        answers = np.append(answers, (yield from _asked(images, more, label)))
        if len(answers) < min(alone + ROUND, len(masks)):
            continue
        used = masks[: len(answers)]
        found = _explanation(
            superpixels, used, answers, units[: len(answers)], settings, log_odds=True
        )
        if len(answers) == len(masks) or found.stability >= SETTLED_STABILITY:
            if not alone:
                return (yield from _tried(found, images, label))
            return _with_second(found, answers[sampling.FIRST : sampling.FIRST + alone])


def _with_second(found: SliceExplanation, without: NDArray[np.float64]) -> SliceExplanation:
    """Return the explanation with what hiding each superpixel by itself says.

    Parameters
    ----------
    without
        (superpixels,) float64: the model's answer with only that one hidden.
    """
    second = opinion(found.probability, np.round(without, _DECIMALS), found.weights)
    speaks = found.weights.max() > 0
    without_strongest = float(second.without[found.weights.argmax()]) if speaks else None
    return replace(
        found,
        second=second,
        without_strongest=without_strongest,
        poor=_also_poor(found.poor, second),
    )


def _also_poor(why: str, other: Opinion | Pointed) -> str:
    """Return why an explanation is poor, with that another method differs, where it does.

    One superpixel, or an answer that nothing lowers, is poor for its own reason.
    """
    reasons = [why, other.words if other.verdict is Verdict.DIFFERS else ""]
    return "; ".join(reason for reason in reasons if reason)


def _and_first_answer(
    running: Steps,
) -> Generator[Tensor, NDArray[np.float32], tuple[SliceExplanation, NDArray[np.float32]]]:
    """Return an explanation, and what was answered to the slice itself, which is asked first."""
    answer = yield next(running)
    first = np.array(answer[0], np.float32)
    try:
        while True:
            answer = yield running.send(answer)
    except StopIteration as done:
        return done.value, first


def _with_own_map(
    found: SliceExplanation, cells: NDArray[np.float32], size: tuple[int, int]
) -> SliceExplanation:
    """Return the explanation with what the model's own map says of its regions."""
    own_map = pointed(cells.reshape(size), found.segments, found.weights)
    return replace(found, own_map=own_map, poor=_also_poor(found.poor, own_map))


def _tried(
    found: SliceExplanation, images: Perturbed, label: int
) -> Generator[Tensor, NDArray[np.float32], SliceExplanation]:
    """Return the explanation with what the model says where only its strongest sign is hidden.

    A weight is an average over many masks; this is one question that anybody can understand.
    """
    if found.weights.max(initial=0) <= 0:
        return found
    kept = np.ones((1, len(found.weights)), bool)
    kept[0, found.weights.argmax()] = False
    (answer,) = yield from _asked(images, kept, label)
    return replace(found, without_strongest=round(float(answer), _DECIMALS))


def _middle(tensor: Tensor, settings: Settings) -> Tensor:
    """Return the channels of the slice that is looked at, without those of its neighbours."""
    each = tensor.shape[-1] // settings.slices
    first = settings.slices // 2 * each
    return tensor[..., first : first + each]


def _asked(
    images: Perturbed, masks: Masks, label: int
) -> Generator[Tensor, NDArray[np.float32], NDArray[np.float64]]:
    """Return (samples,) float64: the model's answer to each mask, asked for by rounds."""
    found = []
    for start in range(0, len(masks), images.most):
        answer = yield images(masks[start : start + images.most])
        found.append(np.asarray(answer, np.float64)[:, label])
    answers = np.concatenate(found)
    if not np.isfinite(answers).all():
        raise EngineError("the model gave a value that is no number for a perturbed image")
    return answers


def _explanation(
    superpixels: Superpixels,
    masks: Masks,
    answers: NDArray[np.float64],
    units: NDArray[np.int64],
    settings: Settings,
    *,
    log_odds: bool = False,
) -> SliceExplanation:
    counts = surrogate.kernel(masks)
    fitted_to = _log_odds(answers) if log_odds else answers
    fitted = surrogate.fit(masks, fitted_to, counts)
    stability = surrogate.bootstrap_agreement(
        masks, fitted_to, counts, units, BOOTSTRAPS, settings.seed
    )
    hidden = np.flatnonzero(~masks.any(axis=1))
    baseline = float(answers[hidden[0]]) if len(hidden) else None
    return SliceExplanation(
        segments=superpixels.segments,
        weights=np.round(fitted.weights, _DECIMALS) + 0.0,
        area_px=superpixels.area_px,
        fidelity_r2=round(fitted.r2, _DECIMALS),
        stability=round(stability, _DECIMALS),
        samples=len(answers),
        probability=round(float(answers[0]), _DECIMALS),
        baseline_probability=None if baseline is None else round(baseline, _DECIMALS),
        settings=settings,
        poor=_why_poor(fitted.r2, stability, float(answers[0]), baseline, superpixels.count),
    )


def _log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(probability, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(inside / (1 - inside))


def _why_poor(
    r2: float, stability: float, probability: float, baseline: float | None, count: int
) -> str:
    """Return why an explanation should not be leaned on, or an empty text."""
    if count < 2:
        return "there is only one superpixel"
    faults = []
    if baseline is not None and probability - baseline < MIN_EFFECT:
        faults.append("hiding the whole head hardly lowers the model's answer")
    if r2 < MIN_FIDELITY_R2:
        faults.append("the linear model does not follow the network")
    if stability < MIN_STABILITY:
        faults.append("other samples give other weights")
    return "; ".join(faults)


class Perturbed:
    """Perturbed images of one slice, or volume, made in one buffer that is used again and again.

    A pixel is ``fill ^ (bits & (slice ^ fill))`` on its 32 bits, where ``bits`` is all ones
    where its superpixel is kept: one gather and two passes through the memory of an image,
    a quarter of the time of ``np.where``. Rows (of a volume slices) that hold nothing but
    background are written once.

    Attributes
    ----------
    most
        How many are made at once: ``ROUND``, and of large ones what ``MOST_BYTES`` hold.
    """

    def __init__(self, tensor: Tensor, fill: Tensor, superpixels: Superpixels) -> None:
        kept = np.ascontiguousarray(tensor, np.float32)
        hidden = np.ascontiguousarray(fill, np.float32)
        self.most = max(1, min(ROUND, MOST_BYTES // kept.nbytes))
        self._images = np.repeat(kept[np.newaxis], self.most, axis=0)
        inside = superpixels.inside
        lines = np.flatnonzero(inside.reshape(len(inside), -1).any(axis=1))
        width = kept[0].size
        self._part = slice(int(lines[0]) * width, (int(lines[-1]) + 1) * width)
        self._hidden = hidden.view(np.uint32).ravel()[self._part]
        self._difference = kept.view(np.uint32).ravel()[self._part] ^ self._hidden
        numbers = np.repeat(superpixels.segments.ravel(), kept.shape[-1])[self._part]
        self._numbers = numbers.astype(np.intp)

    def __call__(self, masks: Masks) -> Tensor:
        """Return (n, *shape of the tensor) float32, a view of the buffer; n up to ``most``."""
        always = np.ones((len(masks), 1), bool)  # the background
        bits = -np.concatenate([masks, always], axis=1).astype(np.int32)
        images = self._images[: len(masks)]
        flat = images.view(np.uint32).reshape(len(masks), -1)[:, self._part]
        for image, kept in zip(flat, bits.view(np.uint32), strict=True):
            np.take(kept, self._numbers, out=image, mode="clip")  # "raise" would copy
            np.bitwise_and(image, self._difference, out=image)
            np.bitwise_xor(image, self._hidden, out=image)
        return images
