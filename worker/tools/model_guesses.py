"""What of a manifest can be told from a model's own numbers: its scale, and what its output is.

Layers and names only say where to look: a guess that one number refutes is never made, and where
two give sense nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import ConfigError
from worker.bundles.manifest import Activation
from worker.serving.facts import Facts
from worker.serving.graph import PROBABILITIES
from worker.tools import model_probes
from worker.tools.model_probes import View
from worker.tools.model_steps import IMAGENET, SCALES

__all__ = ["Decision", "Scale", "activation_of", "scale_of"]

Array = NDArray[np.float32]
Scale = tuple[float, float]

SAME: Final = 1e-6
"""Answers that lie nearer than this do not tell images apart."""

_NO_UPPER_END: Final = {
    *("relu", "leaky_relu", "leakyrelu", "elu", "selu", "gelu", "silu", "swish", "softplus"),
}
"""Activations that give no probability, however small the answers to a few images are."""

PROBABILITY_ERROR: Final = 1e-4
EXACT: Final = 0.02
BALANCED: Final = 0.35
NORMALISED_SPAN: Final = 6.5
"""Values with mean 0 and deviation 1 lie within such a range."""

CLEARER: Final = 0.6
"""The scale that the first batch normalisation has seen is so much nearer than the next one."""

_FROM_MINUS_ONE: Final = (
    *("mobilenet", "inception", "xception", "nasnet", "resnet50v2", "resnet101v2", "resnet152v2"),
)
"""Models of keras.applications whose preprocess_input maps to -1..1."""

_MEANS_SUBTRACTED: Final = re.compile(r"^(vgg1[69]|resnet(50|101|152)$|densenet)")
"""Models of keras.applications whose preprocess_input is no range, so scale cannot say it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was found.

    Attributes
    ----------
    scale
        The range, or the first of those that give sense.
    others
        The other ranges that give sense: examples have to decide; empty where nothing is open.
    """

    scale: Scale
    why: str
    certain: bool
    others: tuple[Scale, ...] = ()
    question: str = ""


def scale_of(facts: Facts, said: Scale | None, view: View, source: Path) -> Decision:
    """Return the range that the model wants its input in.

    Raises
    ------
    ConfigError
        It wants what no range says.
    """
    if said is not None:
        return Decision(said, "as said", certain=True)
    heads = model_probes.heads(view)
    ranges = _ranges(facts, heads)
    telling = [s for s, (low, high) in ranges.items() if high - low > SAME] or list(SCALES)
    by_front, by_norm = _by_front(facts, telling), _by_norm(facts, heads, telling)
    if by_front is not None and by_norm in {None, by_front} and facts.front is not None:
        low, high = facts.front.image(*by_front)
        layers = ", ".join(facts.front.layers)
        why = f"it makes {low:.3g} to {high:.3g} of that itself ({layers})"
        return Decision(by_front, why, certain=False)
    if by_norm is not None and by_front is None:
        why = "its first batch normalisation has seen heads in that range"
        return Decision(by_norm, why, certain=False)
    if by_norm is None:
        known = [n for n in facts.names if n.startswith(_FROM_MINUS_ONE) and "v3l" not in n]
        if known and SCALES[1] in telling and (facts.front is None or facts.front.does_nothing):
            why = f"what keras.applications does before {known[0]}"
            return Decision(SCALES[1], why, certain=False)
        _refuse_means(facts, source)
    if len(telling) == 1:
        why = "in the other usual ranges it says the same of every head"
        return Decision(telling[0], why, certain=False)
    shown = ", ".join(
        f"{low:g} to {high:g} (answers {ranges[low, high][0]:.3f} to {ranges[low, high][1]:.3f})"
        for low, high in telling
    )
    question = (
        f"{source}: nothing in the model tells in which range it wants its input, and these give "
        f"sense: {shown}. Say the one of the training with --scale LOW HIGH"
        f"{_of_torchvision(facts)}, or let a number of your own program tell: --example FILE "
        "--expect NUMBER"
    )
    return Decision(telling[0], "", certain=False, others=tuple(telling[1:]), question=question)


def _of_torchvision(facts: Facts) -> str:
    if facts.input_shape[-1] != 3:
        return ""
    mean, deviation = (",".join(f"{value:g}" for value in values) for values in IMAGENET)
    return f" (after torchvision: --scale 0 1 --mean {mean} --deviation {deviation})"


def _refuse_means(facts: Facts, source: Path) -> None:
    odd = [name for name in facts.names if _MEANS_SUBTRACTED.match(name)]
    if odd and (facts.front is None or facts.front.does_nothing):
        raise ConfigError(
            f"{source}: {odd[0]} of keras.applications wants means of colours subtracted, which "
            "is no range. Where you trained it so, put preprocess_input into the model, before "
            f"{odd[0]}, and save it again; where not, say the range with --scale LOW HIGH"
        )


def scaled(tensors: Array, scale: Scale) -> Array:
    """Return tensors of 0..1 in another range."""
    return (tensors * np.float32(scale[1] - scale[0]) + np.float32(scale[0])).astype(np.float32)


def _ranges(facts: Facts, heads: Array) -> dict[Scale, tuple[float, float]]:
    """Return the lowest and highest answer to images in each range.

    Of the output that they move most; the same twice where an answer is no number.
    """
    images = np.concatenate([model_probes.flat(heads.shape[1:]), heads])
    answers = _flat(facts.predict(np.concatenate([scaled(images, scale) for scale in SCALES])))
    found = {}
    for scale, part in zip(SCALES, np.split(answers, len(SCALES)), strict=True):
        column = part[:, int(np.argmax(np.ptp(part, axis=0)))]
        is_sound = bool(np.isfinite(part).all())
        found[scale] = (float(column.min()), float(column.max())) if is_sound else (0.0, 0.0)
    return found


def _flat(answers: Array) -> Array:
    """Return (n, values): all that is said of each image."""
    return answers.reshape(len(answers), -1)


def _by_front(facts: Facts, scales: Sequence[Scale]) -> Scale | None:
    """Return the only scale that the model itself brings to a range that is usual inside."""
    front = facts.front
    if front is None or front.does_nothing:
        return None
    images = {scale: front.image(*scale) for scale in scales}
    exact = [
        scale
        for scale, image in images.items()
        if any(np.allclose(image, usual, atol=EXACT) for usual in ((0, 1), (-1, 1)))
    ]
    around_0 = [
        scale
        for scale, (low, high) in images.items()
        if abs(low + high) / 2 <= BALANCED * (high - low)
    ]
    small = [s for s in around_0 if images[s][1] - images[s][0] <= NORMALISED_SPAN]
    wide_enough = [s for s in small if images[s][1] - images[s][0] >= 0.5]
    return next((found[0] for found in (exact, wide_enough, around_0) if len(found) == 1), None)


def _by_norm(facts: Facts, heads: Array, scales: Sequence[Scale]) -> Scale | None:
    """Return the scale in which heads are what the first batch normalisation has seen."""
    if facts.norm is None:
        return None
    apart = {scale: facts.norm.apart(scaled(heads, scale)) for scale in scales}
    first, *rest = sorted(apart, key=lambda scale: apart[scale])
    return first if not rest or apart[first] <= CLEARER * apart[rest[0]] else None


def activation_of(
    facts: Facts, said: Activation | None, view: View, source: Path
) -> tuple[Activation, str, bool]:
    """Return what has to follow the model's output, why, and whether that is certain.

    Raises
    ------
    ConfigError
        What was said contradicts the model's answers, or two ways give sense.
    """
    outputs = facts.output_shape[-1] or 0
    heads = model_probes.heads(view)
    extremes = model_probes.extremes(heads.shape[1:])
    images = [extremes, *(scaled(heads, scale) for scale in SCALES)]
    answers = _flat(facts.predict(np.concatenate(images)))
    answers = answers[np.isfinite(answers).all(axis=1)]
    if not len(answers):
        raise ConfigError(
            f"{source}: answers what is no number (NaN) to heads in every usual range; a "
            "probability is needed. Look for a logarithm or a division by 0 in the model, "
            "and save it without"
        )
    low, high = float(answers.min()), float(answers.max())
    within = low >= -PROBABILITY_ERROR and high <= 1 + PROBABILITY_ERROR
    shown = f"its answers go from {low:.3g} to {high:.3g}"
    last = facts.ending
    if said is not None:
        _refuse_contradiction(said, facts, source, shown, within=within)
        return said, "as said", True
    if last.activation in PROBABILITIES and within:
        return "none", f"the model ends with {last.words}", True
    varied = float(np.ptp(answers, axis=0).max()) > SAME
    if within and varied and last.activation not in _NO_UPPER_END:
        return "none", f"{shown}, whatever it is shown", False
    if last.activation != "linear":
        raise ConfigError(
            f"{source} ends with {last.words}, which gives no probability ({shown}); say what has "
            "to follow it with --activation sigmoid or --activation softmax, or end the model "
            "with a sigmoid"
        )
    if outputs == 1:
        return "sigmoid", f"the model ends without activation: {shown}", False
    raise ConfigError(
        f"{source} ends without activation, with {outputs} outputs: {shown}. Say --activation "
        "softmax where one of them is true, or --activation sigmoid where each is for itself"
    )


def _refuse_contradiction(
    said: Activation, facts: Facts, source: Path, shown: str, *, within: bool
) -> None:
    if said == "softmax" and facts.output_shape[-1] == 1:
        raise ConfigError(f"--activation softmax: {source} has one output; say sigmoid")
    if said == "none" and not within:
        raise ConfigError(
            f"--activation none: {source} gives no probability: {shown}. Say --activation sigmoid "
            "or --activation softmax"
        )
    if said != "none" and facts.ending.activation in PROBABILITIES and within:
        raise ConfigError(
            f"--activation {said}: {source} ends with {facts.ending.words} already, and a second "
            "one would press its probabilities together; leave it out"
        )
