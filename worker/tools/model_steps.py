"""Every step from a stored slice to a probability, as Limen does it and as others do.

When a model says another number here than where it was made, one step differs. ``Recipe`` names
each step, so that another way of one of them can be tried while the rest stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Activation, Crop, Output
from worker.serving import numbers
from worker.study.crop import Box, field_of
from worker.study.tensors import Upright, stacked, upright
from worker.tools.model_examples import Example, Shown, Stored

__all__ = [
    "SCALES",
    "Answers",
    "Other",
    "Recipe",
    "others",
    "probabilities",
    "scaled",
]

Array = NDArray[np.float32]

SCALES: Final = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and deviations of the colours, of 0..1: what torchvision does."""

_CAFFE: Final = (103.939, 116.779, 123.68)
_WINDOWS: Final = (
    *((40.0, 80.0), (80.0, 200.0), (75.0, 215.0), (50.0, 130.0), (40.0, 380.0), (40.0, 400.0)),
    *((35.0, 100.0), (600.0, 2800.0), (480.0, 2500.0), (0.0, 2000.0), (-600.0, 1500.0)),
)
_TRIPLES: Final = (
    ((40.0, 80.0), (80.0, 200.0), (40.0, 380.0)),
    ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0)),
    ((40.0, 80.0), (80.0, 200.0), (600.0, 2000.0)),
    ((40.0, 80.0), (75.0, 215.0), (40.0, 380.0)),
    ((40.0, 80.0), (50.0, 130.0), (600.0, 2800.0)),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a slice becomes the input of the model, and its output a probability.

    Attributes
    ----------
    values
        ``hu``; ``stored``: without slope and intercept; ``from 0``: air is 0, water 1000.
    turn
        ``patient``: turned to patient orientation, square pixels; ``stored``: as in the file;
        ``upside down``, ``mirrored``: patient orientation, then that.
    stretched
        The slice is brought to size without keeping its aspect.
    order
        Where each channel comes from.
    resize
        ``limen``; or another filter by name.
    mean, deviation
        What is subtracted and divided by after the scale.
    z_score
        The mean and the deviation of the slice are, after that.
    """

    values: str
    turn: str
    crop: Crop
    spacing_mm: float | None
    stretched: bool
    windows: tuple[tuple[float, float], ...]
    order: tuple[int, ...]
    resize: str
    rounded: bool
    scale: tuple[float, float]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    z_score: bool
    activation: Activation
    inverted: bool
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Recipe:
        """Return what the manifest says."""
        return cls(
            values="hu",
            turn="patient",
            crop=bundle.crop,
            spacing_mm=bundle.spacing_mm,
            stretched=False,
            windows=bundle.windows,
            order=tuple(range(bundle.input_shape[2])),
            resize="limen",
            rounded=False,
            scale=bundle.scale,
            mean=bundle.mean,
            deviation=bundle.deviation,
            z_score=False,
            activation=bundle.output.activation,
            inverted=bundle.output.inverted,
            outputs=tuple(range(len(bundle.labels))),
        )


@dataclass(frozen=True, slots=True)
class Other:
    """Another way of one step.

    Attributes
    ----------
    step
        Its name: ``HU``, ``orientation``, ``part``, ``windows``, ``channels``, ``resize``,
        ``rounding``, ``scale``, ``output``, ``labels``; the order of work.
    words
        What is done in this way.
    remedy
        The options of ``limen model new`` that say so; empty where a manifest cannot.
    change
        The fields of the recipe that differ.
    """

    step: str
    words: str
    remedy: str
    change: dict[str, Any]

    def on(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this step done in this way."""
        return replace(recipe, **self.change)


def others(bundle: Bundle, *, of_tensors: bool = False) -> tuple[Other, ...]:
    """Return the ways that differ from what the manifest says, in the order of work.

    Parameters
    ----------
    of_tensors
        Only those that can be tried without the instance: what is done to a tensor.
    """
    now = Recipe.of(bundle)
    found = [] if of_tensors else [*_pixels(), *_parts(bundle), *_of_windows(bundle)]
    found += _of_channels(bundle)
    found += [] if of_tensors else _of_resize()
    found += [*_of_scale(bundle), *_of_output(bundle)]
    return tuple(one for one in found if one.on(now) != now)


def _pixels() -> Iterator[Other]:
    yield Other("HU", "stored values, without RescaleSlope and RescaleIntercept", "",
                {"values": "stored"})  # fmt: skip
    yield Other("HU", "values from 0 (HU + 1000)", "", {"values": "from 0"})
    words = {
        "stored": "as the file has it: not turned, pixels not made square",
        "upside down": "the front of the patient at the bottom",
        "mirrored": "the right of the patient at the right",
    }
    for turn, text in words.items():
        yield Other("orientation", text, "", {"turn": turn})


