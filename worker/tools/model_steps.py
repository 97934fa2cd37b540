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

from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Activation, Crop, Output
from worker.bundles.preparation import Preparation, Resize
from worker.serving import numbers
from worker.study import neighbours
from worker.study.crop import field_of
from worker.study.normalise import normalised
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
    preparation
        How that becomes channels.
    before
        The slice is brought to size before the windows are applied.
    order
        Where each channel comes from.
    mean, deviation
        What is subtracted and divided by after the scale.
    """

    values: str
    turn: str
    crop: Crop
    spacing_mm: float | None
    preparation: Preparation
    before: bool
    windows: tuple[tuple[float, float], ...]
    order: tuple[int, ...]
    rounded: bool
    scale: tuple[float, float]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
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
            preparation=bundle.preparation,
            before=False,
            windows=bundle.windows,
            order=tuple(range(bundle.input_shape[-1])),
            rounded=False,
            scale=bundle.scale,
            mean=bundle.mean,
            deviation=bundle.deviation,
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
        Its name: ``HU``, ``orientation``, ``part``, ``padding``, ``windows``, ``channels``,
        ``neighbours``, ``resize``, ``normalisation``, ``rounding``, ``scale``, ``output``,
        ``labels``; the order of work.
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
    found += [] if of_tensors else [*_of_neighbours(bundle), *_of_resize(bundle)]
    found += [*_of_normalisation(bundle, of_tensors=of_tensors)]
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
    how = bundle.preparation.model_copy(update={"share": 1.0, "fit": "pad"})

    def part(words: str, crop: Crop, mm: float | None = None, **said: Any) -> Other:
        remedy = [f"--crop {crop}", *(f"--{key} {value}" for key, value in said.items())]
        if mm is not None:
            remedy.append(f"--spacing-mm {mm:g}")
        preparation = how.model_copy(update=said)
        change = {"crop": crop, "spacing_mm": mm, "preparation": preparation}
        return Other("part", words, " ".join(remedy), change)

    if bundle.accepts.modality == ("CT",):
        yield part("only the head", "head")
        yield part("the head, 1 mm a pixel", "head", 1.0)
    yield part("all of the slice, as large as it comes", "none")
    yield part("the slice stretched to size, its aspect not kept", "none", fit="stretch")
    yield part("the middle of the slice, as large as fits", "centre")
    yield part("the middle of the slice, 7/8 of it (224 of 256)", "centre", share=0.875)
    for padding, words in (("edge", "its edge goes on outside of it"), (0.0, "0 HU outside of it")):
        other = bundle.preparation.model_copy(update={"padding": padding})
        yield Other("padding", f"the slice padded: {words}", f"--padding {padding}",
                    {"preparation": other})  # fmt: skip


def _of_windows(bundle: Bundle) -> Iterator[Other]:
    count = len(bundle.windows)
    sets = [(window,) * count for window in _WINDOWS] if count in {1, 3} else []
    for windows in [*sets, *(_TRIPLES if count == 3 else ())]:
        said = ",".join(f"{centre:g}/{width:g}" for centre, width in windows)
        equals = "=" if said.startswith("-") else " "
        yield Other("windows", said, f"--windows{equals}{said}", {"windows": windows})


def _of_channels(bundle: Bundle) -> Iterator[Other]:
    channels, count = bundle.input_shape[-1], len(bundle.windows)
    if channels != count or count not in {2, 3}:
        return
    for order in permutations(range(count)):
        said = ",".join(f"{bundle.windows[n][0]:g}/{bundle.windows[n][1]:g}" for n in order)
        equals = "=" if said.startswith("-") else " "
        yield Other("channels", f"in the order {said}", f"--windows{equals}{said}",
                    {"order": order})  # fmt: skip


def _of_neighbours(bundle: Bundle) -> Iterator[Other]:
    if not bundle.neighbours:
        return
    words = {
        "edges": {
            "mirror": "mirrored at the ends of an acquisition",
            "repeat": "the last slice repeated at the ends of an acquisition",
        },
        "direction": {"up": "from the feet to the head", "down": "from the head to the feet"},
    }
    for key, values in words.items():
        for value, text in values.items():
            other = bundle.preparation.model_copy(update={key: value})
            yield Other("neighbours", text, f"--{key} {value}", {"preparation": other})


def _of_resize(bundle: Bundle) -> Iterator[Other]:
    words: dict[Resize, str] = {
        "bilinear-antialias": "bilinear with antialiasing (Pillow, torchvision)",
        "bilinear": "bilinear without antialiasing (cv2.INTER_LINEAR, tf.image.resize)",
        "nearest": "the nearest pixel",
        "nearest-corner": "the nearest pixel, by its corner (cv2.INTER_NEAREST)",
        "area": "the mean of the pixels (cv2.INTER_AREA)",
        "bicubic-antialias": "bicubic with antialiasing (Pillow, torchvision)",
        "bicubic": "bicubic without antialiasing (cv2.INTER_CUBIC)",
        "lanczos": "Lanczos (Pillow)",
    }
    for name, text in words.items():
        other = bundle.preparation.model_copy(update={"resize": name})
        yield Other("resize", text, f"--resize {name}", {"preparation": other})
    yield Other("resize", "before the windows are applied", "", {"before": True})


def _of_normalisation(bundle: Bundle, *, of_tensors: bool) -> Iterator[Other]:
    if of_tensors and bundle.preparation.normalise != "none":
        return  # what the slice was before is not kept
    none = {"normalise": "none", "over": "slice", "statistics": "channel"}
    none |= {k: Preparation.model_fields[k].default for k in ("percentiles", "deviations")}
    several = bundle.input_shape[-1] > 1
    for over in ("slice",) if of_tensors or bundle.accepts.modality != ("CT",) else _OVER:
        for statistics in _STATISTICS if several else _STATISTICS[:1]:
            for said in _NORMALISED:
                update = none | said | {"over": over, "statistics": statistics}
                other = bundle.preparation.model_copy(update=update)
                told = " ".join(f"--{key} {_said(value)}" for key, value in other.edited.items()
                                if key in update)  # fmt: skip
                yield Other("normalisation", _normalised_words(other, several=several), told, {
                    **{"preparation": other, "scale": other.usual_scale},
                    **{"mean": (), "deviation": ()},
                })  # fmt: skip
    if bundle.preparation.normalise != "none":
        other = bundle.preparation.model_copy(update=none)
        yield Other("normalisation", "none", "--normalise none",
                    {"preparation": other, "scale": other.usual_scale})  # fmt: skip


_OVER: Final = ("slice", "head")
_STATISTICS: Final = ("channel", "all")
_NORMALISED: Final[tuple[dict[str, Any], ...]] = (
    {"normalise": "z-score"},
    {"normalise": "percentile"},
    {"normalise": "percentile", "percentiles": (0.5, 99.5)},
    {"normalise": "percentile", "percentiles": (0.0, 100.0)},
)


def _said(value: Any) -> str:
    return " ".join(f"{n:g}" for n in value) if isinstance(value, list | tuple) else str(value)


def _normalised_words(how: Preparation, *, several: bool) -> str:
    what = "z-score"
    if how.normalise == "percentile":
        low, high = how.percentiles
        what = f"percentiles {low:g} to {high:g} as 0 to 1"
    each = {"channel": " of each channel", "all": " of all channels"}[how.statistics]
    return f"{what}{each if several else ''} over the {how.over}"


def _of_scale(bundle: Bundle) -> Iterator[Other]:
    yield Other("rounding", "8 bit: channels rounded to 0..255", "", {"rounded": True})
    plain: dict[str, Any] = {"mean": (), "deviation": ()}
    for low, high in SCALES:
        yield Other("scale", f"{low:g} to {high:g}", f"--scale {low:g} {high:g}",
                    {**plain, "scale": (low, high)})  # fmt: skip
    if bundle.input_shape[-1] == 3:
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
                found.append(_finished(self._again(example.tensor, recipe), recipe))
            else:
                found += [_tensor_of(window, recipe, self.bundle) for window in example.windows]
        return found

    def _again(self, tensor: Array, recipe: Recipe) -> Array:
        """Return a tensor that was kept, normalised where the recipe does so and it is not yet."""
        known = self.bundle.preparation.normalise != "none"
        return tensor if known else normalised(tensor, recipe.preparation)

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


def _tensor_of(window: Sequence[Shown | None], recipe: Recipe, bundle: Bundle) -> Array:
    """Return (rows, columns, channels) float32, 0..1, before the scale."""
    view = replace(
        bundle,
        crop=recipe.crop,
        spacing_mm=recipe.spacing_mm,
        preparation=recipe.preparation,
        windows=recipe.windows,
    )
    middle = window[len(window) // 2]
    assert middle is not None  # noqa: S101 - only what is beside it may be absent
    turned, _ = neighbours.filled(
        [None if one is None else _turned(one, recipe) for one in window],
        _turned(middle, recipe),
        recipe.preparation.edges,
    )
    tensor = _resized_first(turned, view) if recipe.before else stacked(turned, view)
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


def _resized_first(slices: Sequence[Upright], view: Bundle) -> Array:
    """Do what ``worker.study.tensors.stacked`` does, but for the windows, which come last."""
    middle = slices[len(slices) // 2]
    box = field_of(middle.hu, middle.pixel_mm, view)
    channels = []
    for one in slices:
        part = box.cut(one.hu) if one.hu.shape == middle.hu.shape else one.hu
        image = Image.fromarray(np.ascontiguousarray(part, np.float32))
        size = (view.size[1], view.size[0])
        part = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
        for centre, width in view.windows:
            channel = np.clip((part - (centre - width / 2)) / width, 0, 1).astype(np.float32)
            channels.append(channel)
    return np.stack(channels, axis=-1)


def scaled(tensor: Array, recipe: Recipe) -> Array:
    """Return a tensor of 0..1 as the model wants it."""
    return np.ascontiguousarray(numbers.scaled(tensor, recipe), np.float32)


def probabilities(raw: Array, recipe: Recipe, temperature: float = 1.0) -> Array:
    """Return (n, labels) float32: what the raw outputs of the labels (n, ..., labels) mean.

    Of a segmentation that of the most probable pixel.
    """
    output = Output(activation=recipe.activation, inverted=recipe.inverted)
    found = numbers.highest(numbers.probabilities(raw, output, temperature))
    return found[:, list(recipe.outputs)]
