"""A model that is asked about each slice, alone or between its neighbours.

What an answer means is left to a ``Reading``: the probability of a slice, or a mark on its pixels.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from limen.errors import Permanent, Unreadable
from limen.result import Task
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine, Lane
from worker.study import neighbours, rule
from worker.study.crop import Box, field_of
from worker.study.inputs import inputs_of
from worker.study.notes import Notes
from worker.study.outcome import is_positive
from worker.study.rule import Answer
from worker.study.seen import DECIMALS, Picture, Seen, Told, image_of, seen
from worker.study.series import Slice
from worker.study.tasks import Looked
from worker.study.tensors import Upright

__all__ = ["Asked", "EachSlice", "Probabilities", "Reading"]

BATCHES_IN_FLIGHT: Final = 2
"""What a study has in the engine: one batch runs, the next one waits for it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A slice that the model is asked about.

    Attributes
    ----------
    shape
        Rows and columns of the slice, upright.
    pixel_mm
        Side of a pixel; None where it is unknown.
    field
        Of a segmentation: the part of it that the model is shown.
    """

    slice: Slice
    shape: tuple[int, int]
    pixel_mm: float | None
    field: Box | None


class Reading(Protocol):
    """What the answers of a model mean."""

    def of_slice(self, asked: Asked, answer: NDArray[np.float32]) -> Told:
        """Return what is said of a slice; ``answer`` is of the shape of the bundle's output."""

    def without(self, one: Slice) -> None:
        """Note that nothing is said of a slice."""

    def of_study(self) -> tuple[Answer, ...]:
        """Return what the study comes to; none where no slice was analysed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A slice whose answer is awaited, or why it has none."""

    slice: Slice
    answer: Future[NDArray[np.float32]] | str
    asked: Asked | None = None
    picture: Picture | None = None


class EachSlice:
    """Asks the model about one slice after the other; see ``worker.study.tasks.Task``."""

    def __init__(
        self, bundle: Bundle, decoder: Decoder, engine: Engine, notes: Notes, reading: Reading
    ) -> None:
        self._bundle = bundle
        self._decoder = decoder
        self._engine = engine
        self._notes = notes
        self._reading = reading
        self._inputs = inputs_of(bundle, decoder)

    def look(self, slices: Sequence[Slice]) -> Generator[Looked, None, None]:
        """See ``Task``."""
        waiting: deque[_Waiting] = deque()
        most = BATCHES_IN_FLIGHT * self._engine.largest_batch
        read = seen(slices, self._decoder)
        try:
            for window in neighbours.windows(
                read, self._bundle.neighbours, lambda one: one.stretch
            ):
                waiting.append(self._ask(window))
                if len(waiting) >= most:
                    yield self._looked(waiting.popleft())
            while waiting:
                yield self._looked(waiting.popleft())
        finally:  # the study is given up: nobody wants these answers any more
            for one in waiting:
                if not isinstance(one.answer, str):
                    one.answer.cancel()

    def answers(self) -> tuple[Answer, ...]:
        """See ``Task``."""
        return self._reading.of_study()

    def _ask(self, window: Sequence[Seen | None]) -> _Waiting:
        """Give a slice to the engine, with its neighbours where the model wants them."""
        middle = window[len(window) // 2]
        assert middle is not None  # noqa: S101 - only what is beside it may be absent
        one, shown = middle.slice, middle.shown
        if isinstance(shown, Unreadable):
            return _Waiting(one, str(shown))
        around: list[Upright | Unreadable | None] = [
            None if beside is None else beside.shown for beside in window
        ]
        slices, lost = neighbours.filled(around, shown, self._bundle.preparation.edges)
        self._notes.add(one, shown, lost)
        picture = Picture.of(one, shown)
        try:
            tensor = self._inputs(slices, one.header, one.frame)
        except Unreadable as exc:  # code of the bundle failed on it
            return _Waiting(one, str(exc), None, picture)
        is_map = self._bundle.task is Task.SEGMENTATION
        field = field_of(shown.hu, shown.pixel_mm, self._bundle) if is_map else None
        rows, columns = shown.hu.shape
        asked = Asked(one, (rows, columns), shown.pixel_mm, field)
        answer = self._engine.submit(tensor[np.newaxis], Lane.PREDICT)
        return _Waiting(one, answer, asked, picture)

    def _looked(self, waiting: _Waiting) -> Looked:
        """Wait for the model's answer to one slice."""
        told: Told | str
        if isinstance(waiting.answer, str) or waiting.asked is None:
            told = str(waiting.answer)
        else:
            try:
                answer = self._engine.answer(waiting.answer)[0]
                told = self._reading.of_slice(waiting.asked, answer)
            except Permanent as exc:
                told = str(exc)
        if isinstance(told, str):
            self._reading.without(waiting.slice)
        return Looked(*image_of(waiting.slice, waiting.picture, told))


class Probabilities:
    """Reads the answers of a classifier: a probability for each label."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._parts: dict[tuple[str, int], list[tuple[float | None, NDArray[np.float64]]]] = (
            defaultdict(list)
        )

    def of_slice(self, asked: Asked, answer: NDArray[np.float32]) -> Told:
        """See ``Reading``."""
        row = np.array([round(float(p), DECIMALS) for p in answer])
        self._note(asked.slice, row)
        told = dict(zip(self._bundle.label_names, row.tolist(), strict=False))
        return Told(told, any(is_positive(told, one) for one in self._bundle.sought))

    def without(self, one: Slice) -> None:
        """See ``Reading``."""
        self._note(one, np.full(self._bundle.outputs, np.nan))

    def of_study(self) -> tuple[Answer, ...]:
        """See ``Reading``."""
        stretches = [
            rule.Stretch([at for at, _ in part], np.stack([row for _, row in part]))
            for part in self._parts.values()
        ]
        return rule.answers(self._bundle, stretches)

    def _note(self, one: Slice, row: NDArray[np.float64]) -> None:
        self._parts[one.header.series_uid, one.part].append((one.position_mm, row))
