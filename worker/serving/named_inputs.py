"""The inputs of a model that has several, and which channels of Limen's one tensor go to each.

A slice is prepared once, as one tensor: all inputs are made of the same slice, have its rows and
columns, and differ by their channels. Everything before the model (batches, golden tensors, LIME)
knows that tensor only; it is parted at the last step, beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limen.errors import BundleError

__all__ = ["Shape", "in_a_row", "joined", "listed", "parted"]

Array = NDArray[np.float32]
Shape = tuple[int | None, ...]
"""(rows, columns, channels) of an input, of a volume its depth before them; None: of any length."""


def parted(tensors: Array, channels: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Return what each input is given of (n, ..., channels) float32."""
    return {name: tensors[..., list(those)] for name, those in channels.items()}


def in_a_row(counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return channels for inputs that have so many, one input behind the other."""
    found, first = {}, 0
    for name, count in counts.items():
        found[name] = tuple(range(first, first + count))
        first += count
    return found


def joined(taken: Mapping[str, Shape], source: Path) -> tuple[Shape, dict[str, int]]:
    """Return the shape of one tensor for several inputs, one behind the other, and their channels.

    Raises
    ------
    BundleError
        One of them is no image, or they cannot be made of the same part of a slice.
    """
    for name, shape in taken.items():
        if len(shape) not in {3, 4}:
            raise BundleError(
                f"{source}: its input {name!r} takes {listed(shape)}, which is no image; Limen "
                "gives a model what a slice shows, and nothing else (no age, no sex, no spacing). "
                "Save it with that input left out, or with a constant in its place"
            )
        if shape[-1] is None:
            raise BundleError(
                f"{source}: its input {name!r} takes any number of channels; save it with a fixed "
                "one"
            )
    ranks = {len(shape): name for name, shape in taken.items()}
    if len(ranks) > 1:
        raise BundleError(
            f"{source} takes a volume as {ranks[4]!r} and a slice as {ranks[3]!r}; Limen asks a "
            "model about all slices of a study at once, or about one after the other. Save it "
            "with the volume alone, and take the slice out of it inside the model; or with the "
            "slice alone"
        )
    places = {name: shape[:-1] for name, shape in taken.items()}
    if any(
        len({one for one in lengths if one is not None}) > 1
        for lengths in zip(*places.values(), strict=True)
    ):
        each = ", ".join(f"{name} {listed(shape)}" for name, shape in taken.items())
        raise BundleError(
            f"{source} has inputs of several sizes ({each}); Limen cuts and resizes a slice once, "
            "for all inputs, so that what LIME hides of one is hidden of all. Give them one size, "
            "and bring it to that of each inside the model (a Resizing layer, or Resize)"
        )
    place = tuple(
        next((one for one in lengths if one is not None), None)
        for lengths in zip(*places.values(), strict=True)
    )
    counts = {name: shape[-1] or 0 for name, shape in taken.items()}
    return (*place, sum(counts.values())), counts


def listed(shape: Shape) -> str:
    """Return a shape for people."""
    return f"({', '.join('any' if one is None else str(one) for one in shape)})"
