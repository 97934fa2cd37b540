"""The state machines of study and work.

The journal asks ``sources`` which states may precede a new one, and writes only
if the row is still in one of them: nothing else changes a state.

::

    study     receiving -> complete -> predicted -> done
                               |            +-----> failed
                               +-> done | failed
    work      queued -> running -> done
    (job,        ^       ^ |  +---> dead
    delivery)    +-------|-+  +---> committed
                 |       +--- sent <--+      (running -> sent: to a PACS, that has yet to vouch)
                 +------ dead | discarded    (only when a person asks for a retry)
             dead -> discarded               (only when a person says so)
"""

from __future__ import annotations

from enum import StrEnum

from limen.errors import IllegalTransition

__all__ = [
    "ARCHIVE",
    "ARRIVED",
    "NOT_ARRIVED",
    "OVER",
    "SHADOW_LANE",
    "DeploymentState",
    "HoldingState",
    "ObjectState",
    "StudyState",
    "WorkState",
    "sources",
]

SHADOW_LANE = "shadow"
"""The lane of every shadow; that of a job is its phase, that of a delivery its destination."""


ARCHIVE = "archive"
"""The destination that keeps originals, and the results of bundles that run in shadow."""


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
    """Where a job, a delivery or a shadow is."""

    QUEUED = "queued"
    RUNNING = "running"
    """Claimed by one worker until its lease ends."""
    DONE = "done"
    SENT = "sent"
    """Stored by a PACS that has been asked to vouch for it, and has not answered yet."""
    COMMITTED = "committed"
    """Stored by a PACS that vouches for it (storage commitment, PS3.4 J)."""
    DEAD = "dead"
    """Given up; visible with its reason until a person retries or discards it."""
    DISCARDED = "discarded"
    """Given up, and a person has said that it may stay so; never taken for what arrived."""


ARRIVED = frozenset({WorkState.DONE, WorkState.SENT, WorkState.COMMITTED})
"""A delivery in one of these is where it was to go."""

NOT_ARRIVED = tuple(s for s in WorkState if s not in ARRIVED and s is not WorkState.DISCARDED)
"""A delivery in one of these has yet to get there, and nobody has said that it need not."""


OVER = frozenset({WorkState.DONE, WorkState.COMMITTED, WorkState.DISCARDED})
"""Nothing is left to do about work in one of these."""


class ObjectState(StrEnum):
    """Where one DICOM object is on its way to one PACS."""

    WAITING = "waiting"
    """Not there yet; the last try failed."""
    SENT = "sent"
    COMMITTED = "committed"
    LOST = "lost"
    """Sent, but the PACS does not vouch for it: it is sent again."""
    REFUSED = "refused"
    """The PACS will not take it, or does not keep it."""


class DeploymentState(StrEnum):
    """Where it stands with a version of a model that somebody asked for."""

    ASKED = "asked"
    """Workers load and try it beside what serves; no study is predicted with it yet."""
    SERVING = "serving"
    REFUSED = "refused"
    """A worker cannot run it, or it is not what it was when it was made: it never served."""
    REPLACED = "replaced"
    """Another one took its place."""
    WITHDRAWN = "withdrawn"
    """A person took it back: nothing that it says is committed any more."""


class HoldingState(StrEnum):
    """How far a worker is with a version."""

    MISSING = "missing"
    """A route names the model, and no version of it is deployed."""
    LOADING = "loading"
    READY = "ready"
    """Loaded, warm, and its golden tensors are answered as they should be."""
    FAILED = "failed"


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
    WorkState.RUNNING: {
        WorkState.RUNNING,
        WorkState.QUEUED,
        WorkState.DONE,
        WorkState.SENT,
        WorkState.COMMITTED,
        WorkState.DEAD,
    },
    WorkState.SENT: {WorkState.RUNNING},
    WorkState.COMMITTED: set[WorkState](),
    WorkState.DONE: set[WorkState](),
    WorkState.DEAD: {WorkState.QUEUED, WorkState.DISCARDED},
    WorkState.DISCARDED: {WorkState.QUEUED},
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
