"""What a person says of a new bundle on the command line."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Final, get_args

from worker.bundles.manifest import MAX_NEIGHBOURS, SPACING_MM, Crop
from worker.bundles.preparation import (
    Direction,
    Edges,
    Fit,
    Normalise,
    Over,
    Padding,
    Preparation,
    Resize,
    Statistics,
)

__all__ = ["deploy_options", "example_options", "new_options", "preparation_of", "rollback_options"]

MOST_TOLERANCE: Final = 0.1
WAIT_S: Final = 120.0

_LABEL: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")


def new_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `limen model new`."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of the bundle; must not exist")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--from", dest="source", type=Path, metavar="FILE",
        help="model.keras, model.onnx, model.xml of OpenVINO, folder of a SavedModel")  # fmt: skip
    where.add_argument("--remote", nargs=3, metavar=("URL", "MODEL", "VERSION"),
        help="a model that a server runs (Open Inference Protocol v2); engine.remote.url has to "
        "name the server")  # fmt: skip
    add("--name", type=_name, help="default: the name of the folder")
    add("--label", action="append", default=[], type=_label, metavar="NAME[=P]",
        help="once for each output, in order (default: positive, or placeholders); with its own "
        "threshold it is a finding beside the one that decides")  # fmt: skip
    add("--decision", metavar="LABEL", help="the label that the finding is about")
    add("--threshold", type=_probability, help="least positive probability (default: 0.5)")
    add("--windows", type=_windows, default=(), metavar="C/W[,C/W...]",
        help="centre/width in HU for each channel of a slice "
        "(default: 40/80[,80/200,40/380])")  # fmt: skip
    add("--input", action="append", default=[], type=_input, metavar="NAME=C/W[,C/W...]",
        help="of a model with several inputs, once for each: its windows")  # fmt: skip
    add("--map", metavar="NAME",
        help="of a model with two outputs: the one that is a map of where it looks")  # fmt: skip
    add("--clip", type=_ranges, default=(), metavar="LOW:HIGH[,LOW:HIGH...]",
        help="the same as lowest and highest HU, such as --clip=-1000:1000")  # fmt: skip
    add("--size", nargs=2, type=int, metavar=("ROWS", "COLUMNS"),
        help="for a model that takes any size (default: 224 224)")  # fmt: skip
    add("--crop", choices=get_args(Crop),
        help="part of a slice that the model is shown (default: none, all of it)")  # fmt: skip
    add("--spacing-mm", type=_spacing, metavar="MM",
        help="so many mm is one pixel of the model's input (default: as it comes)")  # fmt: skip
    add("--neighbours", type=int, choices=range(MAX_NEIGHBOURS + 1), metavar="N",
        help="so many slices on each side are channels, too, 0 to 3 (default: 0)")  # fmt: skip
    add("--depth", type=int, metavar="N", help="slices of a model of volumes that takes any")
    add("--depth-mm", type=_positive, metavar="MM",
        help="how far apart they are (default: as long as the acquisition is)")  # fmt: skip
    add("--volume-ml", type=_positive, metavar="ML",
        help="of a segmentation: from which volume a study is positive (default: 1)")  # fmt: skip
    _preparation_options(parser)
    add("--scale", nargs=2, type=_number, metavar=("LOW", "HIGH"),
        help="range that the model was trained on, such as -1 1 or 0 255")  # fmt: skip
    add("--mean", type=_numbers, default=(), metavar="M[,M...]",
        help="subtracted from each channel after the scale")  # fmt: skip
    add("--deviation", type=_numbers, default=(), metavar="D[,D...]",
        help="each channel is divided by it after that")  # fmt: skip
    add("--preprocess", type=Path, metavar="FILE.py",
        help="code that makes the input of a slice, where no option says how "
        "(engine.allow_code)")  # fmt: skip
    add("--layout", choices=("nhwc", "nchw"),
        help="where an ONNX model has its channels (default: what its shape says)")  # fmt: skip
    add("--activation", choices=("none", "sigmoid", "softmax"),
        help="what has to be applied to the model's output")  # fmt: skip
    add("--inverted", action="store_true", help="single output where low means positive")
    add("--modality", help="default: CT")
    add("--body-part", action="append", default=[], metavar="PART", help="may be repeated")
    add("--licence", help="licence of the weights")
    example_options(parser)


def _preparation_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each key of ``Preparation``; what is not said is not in the result."""
    add = parser.add_argument
    for key, values, text in (
        ("fit", get_args(Fit), "a part of another aspect than the input: padded, or stretched"),
        ("resize", get_args(Resize), "the filter that brings a slice to size"),
        ("normalise", get_args(Normalise), "of the channels, after that"),
        ("over", get_args(Over), "the pixels that z-scores or percentiles are of"),
        ("statistics", get_args(Statistics), "of each channel, or of all"),
        ("edges", get_args(Edges), "what stands in for neighbours that are not there"),
        ("direction", get_args(Direction), "neighbours from the feet up, or down"),
    ):
        default = Preparation.model_fields[key].default
        add(f"--{key}", choices=values, help=f"{text} (default: {default})")
    add("--padding", type=_padding, metavar="air|edge|HU",
        help="what is outside of the slice (default: air)")  # fmt: skip
    add("--share", type=_number, metavar="S",
        help="with --crop centre: so much of the middle, such as 0.875 (default: 1)")  # fmt: skip
    add("--percentiles", nargs=2, type=_number, metavar=("LOW", "HIGH"),
        help="that become 0 and 1 (default: 1 99)")  # fmt: skip
    add("--deviations", type=_number, metavar="D",
        help="z-scores are clipped at D on each side (default: 10)")  # fmt: skip


