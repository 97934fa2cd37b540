"""Examples: slices of which the author of a model tells what his own program says."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.errors import ConfigError, Unreadable
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder, Header
from worker.study import acquisition, neighbours, series
from worker.study.inputs import inputs_of
from worker.study.tensors import Upright, upright
from worker.tools import sources

__all__ = [
    "Example",
    "Shown",
    "Stored",
    "Told",
    "facts_of",
    "prepared",
    "read",
    "told",
    "told_in",
    "volumes_of",
]

MOST_SLICES: Final = 64
_COLUMNS: Final = ("file", "label", "value")


@dataclass(frozen=True, slots=True)
class Told:
    """A file or folder, and the numbers of the author's program.

    Attributes
    ----------
    values
        By label; by "" where there is one number without a label: of the decision label.
    """

    path: Path
    values: dict[str, float] | tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One slice of an example, as it is stored and as people look at it.

    Attributes
    ----------
    hu
        (rows, columns) float32, HU, as stored.
    rescale
        Slope and intercept that made them.
    """

    hu: NDArray[np.float32]
    rescale: tuple[float, float]
    header: Header
    frame: int
    upright: Upright


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A slice, or the slices of a study, and what the author's program says of the highest.

    Attributes
    ----------
    windows
        Each slice between its neighbours, ``2 * neighbours + 1`` of them; None where there is none.
    expected
        (labels,) float32, 0..1; NaN where nothing was told.
    """

    path: Path
    windows: tuple[tuple[Shown | None, ...], ...]
    expected: NDArray[np.float32]

    @property
    def slices(self) -> list[Shown]:
        """The slice in the middle of each window."""
        return [one for window in self.windows if (one := window[len(window) // 2]) is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An example as the bundle keeps it: its tensor, without the instance.

    Attributes
    ----------
    tensor
        (rows, columns, channels) float32, 0..1.
    """

    tensor: NDArray[np.float32]
    expected: NDArray[np.float32]


def told(paths: Sequence[Path], numbers: Sequence[tuple[float, ...]]) -> tuple[Told, ...]:
    """Return what ``--example`` and ``--expect`` say, one for each other.

    Raises
    ------
    ConfigError
        There is not one ``--expect`` for each ``--example``.
    """
    if len(paths) != len(numbers):
        raise ConfigError(
            f"--example is given {len(paths)} times and --expect {len(numbers)} times; give one "
            "--expect after each --example: the probability that your own program says of it"
        )
    return tuple(Told(path, values) for path, values in zip(paths, numbers, strict=True))


def told_in(path: Path) -> tuple[Told, ...]:
    """Return what a CSV file with the columns file, label, value says.

    Files are relative to the folder of the CSV. An empty label is that of the decision.

    Raises
    ------
    ConfigError
        It cannot be read, or a line of it says something else.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(
            f"{path} cannot be read ({type(exc).__name__}); --examples takes a CSV file with the "
            "columns file,label,value"
        ) from exc
    if not rows or not set(_COLUMNS) <= set(rows[0]):
        raise ConfigError(
            f"{path}: its first line must be file,label,value, and an example has to follow: "
            "write 1.dcm,,0.93 for instance"
        )
    found: dict[Path, dict[str, float]] = {}
    for number, row in enumerate(rows, start=2):
        value = _number(row["value"])
        if value is None:
            raise ConfigError(
                f"{path}, line {number}: value must be a probability, 0 to 1 "
                f"(got {row['value']!r}); write what your own program says of the file"
            )
        place = path.parent / (row["file"] or "")
        found.setdefault(place, {})[(row["label"] or "").strip()] = value
    return tuple(Told(place, values) for place, values in found.items())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def read(given: Sequence[Told], bundle: Bundle, decoder: Decoder) -> tuple[Example, ...]:
    """Decode the slices of examples, each as the worker would.

    Raises
    ------
    ConfigError
        One is not there, cannot be read, holds nothing for this bundle, or tells numbers of
        other labels.
    """
    return tuple(
        Example(one.path, _windows(one.path, bundle, decoder), _expected(one, bundle))
        for one in given
    )


def _expected(one: Told, bundle: Bundle) -> NDArray[np.float32]:
    names = bundle.label_names
    found = np.full(len(names), np.nan, np.float32)
    if isinstance(one.values, dict):
        for label, value in one.values.items():
            if label and label not in names:
                raise ConfigError(
                    f"example {one.path.name}: {label!r} is no label; name one of "
                    f"{', '.join(names)}, or none"
                )
            found[names.index(label or bundle.decision_label)] = value
    elif len(one.values) == 1:
        found[bundle.decision_index] = one.values[0]
    elif len(one.values) == len(names):
        found[:] = one.values
    else:
        raise ConfigError(
            f"--expect of {one.path.name} has {len(one.values)} numbers; give one, of "
            f"{bundle.decision_label}, or {len(names)}: one for each label, in order"
        )
    return found


def _windows(path: Path, bundle: Bundle, decoder: Decoder) -> tuple[tuple[Shown | None, ...], ...]:
    """Return each slice of a file or folder between its neighbours."""
    if not path.exists():
        raise ConfigError(f"example {path}: no such file or folder; check the path")
    alone = path.is_file() and not bundle.neighbours
    paths, _ = sources.find_files([path if alone or path.is_dir() else path.parent])
    headers = []
    for found, header in zip(paths, decoder.headers(paths), strict=True):
        if not isinstance(header, Unreadable):
            headers.append(header)
        elif found == path:
            raise ConfigError(
                f"example {path.name} cannot be read: {header}; give a DICOM file with a slice"
            )
    slices = _alone(headers) if alone else _selected(path, headers, bundle)
    shown = [(one, _shown(one, decoder)) for one in slices]
    found_windows = []
    for window in neighbours.windows(
        shown,
        bundle.neighbours,
        lambda one: (one[0].header.series_uid, one[0].part, one[0].stretch),
    ):
        middle = window[len(window) // 2]
        assert middle is not None  # noqa: S101 - only what is beside it may be absent
        if path.is_dir() or middle[0].header.path == path:
            found_windows.append(tuple(None if one is None else one[1] for one in window))
    if not found_windows:
        raise ConfigError(
            f"example {path.name}: no slice of it is one that the bundle looks at; "
            "give the file of another slice"
        )
    if len(found_windows) > MOST_SLICES:
        raise ConfigError(
            f"example {path.name}: {len(found_windows)} slices are more than {MOST_SLICES}; give "
            "the file of one slice"
        )
    return tuple(found_windows)


def volumes_of(path: Path, bundle: Bundle, decoder: Decoder) -> list[NDArray[np.float32]]:
    """Return what a model of volumes is given of a study, acquisition by acquisition.

    Raises
    ------
    ConfigError
        The folder is not there, or holds nothing for this bundle.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: a volume is made of a study; give the folder of one")
    paths, _ = sources.find_files([path])
    headers = [one for one in decoder.headers(paths) if not isinstance(one, Unreadable)]
    slices = _selected(path, headers, bundle)
    found = []
    for _, members in groupby(slices, lambda one: (one.header.series_uid, one.part)):
        inputs = acquisition.prepared(list(members), bundle, decoder).inputs
        found += [one.tensor for one in inputs]
    if not found:
        raise ConfigError(f"{path}: no slice of it can be read; give another study")
    return found


