"""Whether a bundle says of examples what their author says, and if not, which step differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.bundles.bundle import Bundle
from worker.serving.backends.raw import Raw
from worker.tools.model_examples import Example, Stored
from worker.tools.model_steps import Answers, Other, Recipe, others, probabilities

__all__ = ["Findings", "look"]

MOST_SLICES_FOR_PAIRS: Final = 4
MOST_SLICES_AT_ONCE: Final = 8
"""Of more each way is tried by itself."""

MOST_TENSORS: Final = 256
"""So many are in memory at once."""

_FIRST_OF_PAIR: Final = {"scale", "output"}
"""Steps that are wrong together with another one most often."""

SHOWN: Final = 3

Way = tuple[Other, ...]
"""One step, or two, done in another way."""


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What the bundle says of the examples, and what other ways of preparing them would say.

    Attributes
    ----------
    expected, found
        (examples, labels) float32: what the author says (NaN: nothing), and the bundle.
    tensor
        (examples, rows, columns, channels) float32, 0..1: of the slice that says it.
    slices
        Which slice that is, counted over all examples.
    difference
        The largest one.
    agreeing
        Other ways with the numbers of every example, in the order of work.
    nearest
        The way whose numbers are nearest to the author's, and its largest difference.
    tried
        How many ways were tried.
    """

    expected: NDArray[np.float32]
    found: NDArray[np.float32]
    tensor: NDArray[np.float32]
    slices: tuple[int, ...]
    difference: float
    tolerance: float
    agreeing: tuple[Way, ...]
    nearest: tuple[Way, float]
    tried: int

    @property
    def agrees(self) -> bool:
        """Whether the bundle says what the author says."""
        return self.difference <= self.tolerance

    def why(self, folder_option: str = "") -> str:
        """Return what differs, which step it comes from, and what mends it, in words."""
        wrong = "; ".join(
            f"example {n}: the author's program says {_numbers(expected)}, this bundle "
            f"{_numbers(np.where(np.isnan(expected), np.nan, found))}"
            for n, (expected, found) in enumerate(zip(self.expected, self.found, strict=True), 1)
            if not np.nanmax(np.abs(found - expected)) <= self.tolerance
        )
        text = f"{wrong} (allowed difference {self.tolerance:g})"
        if not self.agreeing:
            way, far = self.nearest
            return (
                f"{text}; none of {self.tried} other ways of preparing it gives the author's "
                f"number. Nearest is {_words(way)}, {far:.3f} apart. Compare your tensor with the "
                "one of Limen: limen model preprocess FILE --bundle B -o tensor.npy"
            )
        lines = [f"\n  {_words(way)}{_remedy(way, folder_option)}" for way in self.agreeing]
        first = self.agreeing[0]
        steps = " and ".join(dict.fromkeys(one.step for one in first))
        if len(self.agreeing) == 1:
            return f"{text}.\nThe step that differs: {steps}. It agrees with:{lines[0]}"
        return (
            f"{text}.\n{len(self.agreeing)} other ways agree; the first step that differs may be "
            f"{steps}. More examples tell them apart:{''.join(lines)}"
        )


def _numbers(values: NDArray[np.float32]) -> str:
    return ", ".join("-" if np.isnan(value) else f"{value:.3f}" for value in values)


def _words(way: Way) -> str:
    return ", with ".join(f"{one.step}: {one.words}" for one in way)


def _remedy(way: Way, instead: str) -> str:
    if not all(one.remedy for one in way):
        return " (no key of a bundle says that: do it so where the model is trained, or inside it)"
    return f" -> {instead}{' '.join(one.remedy for one in way)}"


def look(
    bundle: Bundle, examples: Sequence[Example | Stored], raw: Raw, tolerance: float
) -> Findings:
    """Compare, and try every other way of each step; pairs of ways where none is enough.

    Parameters
    ----------
    raw
        The weights of the bundle, without its scale and activation.
    """
    answers = Answers(bundle, examples)
    expected = np.stack([example.expected for example in examples])
    now = Recipe.of(bundle)
    known: dict[Recipe, NDArray[np.float32]] = {}

    def pixels(recipe: Recipe) -> Recipe:
        """Return the recipe with its output as it is now: the model's own answer is the same."""
        return replace(
            recipe, activation=now.activation, inverted=now.inverted, outputs=now.outputs
        )

    def learn(recipes: Iterable[Recipe]) -> None:
        """Run the model on all that it was not asked yet, at once."""
        new = [one for one in dict.fromkeys(map(pixels, recipes)) if one not in known]
        several = max(1, MOST_TENSORS // answers.count)
        for start in range(0, len(new), several):
            part = new[start : start + several]
            inputs = [tensor for one in part for tensor in answers.inputs(one)]
            found = raw(np.stack(inputs))[..., : len(bundle.labels)]
            known.update(zip(part, np.split(found, len(part)), strict=True))

    def said(recipe: Recipe) -> tuple[NDArray[np.float32], list[int]]:
        learn([recipe])
        return answers.highest(probabilities(known[pixels(recipe)], recipe, bundle.temperature))

    def difference(recipe: Recipe) -> float:
        apart = np.abs(said(recipe)[0] - expected)[~np.isnan(expected)]
        return float(apart.max()) if np.isfinite(apart).all() else np.inf

    ways = others(bundle, of_tensors=any(isinstance(one, Stored) for one in examples))
    if bundle.code is not None:  # which does it, or does not
        ways = tuple(way for way in ways if way.step != "normalisation")
    if answers.count <= MOST_SLICES_AT_ONCE:
        learn([now, *(way.on(now) for way in ways)])
    found, places = said(now)
    apart = difference(now)
    tried: list[tuple[Way, float]] = [((way,), difference(way.on(now))) for way in ways]
    agreeing = [way for way, far in tried if far <= tolerance]
    if not agreeing and not apart <= tolerance and answers.count <= MOST_SLICES_FOR_PAIRS:
        pairs = _pairs(ways)
        learn(pair[1].on(pair[0].on(now)) for pair in pairs)
        of_pairs = [(pair, difference(pair[1].on(pair[0].on(now)))) for pair in pairs]
        agreeing += [way for way, far in of_pairs if far <= tolerance]
        tried += of_pairs
    tensors = answers.tensors(now)
    return Findings(
        expected=expected,
        found=found,
        tensor=np.stack([tensors[place] for place in places]),
        slices=tuple(places),
        difference=apart,
        tolerance=tolerance,
        agreeing=tuple(agreeing),
        nearest=min(tried, key=lambda one: one[1]),
        tried=len(tried),
    )


def _pairs(ways: Sequence[Other]) -> list[tuple[Other, Other]]:
    first = [one for one in ways if one.step in _FIRST_OF_PAIR]
    found = {
        frozenset({id(one), id(other)}): (one, other)
        for one, other in product(ways, first)
        if one.step != other.step and not set(one.change) & set(other.change)
    }
    return list(found.values())
