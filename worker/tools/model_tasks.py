"""Which task a new bundle has: what its model takes and gives says so."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from limen.errors import BundleError, ConfigError
from limen.result import Task
from worker.serving.facts import Facts

__all__ = ["VOLUME_ML", "depth_of", "task_of"]

VOLUME_ML: Final = 1.0
"""From which volume a study is positive where nobody says so."""

_TASKS: Final = {(3, 1): Task.SLICES, (3, 3): Task.SEGMENTATION, (4, 1): Task.VOLUME}
"""How many axes the input and the output have, without the batch."""


def task_of(facts: Facts, source: Path) -> Task:
    """Return what a model does.

    Raises
    ------
    BundleError
        It is none of the models that a bundle can have.
    """
    found = _TASKS.get((len(facts.input_shape), len(facts.output_shape)))
    if found is None:
        raise BundleError(
            f"{source} maps {facts.input_shape or 'several inputs'} to "
            f"{facts.output_shape or 'several outputs'} (without the batch); an image classifier "
            "maps (rows, columns, channels) to (outputs,), a segmentation the same to (rows, "
            "columns, outputs), a classifier of volumes (depth, rows, columns, channels) to "
            "(outputs,). Save that part as a model of its own"
        )
    return found


def depth_of(facts: Facts, task: Task, said: int | None, source: Path) -> int | None:
    """Return how many slices a model takes at once; None for one that takes them one by one.

    Raises
    ------
    ConfigError
        It takes no volumes, or of another depth, or of any and none is said.
    """
    if task is not Task.VOLUME:
        if said is not None:
            raise ConfigError(
                f"--depth is for a model of volumes, and {source} takes slices; leave it out"
            )
        return None
    taken = facts.input_shape[0]
    if taken is None and said is None:
        raise ConfigError(
            f"{source} takes volumes of any depth; say how many slices it was trained on with "
            "--depth N"
        )
    if said is not None and taken not in {None, said}:
        raise ConfigError(f"--depth {said}: {source} takes {taken}; say that, or leave it out")
    return taken or said
