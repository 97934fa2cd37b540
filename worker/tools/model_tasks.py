"""Which task a new bundle has: what its model takes and gives says so."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from limen.errors import BundleError, ConfigError
from limen.result import Task
from worker.bundles.manifest import Map
from worker.serving.facts import Facts
from worker.serving.shapes import map_size, named_outputs

__all__ = ["VOLUME_ML", "depth_of", "map_of", "task_of"]

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
    if found is None and len(facts.outputs) > 1:
        raise BundleError(
            f"{source} has the outputs {named_outputs(facts.outputs)} (without the batch); one is "
            "the answer. Where another one is a map of where the model looks, say --map NAME; else "
            "save the model with the classifier's output alone"
        )
    if found is None:
        raise BundleError(
            f"{source} maps {facts.input_shape or 'several inputs'} to "
            f"{facts.output_shape} (without the batch); an image classifier "
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


def map_of(facts: Facts, said: str, source: Path) -> Map | None:
    """Return the output that was said to be a map of where the model looks; None without.

    Raises
    ------
    ConfigError
        It is no map, or the answer.
    """
    if not said:
        return None
    if said not in facts.outputs or len(facts.outputs) == 1:
        raise ConfigError(
            f"--map {said}: {source} has the outputs {named_outputs(facts.outputs)}; say the "
            "one that is a map beside the answer, or leave it out"
        )
    size = map_size(facts.outputs[said])
    if size is None:
        raise ConfigError(
            f"--map {said}: {source} gives {named_outputs({said: facts.outputs[said]})} there; a "
            "map has rows, columns and one value for each cell, of one finding, whatever is asked: "
            "save the model so, for an input of a fixed size"
        )
    return Map(output=said, size=size)
