"""What a bundle does with the slices of a study, behind one protocol.

A task says what goes into the model, what its answers mean for a slice and for the study, and
whether there is something to explain. Whoever runs it knows no more than that.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from limen.result import Image
from worker.study.rule import Answer
from worker.study.series import Slice

__all__ = ["Looked", "Task"]


@dataclass(frozen=True, slots=True)
class Looked:
    """A slice that was looked at, or why not.

    Attributes
    ----------
    files
        Pictures that ``image`` names: file name to bytes.
    """

    image: Image
    files: dict[str, bytes]


class Task(Protocol):
    """Looks at one study; made anew for each."""

    def look(self, slices: Sequence[Slice]) -> Generator[Looked, None, None]:
        """Yield each slice in order as soon as something can be said of it.

        A bounded number of requests is in the engine; who ends early cancels them by closing.

        Raises
        ------
        Transient
            The engine is full or does not answer, or the decoder is gone.
        """

    def answers(self) -> tuple[Answer, ...]:
        """Return what the study comes to for each finding, once every slice was looked at.

        None where nothing was analysed.
        """
