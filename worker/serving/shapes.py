"""Whether what a model takes and gives is what its bundle describes."""

from __future__ import annotations

from typing import Final

from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Layout

__all__ = ["MOST_CHANNELS", "input_fault", "layout_of", "output_fault"]

MOST_CHANNELS: Final = 64
"""An axis that is longer is one of rows or columns."""


def layout_of(lengths: tuple[int | None, int | None, int | None]) -> Layout | None:
    """Return where an input has its channels, by the lengths of its axes; None: they do not tell.

    Parameters
    ----------
    lengths
        Without the batch; None where any length will do.
    """
    first, middle, last = (n or MOST_CHANNELS + 1 for n in lengths)
    if first <= MOST_CHANNELS and first < min(middle, last):
        return "nchw"
    if last <= MOST_CHANNELS and last < min(first, middle):
        return "nhwc"
    return None


def input_fault(taken: tuple[int | None, ...], bundle: Bundle) -> str:
    """Return what is wrong with (rows, columns, channels), or nothing."""
    if len(taken) != 3:
        return (
            f"takes input of {_shown(taken)}, but input.size and input.windows of bundle.toml "
            f"describe one tensor of {_shown(bundle.input_shape)}: rows, columns, channels"
        )
    if taken[2] not in {None, bundle.input_shape[2]}:
        return f"takes {taken[2]} channels, but {_channels(bundle)}"
    if any(t not in {None, s} for t, s in zip(taken, bundle.size, strict=False)):
        return (
            f"takes images of {taken[0]} x {taken[1]}, but input.size of bundle.toml is "
            f"{list(bundle.size)}; expected [{taken[0]}, {taken[1]}]"
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
        f"(2 x input.neighbours + 1) = {bundle.input_shape[2]}; change input.windows or "
        "input.neighbours"
    )


def output_fault(given: tuple[int | None, ...], bundle: Bundle) -> str:
    """Return what is wrong with (outputs,), or nothing."""
    if given == (bundle.outputs,):
        return ""
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
    if not shape:
        return "several tensors"
    return f"shape ({', '.join('any' if n is None else str(n) for n in shape)})"