def _alone(headers: Sequence[Header]) -> list[series.Slice]:
    return [
        series.Slice(header, frame.number, index, None)
        for header in headers
        for index, frame in enumerate(header.frames)
    ]


def _selected(path: Path, headers: Sequence[Header], bundle: Bundle) -> list[series.Slice]:
    # An example is about how a slice is prepared: a whole study is not asked for.
    asked = {"min_slices": 1, "min_extent_mm": 0.0, "looks_like": ""}
    accepts = bundle.accepts.model_copy(update=asked)
    selection = series.select(headers, replace(bundle, accepts=accepts))
    if not selection.slices:
        raise ConfigError(
            f"example {path.name}: {selection.reason}; give the file of one slice, or say what "
            "the bundle accepts with --modality and --body-part"
        )
    return list(selection.slices)


def _shown(one: series.Slice, decoder: Decoder) -> Shown:
    path = one.header.path
    try:
        hu = decoder.hounsfield(path, one.frame)
        rescale = decoder.carried(path, one.frame).rescale
    except Unreadable as exc:
        raise ConfigError(f"example {path.name} cannot be read: {exc}") from exc
    frame = one.header.frames[one.frame - 1]
    return Shown(hu, rescale, one.header, one.frame, upright(hu, frame))


def prepared(example: Example, bundle: Bundle, decoder: Decoder) -> list[NDArray[np.float32]]:
    """Return the input of the model for each slice, by the function of the worker.

    Raises
    ------
    ConfigError
        Code of the bundle fails on one.
    BundleError
        There is code, and it is not allowed.
    """
    inputs, found = inputs_of(bundle, decoder), []
    for window in example.windows:
        middle = window[len(window) // 2]
        assert middle is not None  # noqa: S101 - only what is beside it may be absent
        around = [None if one is None else one.upright for one in window]
        beside, _ = neighbours.filled(around, middle.upright, bundle.preparation.edges)
        try:
            found.append(inputs(beside, middle.header, middle.frame))
        except Unreadable as exc:
            raise ConfigError(f"example {example.path.name}: {exc}") from exc
    return found


def facts_of(one: Shown) -> dict[str, Any]:
    """Return what the header says that matters to the pixels: no name, number, date or UID."""
    frame = one.header.frames[one.frame - 1]
    cosines = frame.orientation
    return {
        "modality": one.header.modality,
        "rows": one.header.rows,
        "columns": one.header.columns,
        "photometric": one.header.photometric,
        "transfer_syntax": one.header.transfer_syntax,
        "slope": one.rescale[0],
        "intercept": one.rescale[1],
        "spacing_mm": None if frame.spacing_mm is None else list(frame.spacing_mm),
        "thickness_mm": frame.thickness_mm,
        "orientation": None if cosines is None else [round(c, 4) for v in cosines for c in v],
        "lowest_hu": float(one.hu.min()),
        "highest_hu": float(one.hu.max()),
    }
