"""Whether what a model takes and gives is what its bundle describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.result import Task
from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Layout
from worker.serving.named_inputs import Shape, listed

__all__ = [
    "MOST_CHANNELS",
    "as_given",
    "as_taken",
    "axes_of",
    "given_by",
    "input_fault",
    "layout_of",
    "map_size",
    "named_outputs",
    "output_fault",
    "outputs_fault",
]

Array = NDArray[np.float32]

MOST_CHANNELS: Final = 64
"""An axis that is longer is one of rows or columns."""


def layout_of(lengths: Sequence[int | None]) -> Layout | None:
    """Return where an input has its channels, by the lengths of its axes; None: they do not tell.

    Parameters
    ----------
    lengths
        Without the batch; None where any length will do.
    """
    first, *others = (n or MOST_CHANNELS + 1 for n in lengths)
    middle, last = others[0], others[-1]
    if first <= MOST_CHANNELS and first < min(middle, last):
        return "nchw"
    if last <= MOST_CHANNELS and last < min(first, middle):
        return "nhwc"
    return None


def axes_of(lengths: Sequence[int | None], layout: str) -> Shape:
    """Return rows, columns and channels of an input, of a volume its depth before them.

    Parameters
    ----------
    lengths
        As for ``layout_of``.

    Returns
    -------
    Shape
        Of an input of another rank, its lengths as they are.
    """
    if len(lengths) not in {3, 4}:
        return tuple(lengths)
    first, *others = lengths
    return (*others, first) if layout == "nchw" else (first, *others)


def given_by(lengths: Sequence[int | None], layout: str) -> tuple[int | None, ...]:
    """Return how many outputs there are, or rows, columns and outputs where each pixel has some.

    Axes of one element after the outputs do not count.
    """
    found = list(lengths) or [1]
    of_pixels = found[1:] if layout == "nchw" else found[:-1]
    if len(found) == 3 and all(n is None or n > 1 for n in of_pixels):
        return (*found[1:], found[0]) if layout == "nchw" else tuple(found)
    while len(found) > 1 and found[-1] == 1:
        found.pop()
    return tuple(found)


def as_taken(tensors: Array, layout: str) -> Array:
    """Return (n, ..., channels) float32 as a model of a layout takes it."""
    turned = np.moveaxis(tensors, -1, 1) if layout == "nchw" else tensors
    return np.ascontiguousarray(turned, np.float32)


def as_given(raw: Array, layout: str, *, of_pixels: bool) -> Array:
    """Return the answers of a model: (n, outputs), or (n, rows, columns, outputs)."""
    if not of_pixels:
        return raw.reshape(len(raw), -1)
    return np.moveaxis(raw, 1, -1) if layout == "nchw" else raw


def input_fault(taken: Mapping[str, Shape], bundle: Bundle) -> str:
    """Return what is wrong with what a model takes, or nothing.

    Parameters
    ----------
    taken
        By the name of the input: (rows, columns, channels), a depth before them.
    """
    if not bundle.tensors and len(taken) == 1:
        (shape,) = taken.values()
        return _one_fault(shape, bundle)
    if set(taken) != set(bundle.tensors):
        said = ", ".join(bundle.tensors) or "none"
        return (
            f"has the inputs {', '.join(taken) or 'that nobody named'}, but input.tensors of "
            f"bundle.toml names {said}; say there which channels each is given, such as "
            "tensors = { brain = [0], bone = [1] }"
        )
    for name, shape in taken.items():
        wanted = len(bundle.tensors[name])
        if shape and shape[-1] not in {None, wanted}:
            return (
                f"takes {shape[-1]} channels as {name!r}, but input.tensors of bundle.toml gives "
                f"it {wanted}; change that, or input.windows"
            )
        fault = _one_fault((*shape[:-1], None) if shape else (), bundle)
        if fault:
            return f"{fault} (its input {name!r})"
    return ""


def _one_fault(taken: Shape, bundle: Bundle) -> str:
    if len(taken) != len(bundle.input_shape):
        depth = "depth, " if bundle.depth else ""
        task = f' (task = "{bundle.task}")' if bundle.task is not Task.SLICES else ""
        return (
            f"takes input of {_shown(taken)}, but input.size and input.windows of bundle.toml "
            f"describe one tensor of {_shown(bundle.input_shape)}: {depth}rows, columns, "
            f"channels{task}"
        )
    *depths, rows, columns, channels = taken
    if channels not in {None, bundle.input_shape[-1]}:
        return f"takes {channels} channels, but {_channels(bundle)}"
    if any(t not in {None, s} for t, s in zip((rows, columns), bundle.size, strict=True)):
        return (
            f"takes images of {rows} x {columns}, but input.size of bundle.toml is "
            f"{list(bundle.size)}; expected [{rows}, {columns}]"
        )
    if depths and depths[0] not in {None, bundle.depth}:
        return (
            f"takes volumes of {depths[0]} slices, but input.depth of bundle.toml is "
            f"{bundle.depth}; expected {depths[0]}"
        )
    return ""


def _channels(bundle: Bundle) -> str:
    """Return how many channels bundle.toml describes, and what is expected there."""
    listed = len(bundle.windows)
    if not bundle.neighbours:
        return (
            f"input.windows of bundle.toml lists {listed}; one [centre, width] is expected for "
            "each channel"
        )
    return (
        f"bundle.toml describes {listed} windows x {bundle.slices} slices "
        f"(2 x input.neighbours + 1) = {bundle.input_shape[-1]}; change input.windows or "
        "input.neighbours"
    )


def named_outputs(given: Mapping[str, Shape]) -> str:
    """Return the outputs of a model and their shapes, for people."""
    return ", ".join(f"{name} {listed(shape)}" for name, shape in given.items()) or "none"


def map_size(given: Shape) -> tuple[int, int] | None:
    """Return rows and columns of a map with one value for each cell; None: it is no such map."""
    lengths = [one for one in given if one != 1]
    if len(lengths) != 2 or None in lengths:
        return None
    rows, columns = lengths
    return rows or 0, columns or 0


def outputs_fault(given: Mapping[str, Shape], bundle: Bundle) -> str:
    """Return what is wrong with the outputs of a model, or nothing.

    Parameters
    ----------
    given
        By the name of the output: (outputs,) or (rows, columns, outputs).
    """
    answers = {name: shape for name, shape in given.items() if not _is_map(name, bundle)}
    if bundle.map is not None and len(answers) == len(given):
        return (
            f"has the outputs {named_outputs(given)}, and map.output of bundle.toml is "
            f"{bundle.map.output!r}; say one of them there, or leave [map] out"
        )
    if len(answers) != 1:
        beside = " beside its map" if bundle.map is not None else ""
        return (
            f"has the outputs {named_outputs(given)}, and one is expected{beside}: save the model "
            "with the classifier's output alone, or, where another one is a map of where it "
            "looks, name that: [map] output, size"
        )
    if bundle.map is not None and map_size(given[bundle.map.output]) != bundle.map.size:
        return (
            f"gives {bundle.map.output!r} of shape {listed(given[bundle.map.output])}, but "
            f"map.size of bundle.toml is {list(bundle.map.size)}: one value for each cell is "
            "expected, of one finding"
        )
    (answer,) = answers.values()
    return output_fault(answer, bundle)


def _is_map(name: str, bundle: Bundle) -> bool:
    return bundle.map is not None and name == bundle.map.output


def output_fault(given: tuple[int | None, ...], bundle: Bundle) -> str:
    """Return what is wrong with (outputs,), or nothing."""
    if len(given) == len(bundle.output_shape) and all(
        one in {None, wanted} for one, wanted in zip(given, bundle.output_shape, strict=True)
    ):
        return ""
    if bundle.task is Task.SEGMENTATION:
        return (
            f"gives output of {_shown(given)}, but a segmentation gives "
            f"{_shown(bundle.output_shape)}: rows and columns of input.size, and a value for each "
            f"[[label]] ({', '.join(bundle.label_names)}) of each pixel; change the labels, or "
            "bring the output to the size of the input inside the model"
        )
    if len(given) == 1:
        members = len(bundle.member_outputs)
        beside = f" and {members} members.outputs" if members else ""
        return (
            f"gives {given[0]} outputs, but bundle.toml has {len(bundle.labels)} [[label]] "
            f"({', '.join(bundle.label_names)}){beside}; one is expected for each output, in order"
        )
    return (
        f"gives output of {_shown(given)}, but one vector is expected, with a value for each "
        f"[[label]] of bundle.toml ({', '.join(bundle.label_names)})"
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"shape {listed(shape)}" if shape else "several tensors"