def preparation_of(args: argparse.Namespace) -> dict[str, object]:
    """Return what was said of the keys of ``Preparation``."""
    said = {key: getattr(args, key) for key in Preparation.model_fields}
    return {key: value for key, value in said.items() if value is not None}


def example_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name examples."""
    add = parser.add_argument
    add("--example", action="append", default=[], type=Path, metavar="FILE",
        help="a slice, or the folder of a study, of which your own program tells the probability; "
        "may be repeated")  # fmt: skip
    add("--expect", action="append", default=[], type=_expected, metavar="P[,P...]",
        help="what it tells: of the decision label, or one for each label; of a study the highest "
        "slice")  # fmt: skip
    add("--examples", type=Path, metavar="FILE.csv", help="the same from columns file,label,value")
    add("--example-tolerance", type=_tolerance, metavar="D",
        help="largest difference that is allowed, up to 0.1 (default: 0.01)")  # fmt: skip


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("lower-case letters, digits, - and _")
    return text


def _label(text: str) -> tuple[str, float | None]:
    """Return a name, and its threshold where one is said."""
    name, equals, threshold = text.partition("=")
    if not _LABEL.fullmatch(name):
        raise argparse.ArgumentTypeError("letters, digits, - and _")
    return name, _probability(threshold) if equals else None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(","))


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("more than 0")
    return value


def _spacing(text: str) -> float:
    value = _number(text)
    low, high = SPACING_MM
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"a pixel of the input is {low:g} to {high:g} mm")
    return value


def _probability(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("a probability is 0 to 1")
    return value


def _expected(text: str) -> tuple[float, ...]:
    return tuple(_probability(part) for part in text.split(","))


def _tolerance(text: str) -> float:
    value = _number(text)
    if not 0 < value <= MOST_TOLERANCE:
        raise argparse.ArgumentTypeError(f"a difference of more than 0, up to {MOST_TOLERANCE:g}")
    return value


def _padding(text: str) -> str | float:
    return text if text in get_args(Padding) else _number(text)


def _ranges(text: str) -> tuple[tuple[float, float], ...]:
    """Return windows: centre and width of each range."""
    windows = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        if not colon or _number(low) >= _number(high):
            raise argparse.ArgumentTypeError(f"{part!r} is not LOW:HIGH in HU, such as 0:80")
        windows.append(((_number(low) + _number(high)) / 2, _number(high) - _number(low)))
    return tuple(windows)


def _windows(text: str) -> tuple[tuple[float, float], ...]:
    windows = []
    for part in text.split(","):
        centre, slash, width = part.partition("/")
        if not slash or _number(width) <= 0:
            raise argparse.ArgumentTypeError(f"{part!r} is not CENTRE/WIDTH, such as 40/80")
        windows.append((_number(centre), _number(width)))
    return tuple(windows)


def _input(text: str) -> tuple[str, tuple[tuple[float, float], ...]]:
    """Return the name of an input, and its windows."""
    name, equals, windows = text.rpartition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=CENTRE/WIDTH, such as brain=40/80")
    return name, _windows(windows)


def deploy_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `limen model deploy`."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the model: name of its folder of versions")
    add("version", metavar="VERSION", help="name of a folder in it")
    add("--percent", type=_percent, default=100, metavar="N",
        help="only so many of a hundred studies; what serves looks at the rest (100)")  # fmt: skip
    add("--wait", type=float, default=WAIT_S, metavar="SECONDS",
        help=f"for the workers to load and try it ({WAIT_S:.0f}); 0: do not wait")  # fmt: skip


def rollback_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `limen model rollback`."""
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with it")


def _percent(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 100")
    return int(text)