def _parts(bundle: Bundle) -> Iterator[Other]:
    if bundle.accepts.modality == ("CT",):
        yield Other("part", "only the head", "--crop head", {"crop": "head"})
        scaled = {"crop": "head", "spacing_mm": 1.0}
        yield Other("part", "the head, 1 mm a pixel", "--crop head --spacing-mm 1", scaled)
    whole = {"crop": "none", "spacing_mm": None}
    yield Other("part", "all of the slice, as large as it comes", "--crop none", whole)
    if bundle.size[0] != bundle.size[1] or bundle.crop == "none":
        yield Other("part", "the slice stretched to size, its aspect not kept", "",
                    {"stretched": True})  # fmt: skip


def _of_windows(bundle: Bundle) -> Iterator[Other]:
    count = len(bundle.windows)
    sets = [(window,) * count for window in _WINDOWS] if count in {1, 3} else []
    for windows in [*sets, *(_TRIPLES if count == 3 else ())]:
        said = ",".join(f"{centre:g}/{width:g}" for centre, width in windows)
        equals = "=" if said.startswith("-") else " "
        yield Other("windows", said, f"--windows{equals}{said}", {"windows": windows})


def _of_channels(bundle: Bundle) -> Iterator[Other]:
    channels, count = bundle.input_shape[2], len(bundle.windows)
    if channels != count or count not in {2, 3}:
        if bundle.neighbours:
            backwards = [
                count * part + n for part in reversed(range(bundle.slices)) for n in range(count)
            ]
            yield Other("channels", "neighbours from the head to the feet", "",
                        {"order": tuple(backwards)})  # fmt: skip
        return
    for order in permutations(range(count)):
        said = ",".join(f"{bundle.windows[n][0]:g}/{bundle.windows[n][1]:g}" for n in order)
        equals = "=" if said.startswith("-") else " "
        yield Other("channels", f"in the order {said}", f"--windows{equals}{said}",
                    {"order": order})  # fmt: skip


def _of_resize() -> Iterator[Other]:
    words = {
        "no antialiasing": "bilinear without antialiasing (cv2.INTER_LINEAR, tf.image.resize)",
        "nearest": "the nearest pixel",
        "box": "the mean of the pixels (cv2.INTER_AREA)",
        "bicubic": "bicubic",
        "before": "before the windows are applied",
    }
    for name, text in words.items():
        yield Other("resize", text, "", {"resize": name})


def _of_scale(bundle: Bundle) -> Iterator[Other]:
    yield Other("rounding", "8 bit: channels rounded to 0..255", "", {"rounded": True})
    plain = {"mean": (), "deviation": (), "z_score": False}
    for low, high in SCALES:
        yield Other("scale", f"{low:g} to {high:g}", f"--scale {low:g} {high:g}",
                    {**plain, "scale": (low, high)})  # fmt: skip
    yield Other("scale", "z-score of each slice", "",
                {**plain, "scale": (0.0, 1.0), "z_score": True})  # fmt: skip
    if bundle.input_shape[2] == 3:
        mean, deviation = IMAGENET
        of_torch = {"scale": (0.0, 1.0), "mean": mean, "deviation": deviation}
        yield Other("scale", "0 to 1, then mean and deviation of ImageNet (torchvision)",
                    f"--scale 0 1 --mean {_listed(mean)} --deviation {_listed(deviation)}",
                    plain | of_torch)  # fmt: skip
        backwards = tuple(reversed(bundle.windows))
        said = ",".join(f"{centre:g}/{width:g}" for centre, width in backwards)
        of_caffe = {"scale": (0.0, 255.0), "mean": _CAFFE, "order": (2, 1, 0)}
        yield Other("scale", "0 to 255 as BGR, means of ImageNet subtracted (VGG, ResNet50)",
                    f"--windows={said} --scale 0 255 --mean {_listed(_CAFFE)}",
                    plain | of_caffe)  # fmt: skip


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _of_output(bundle: Bundle) -> Iterator[Other]:
    labels = len(bundle.labels)
    for activation in ("none", "sigmoid", *(("softmax",) if labels > 1 else ())):
        yield Other("output", f"{activation} follows the model's output",
                    f"--activation {activation}", {"activation": activation})  # fmt: skip
    if labels == 1:
        yield Other("output", "1 minus the model's answer: low means positive", "--inverted",
                    {"inverted": not bundle.output.inverted})  # fmt: skip
    if 2 <= labels <= 6:
        turned = tuple(reversed(range(labels)))
        yield Other("labels", "outputs in the opposite order",
                    " ".join(f"--label {bundle.label_names[n]}" for n in turned),
                    {"outputs": turned})  # fmt: skip


# -- doing it --------------------------------------------------------------------------------------


