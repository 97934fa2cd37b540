"""The state machines of study, job and delivery.

The journal asks ``sources`` which states may precede a new one, and writes only
if the row is still in one of them: nothing else changes a state.

::

    study     receiving -> complete -> predicted -> done
                               |            +-----> failed
                               +-> done | failed
    work      queued -> running -> done
    (job,        ^         |  +---> dead
    delivery)    +---------+
                 +------ dead            (only when a person asks for a retry)
"""

from __future__ import annotations

from enum import StrEnum

from limen.errors import IllegalTransition

__all__ = ["StudyState", "WorkState", "sources"]


class StudyState(StrEnum):
    """Where one revision of a study is."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    """All instances are here; the prediction is due."""
    PREDICTED = "predicted"
    """People can read the outcome; the explanation is due."""
    DONE = "done"
    FAILED = "failed"
    """A job of it is dead; the reason is kept beside."""


class WorkState(StrEnum):
    """Where a job or a delivery is."""

    QUEUED = "queued"
    RUNNING = "running"
    """Claimed by one worker until its lease ends."""
    DONE = "done"
    DEAD = "dead"
    """Given up; visible with its reason until a person retries it."""


_STUDY = {
    StudyState.RECEIVING: {StudyState.COMPLETE},
    StudyState.COMPLETE: {StudyState.PREDICTED, StudyState.DONE, StudyState.FAILED},
    StudyState.PREDICTED: {StudyState.DONE, StudyState.FAILED},
    StudyState.DONE: set[StudyState](),
    StudyState.FAILED: set[StudyState](),
}
_WORK = {
    WorkState.QUEUED: {WorkState.RUNNING},
    # A running row is claimed again when its lease has ended.
    WorkState.RUNNING: {WorkState.RUNNING, WorkState.QUEUED, WorkState.DONE, WorkState.DEAD},
    WorkState.DONE: set[WorkState](),
    WorkState.DEAD: {WorkState.QUEUED},
}


def sources(new: StudyState | WorkState) -> list[str]:
    """Return the states from which ``new`` may be entered.

    Raises
    ------
    IllegalTransition
        No state leads to ``new``: rows are only created in it.
    """
    table: dict[StudyState, set[StudyState]] | dict[WorkState, set[WorkState]]
    table = _STUDY if isinstance(new, StudyState) else _WORK
    found = [old.value for old, targets in table.items() if new in targets]
    if not found:
        raise IllegalTransition(f"nothing may become {new.value!r}: rows are created in that state")
    return found
