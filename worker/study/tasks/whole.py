"""A model that is asked about all slices of an acquisition at once, brought to a declared depth.

Of several inputs, which ``worker.study.acquisition`` makes of it, the highest answer counts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from limen.errors import Permanent
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine, Lane
from worker.study.acquisition import prepared
from worker.study.notes import Notes
from worker.study.rule import Answer
from worker.study.seen import DECIMALS, Told, image_of
from worker.study.series import Slice
from worker.study.tasks import Looked

__all__ = ["Whole"]


class Whole:
    """Asks the model about volumes; see ``worker.study.tasks.Task``."""

    def __init__(self, bundle: Bundle, decoder: Decoder, engine: Engine, notes: Notes) -> None:
        self._bundle = bundle
        self._decoder = decoder
        self._engine = engine
        self._notes = notes
        self._highest: list[NDArray[np.float64]] = []

    def look(self, slices: Sequence[Slice]) -> Generator[Looked, None, None]:
        """See ``Task``: the slices of an acquisition come when the model has answered."""
        for _, members in groupby(slices, lambda one: (one.header.series_uid, one.part)):
            yield from self._acquisition(list(members))

    def answers(self) -> tuple[Answer, ...]:
        """See ``Task``: of several acquisitions, and parts of them, the highest answer counts."""
        if not self._highest:
            return ()
        highest = np.stack(self._highest).max(axis=0)
        return tuple(
            Answer(sought, round(float(highest[sought.index]), DECIMALS))
            for sought in self._bundle.sought
        )

    def _acquisition(self, slices: list[Slice]) -> Iterator[Looked]:
        made = prepared(slices, self._bundle, self._decoder, self._notes, pictures=True)
        failed = self._asked([one.tensor for one in made.inputs])
        for one in made.read:
            yield Looked(*image_of(one.slice, one.picture, one.fault or failed or Told({})))

    def _asked(self, volumes: Sequence[NDArray[np.float32]]) -> str:
        """Ask the model about an acquisition; return why it says nothing, or an empty text."""
        if not volumes:
            return "no slice of it can be read"
        asked: list[Future[NDArray[np.float32]]] = []
        try:
            for volume in volumes:
                asked.append(self._engine.submit(volume[np.newaxis], Lane.PREDICT))  # noqa: PERF401
            rows = [np.asarray(self._engine.answer(one)[0], np.float64) for one in asked]
        except Permanent as exc:
            return str(exc)
        finally:
            for one in asked:
                one.cancel()
        self._highest += rows
        return ""
