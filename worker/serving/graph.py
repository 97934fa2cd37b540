"""What the graph of a model tells, whatever its format: how it begins, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROBABILITIES", "Ending", "Front", "Norm", "Run", "chosen_among", "measured"]

Array = NDArray[np.float32]
Run = Callable[[Array], Array]

PROBABILITIES: Final = {"sigmoid", "softmax", "hard_sigmoid"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a model ends.

    Attributes
    ----------
    activation
        ``sigmoid``, ``softmax``, ``linear``, ``relu``, ...: of what the output is made of.
    words
        The same for people: "average of sigmoids".
    """

    activation: str
    words: str


@dataclass(frozen=True, slots=True)
class Front:
    """What is done to the values of the input before the first weights: x * factor + offset.

    Attributes
    ----------
    factor, offset
        One for each channel there.
    layers
        Names of the kinds of layers that do it.
    """

    factor: tuple[float, ...]
    offset: tuple[float, ...]
    layers: tuple[str, ...]

    @property
    def does_nothing(self) -> bool:
        """Whether the values stay as they are."""
        return all(f == 1 for f in self.factor) and all(o == 0 for o in self.offset)

    def image(self, low: float, high: float) -> tuple[float, float]:
        """Return the lowest and the highest value that a range of the input becomes."""
        ends = [
            f * x + o for f, o in zip(self.factor, self.offset, strict=True) for x in (low, high)
        ]
        return min(ends), max(ends)


class Norm:
    """The first batch normalisation: it remembers what images of the training looked like there."""

    def __init__(self, run: Run, mean: Array, variance: Array, epsilon: float) -> None:
        self._run = run
        self._mean = mean
        self._variance = variance + epsilon
        self._epsilon = epsilon

    def apart(self, tensors: Array) -> float:
        """Return how far images are from what it has seen; 0 is the same mean and variance."""
        found = self._run(tensors)
        axes = tuple(range(found.ndim - 1))
        mean, variance = found.mean(axes), found.var(axes) + self._epsilon
        of_mean = np.abs(mean - self._mean) / np.sqrt(self._variance)
        of_variance = np.abs(np.log(variance / self._variance))
        return float(np.mean(np.minimum(of_mean, 10) + np.minimum(of_variance, 10)))


def chosen_among(kind: str, found: Set[Ending], same_values: Set[str]) -> Ending:
    """Return what an operation gives that only chooses among, or means, what it gets.

    Parameters
    ----------
    kind
        Its name.
    same_values
        The names of those that give the values that they get.
    """
    if kind in same_values and len(found) == 1:
        return next(iter(found))
    kinds = {one.activation for one in found}
    if not kinds <= PROBABILITIES:
        return Ending(kind.lower(), kind.lower())
    words = f"{kind.lower()} of {' and '.join(sorted(f'{one.words}s' for one in found))}"
    is_sum_kept = kind in {"Average", "Mean", "ReduceMean"} and kinds == {"softmax"}
    return Ending("softmax" if is_sum_kept else "sigmoid", words)


LEVELS: Final = (0.0, 0.5, 1.0, 255.0)


def measured(run: Run, layers: tuple[str, ...]) -> Front | None:
    """Return what is done to the input, from images of one value each; None for no factor.

    Parameters
    ----------
    run
        Maps values (n,) to what images of them become, (n, ..., channels).
    """
    levels = np.array(LEVELS, np.float32)
    found = run(levels)
    flat = np.median(found.reshape(len(levels), -1, found.shape[-1]), axis=1)
    offset, factor = flat[0], flat[2] - flat[0]
    straight = levels[:, None] * factor + offset
    if not np.isfinite(flat).all() or not np.allclose(flat, straight, rtol=1e-3, atol=1e-4):
        return None
    return Front(
        tuple(round(float(f), 7) for f in factor), tuple(round(float(o), 7) for o in offset), layers
    )
