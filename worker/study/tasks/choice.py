"""Which task a bundle has."""

from __future__ import annotations

from limen import result
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study.notes import Notes
from worker.study.tasks import Task
from worker.study.tasks.each_slice import EachSlice, Probabilities
from worker.study.tasks.segmentation import Marks
from worker.study.tasks.whole import Whole

__all__ = ["task_of"]


def task_of(bundle: Bundle, decoder: Decoder, engine: Engine, notes: Notes) -> Task:
    """Return the task of a bundle, for one study."""
    if bundle.task is result.Task.VOLUME:
        return Whole(bundle, decoder, engine, notes)
    is_map = bundle.task is result.Task.SEGMENTATION
    reading = Marks(bundle, notes) if is_map else Probabilities(bundle)
    return EachSlice(bundle, decoder, engine, notes, reading)