class Answers:
    """The input of the model for each example by any recipe, made once for each way of pixels."""

    def __init__(self, bundle: Bundle, examples: Sequence[Example | Stored]) -> None:
        self.bundle = bundle
        self.examples = examples
        self.count = sum(_slices(example) for example in examples)

    def inputs(self, recipe: Recipe) -> list[Array]:
        """Return the input of the model for every slice: (rows, columns, channels) float32."""
        return [scaled(tensor, recipe) for tensor in self.tensors(recipe)]

    def tensors(self, recipe: Recipe) -> list[Array]:
        """Return every slice as a tensor of 0..1, before the scale."""
        found: list[Array] = []
        for example in self.examples:
            if isinstance(example, Stored):
                found.append(_finished(example.tensor, recipe))
            else:
                found += [_tensor_of(window, recipe, self.bundle) for window in example.windows]
        return found

    def highest(self, answers: Array) -> tuple[Array, list[int]]:
        """Return the answer to each example, and which of all slices gave it.

        Parameters
        ----------
        answers
            (slices, labels) float32, 0..1, in the order of ``inputs``.
        """
        found, start = [], 0
        for example in self.examples:
            stop = start + _slices(example)
            part = answers[start:stop, self.bundle.decision_index]
            found.append(start + int(np.nanargmax(part)) if not np.isnan(part).all() else start)
            start = stop
        return answers[found], found


def _slices(example: Example | Stored) -> int:
    return 1 if isinstance(example, Stored) else len(example.windows)


def _tensor_of(window: Sequence[Shown], recipe: Recipe, bundle: Bundle) -> Array:
    """Return (rows, columns, channels) float32, 0..1, before the scale."""
    view = replace(bundle, crop=recipe.crop, spacing_mm=recipe.spacing_mm, windows=recipe.windows)
    slices = [_turned(one, recipe) for one in window]
    if recipe.resize == "limen" and not recipe.stretched:
        tensor = stacked(slices, view)
    else:
        tensor = _otherwise(slices, recipe, view)
    return _finished(tensor, recipe)


def _finished(tensor: Array, recipe: Recipe) -> Array:
    """Return a tensor of 0..1 with what is done to it whatever it was made from."""
    if recipe.rounded:
        tensor = np.asarray(np.round(tensor * 255) / 255, np.float32)
    return np.ascontiguousarray(tensor[..., list(recipe.order)], np.float32)


def _turned(one: Shown, recipe: Recipe) -> Upright:
    if recipe.values == "hu" and recipe.turn == "patient":
        return one.upright
    hu = _values(one, recipe.values)
    if recipe.turn == "stored":
        return Upright(hu, one.upright.pixel_mm, oriented=False)
    shown = upright(hu, one.header.frames[one.frame - 1])
    turned = {"upside down": shown.hu[::-1], "mirrored": shown.hu[:, ::-1]}
    return replace(shown, hu=np.ascontiguousarray(turned.get(recipe.turn, shown.hu)))


def _values(one: Shown, which: str) -> Array:
    slope, intercept = one.rescale
    if which == "stored":
        return np.asarray((one.hu - intercept) / slope, np.float32)
    return np.asarray(one.hu + 1000 if which == "from 0" else one.hu, np.float32)


def _otherwise(slices: Sequence[Upright], recipe: Recipe, view: Bundle) -> Array:
    """Do what ``worker.study.tensors.stacked`` does, with another resize or without the aspect."""
    middle = slices[len(slices) // 2]
    box = field_of(middle.hu, middle.pixel_mm, view)
    if recipe.stretched:
        box = Box(0, 0, *middle.hu.shape)
    channels = []
    for one in slices:
        part = box.cut(one.hu) if one.hu.shape == middle.hu.shape else one.hu
        if recipe.resize == "before":
            part = _resized(part, view.size, "limen")
        for centre, width in view.windows:
            channel = np.clip((part - (centre - width / 2)) / width, 0, 1).astype(np.float32)
            if recipe.resize != "before":
                channel = np.clip(_resized(channel, view.size, recipe.resize), 0, 1)
            channels.append(channel)
    return np.stack(channels, axis=-1)


_FILTERS: Final = {
    "limen": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
}


def _resized(channel: Array, size: tuple[int, int], name: str) -> Array:
    if name == "no antialiasing":
        rows, columns = (
            (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(size, channel.shape, strict=True)
        )
        grid = np.meshgrid(rows, columns, indexing="ij")
        found: Array = ndimage.map_coordinates(channel, grid, order=1, mode="nearest")
        return found
    image = Image.fromarray(np.ascontiguousarray(channel, np.float32))
    return np.asarray(image.resize((size[1], size[0]), _FILTERS[name]), np.float32)


def scaled(tensor: Array, recipe: Recipe) -> Array:
    """Return a tensor of 0..1 as the model wants it."""
    found = numbers.scaled(tensor, recipe)
    if recipe.z_score:
        found = (found - found.mean()) / np.float32(float(found.std()) or 1.0)
    return np.ascontiguousarray(found, np.float32)


def probabilities(raw: Array, recipe: Recipe, temperature: float = 1.0) -> Array:
    """Return (n, labels) float32: what the raw outputs of the labels (n, labels) mean."""
    output = Output(activation=recipe.activation, inverted=recipe.inverted)
    found = numbers.probabilities(raw, output, temperature)
    return found[:, list(recipe.outputs)]
