"""The parts of a slice that are hidden and shown, and what stands in for a hidden one.

Those of a volume are in ``worker.lime.supervoxels``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import NotAnalysable

__all__ = [
    "COMPACTNESS",
    "Superpixels",
    "brain_median",
    "clusters",
    "grown",
    "head_of",
    "numbered",
    "own_mean",
    "quickshift",
    "slic_in_head",
]

Tensor = NDArray[np.float32]
Segments = NDArray[np.int64]

HEAD_LEVEL: Final = 0.02
"""Least mean of the channels (0..1) inside the head; air is 0 in every window."""

BRAIN_RANGE: Final = (0.05, 0.95)
"""First channel of brain (0..1); beyond it lie air and bone, clipped by the window."""

COMPACTNESS: Final = 0.1
SIGMA_PX: Final = 0.5
FULL_SIDE_PX: Final = 160
"""From this side on, clusters are sought on every second pixel: a quarter of the time, and the
borders that matter (a bleed, the skull) are wider than a pixel of the model's input."""


@dataclass(frozen=True, slots=True, eq=False)
class Superpixels:
    """A slice cut into parts, or a volume into supervoxels.

    Attributes
    ----------
    segments
        (rows, columns) int64, of a volume (depth, rows, columns): the superpixel of each pixel,
        from 0 without a gap.
    count
        How many there are. A pixel of this number is background, which no mask touches.
    """

    segments: Segments
    count: int

    @property
    def area_px(self) -> Segments:
        """(count,) int64."""
        return np.bincount(self.segments.ravel(), minlength=self.count)[: self.count]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Of the shape of ``segments``, bool: everything but the background."""
        return self.segments < self.count


def slic_in_head(tensor: Tensor, wanted: int) -> Superpixels:
    """Return SLIC superpixels of the head (Achanta and others, 2012).

    Air is the background: hiding it would show the model a picture no scanner makes.

    Parameters
    ----------
    tensor
        (rows, columns, channels) float32, 0..1.
    wanted
        Wanted number; SLIC comes near it.

    Raises
    ------
    NotAnalysable
        The slice shows nothing but air.
    """
    head = head_of(tensor)
    if not head.any():
        raise NotAnalysable("the slice shows nothing but air, so there is nothing to explain")
    step = 2 if min(head.shape) >= FULL_SIDE_PX and head[::2, ::2].any() else 1
    coarse = clusters(_halved(tensor) if step == 2 else tensor, head[::step, ::step], wanted)
    found = coarse.repeat(step, axis=0).repeat(step, axis=1)[: head.shape[0], : head.shape[1]]
    return numbered(grown(found, head), head)


def _halved(tensor: Tensor) -> Tensor:
    """Return the mean of each 2 x 2 pixels; a last odd row or column stands for itself."""
    rows, columns = tensor.shape[0] % 2, tensor.shape[1] % 2
    even = np.pad(tensor, ((0, rows), (0, columns), (0, 0)), mode="edge")
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return np.asarray(total / 4, np.float32)


def clusters(
    tensor: Tensor,
    head: NDArray[np.bool_],
    wanted: int,
    spacing: tuple[float, ...] | None = None,
) -> Segments:
    """Return SLIC's clusters from 1; 0 is the background, and what SLIC left out.

    Parameters
    ----------
    tensor
        (rows, columns, channels) float32, 0..1, or (depth, rows, columns, channels).
    head
        Of the same shape without the channels.
    spacing
        How long a pixel is in each direction; None: as long in all.
    """
    from skimage.segmentation import slic  # noqa: PLC0415 - a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is allowed
        found: Segments = slic(
            tensor,
            n_segments=wanted,
            compactness=COMPACTNESS,
            sigma=SIGMA_PX,
            spacing=spacing,
            mask=head,
            start_label=1,
            channel_axis=-1,
            convert2lab=False,
        )
    return found


def grown(found: Segments, head: NDArray[np.bool_]) -> Segments:
    """Give each pixel of the head that has no superpixel that of its nearest neighbour."""
    from scipy import ndimage  # noqa: PLC0415

    known = (found > 0) & head
    if not known.any():  # smaller than SLIC's seeds
        return np.ones_like(found)
    if known[head].all():
        return found
    _, place = ndimage.distance_transform_edt(~known, return_indices=True)
    nearest: Segments = found[tuple(place)]
    return nearest


def numbered(found: Segments, head: NDArray[np.bool_]) -> Superpixels:
    """Close the gaps in the numbers; the background comes last."""
    _, numbers = np.unique(found[head], return_inverse=True)
    count = int(numbers.max()) + 1
    segments = np.full(head.shape, count, np.int64)
    segments[head] = numbers
    return Superpixels(segments, count)


def quickshift(tensor: Tensor) -> Superpixels:
    """Return the superpixels that lime 0.2.0.1 makes by default: no pixel is background.

    Quick shift (Vedaldi and Soatto, 2008) of the three channels taken for sRGB. lime hands its
    seed on as ``random_seed``, which scikit-image no longer knows, so that lime's superpixels
    do not depend on its seed; neither do these.

    Parameters
    ----------
    tensor
        (rows, columns, 3) float32, 0..1.

    Raises
    ------
    NotAnalysable
        The tensor does not have three channels.
    """
    from skimage.segmentation import quickshift as shift  # noqa: PLC0415 - a second to import

    if tensor.shape[-1] != 3:
        raise NotAnalysable(
            f"the reference method takes three channels, not {tensor.shape[-1]}; "
            'set explain.mode = "settled"'
        )
    found = shift(tensor.astype(np.float64), kernel_size=4, max_dist=200, ratio=0.2)
    return Superpixels(found.astype(np.int64), int(found.max()) + 1)


def head_of(tensor: Tensor) -> NDArray[np.bool_]:
    """Return which pixels are of the largest thing that is not air, its cavities filled.

    Parameters
    ----------
    tensor
        (rows, columns, channels) float32, 0..1, or (depth, rows, columns, channels).

    Returns
    -------
    NDArray[np.bool_]
        Of the same shape without the channels. The cavities of a volume are those of its slices:
        where it ends none of its own is closed.
    """
    from scipy import ndimage  # noqa: PLC0415

    parts, count = ndimage.label(tensor.mean(axis=-1) > HEAD_LEVEL)
    if not count:
        return np.zeros(tensor.shape[:-1], bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    head: NDArray[np.bool_] = parts == sizes.argmax()
    if head.ndim == 2:
        return np.asarray(ndimage.binary_fill_holes(head), bool)
    return np.stack([ndimage.binary_fill_holes(one) for one in head])


def brain_median(tensor: Tensor, superpixels: Superpixels, middle: Tensor | None = None) -> Tensor:
    """Return the slice, or volume, with the median of the brain, by channel, in all of the head.

    A hidden superpixel then looks as if there were no lesion, and a bright bleed and a dark
    infarct vanish alike.

    Parameters
    ----------
    middle
        The channels of ``tensor`` that show where the brain is: all of them by default.

    Returns
    -------
    Tensor
        Of the shape of ``tensor``, float32, 0..1; the background stands in for itself.
    """
    head = superpixels.inside
    low, high = BRAIN_RANGE
    first = (tensor if middle is None else middle)[..., 0]
    brain = head & (first > low) & (first < high)
    filled = tensor.copy()
    filled[head] = np.median(tensor[brain if brain.any() else head], axis=0)
    return filled


def own_mean(tensor: Tensor, superpixels: Superpixels) -> Tensor:
    """Return the slice with the mean of its superpixel in each pixel: what lime fills with.

    A bright lesion stays bright, so that hiding it changes little.

    Returns
    -------
    Tensor
        (rows, columns, channels) float32, 0..1.
    """
    numbers = superpixels.segments.ravel()
    area = np.bincount(numbers)
    filled = np.empty_like(tensor)
    for channel in range(tensor.shape[-1]):
        total = np.bincount(numbers, tensor[..., channel].ravel().astype(np.float64))
        filled[..., channel] = (total / np.maximum(area, 1))[superpixels.segments]
    return filled
