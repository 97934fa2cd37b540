"""A new bundle of a model with several inputs: which windows of a slice each of them is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limen.errors import ConfigError
from worker.serving.facts import Facts

__all__ = ["Arranged", "Windows", "arranged"]

Windows = tuple[tuple[float, float], ...]
"""Centre and width in HU of each channel."""


@dataclass(frozen=True, slots=True)
class Arranged:
    """A model of several inputs, seen as one that takes a single tensor.

    Attributes
    ----------
    windows
        Of that tensor: those of the inputs, in the order of the model.
    tensors
        Which of its channels each input is given; empty for a model with one input.
    """

    facts: Facts
    windows: Windows
    tensors: Mapping[str, tuple[int, ...]]


def arranged(
    facts: Facts, said: Mapping[str, Windows], windows: Windows, slices: int, source: Path
) -> Arranged:
    """Return a model with its inputs as channels of one tensor.

    An input takes its windows of every slice, or, where it has no more channels than windows,
    of the slice in the middle.

    Parameters
    ----------
    said
        The windows of each input.
    windows
        Those that were said of no input.
    slices
        How many slices a tensor is of.

    Raises
    ------
    ConfigError
        The windows are not those of the inputs.
    """
    if not facts.inputs:
        if said:
            raise ConfigError(
                f"--input {next(iter(said))}: {source} has one input; say its channels with "
                "--windows"
            )
        return Arranged(facts, windows, {})
    _refuse_others(facts, said, windows, source)
    every = tuple(window for name in facts.inputs for window in said[name])
    tensors: dict[str, tuple[int, ...]] = {}
    first = 0
    for name, taken in facts.inputs.items():
        count = len(said[name])
        if taken not in {count, count * slices}:
            of = f" of {slices} slices, or {count} of the one in the middle" if slices > 1 else ""
            raise ConfigError(
                f"--input {name} says {count} windows, and {source} takes {taken} channels there; "
                f"give one CENTRE/WIDTH for each channel{of}"
            )
        of_slices = range(slices) if taken == count * slices else (slices // 2,)
        tensors[name] = tuple(
            one * len(every) + first + window for one in of_slices for window in range(count)
        )
        first += count
    order = [channel for those in tensors.values() for channel in those]
    run = facts.predict

    def predict(packed: NDArray[np.float32]) -> NDArray[np.float32]:
        return run(packed[..., order])

    shape = (*facts.input_shape[:-1], len(every) * slices)
    return Arranged(replace(facts, input_shape=shape, predict=predict), every, tensors)


def _refuse_others(
    facts: Facts, said: Mapping[str, Windows], windows: Windows, source: Path
) -> None:
    each = ", ".join(
        f"{name} ({count} channel{'' if count == 1 else 's'})"
        for name, count in facts.inputs.items()
    )
    example = " ".join(f"--input {name}=40/80" for name in facts.inputs)
    if windows:
        raise ConfigError(
            f"--windows: {source} has several inputs: {each}; say the windows of each, in HU, as "
            f"{example}"
        )
    if set(said) != set(facts.inputs):
        raise ConfigError(
            f"{source} has the inputs {each}, all made from the same slice; say for each of them "
            f"one CENTRE/WIDTH in HU for each of its channels, such as {example} (said: "
            f"{', '.join(said) or 'none'})"
        )
