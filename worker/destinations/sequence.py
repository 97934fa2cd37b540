"""Messages of one study to one place: in order, none after what has replaced it.

A message that waited while its place was away may be out of date when that is back: the explanation
of its prediction, or a newer revision, is there to be sent in its stead.
"""

from __future__ import annotations

from limen.errors import Transient
from limen.journal import Objects, SentObject, Standing
from limen.result import Outcome, Result
from limen.states import ObjectState
from worker.destinations import Parcel, Receipt

__all__ = ["Sequence", "is_urgent"]

_MESSAGE = "message"


class Sequence:
    """What of a study goes to a place that takes messages, and when.

    Parameters
    ----------
    name
        What people call the place.
    journal
        Where it is noted what was sent.
    only_positive
        Whether it gets only studies that somebody should look at, and what came of them later.
    """

    def __init__(self, name: str, journal: Objects, *, only_positive: bool) -> None:
        self._name = name
        self._journal = journal
        self._only_positive = only_positive

    def admit(self, parcel: Parcel) -> Standing | Receipt:
        """Return how a message stands among those of its study, or that it is not to be sent.

        Raises
        ------
        Transient
            One before it is on its way: it goes first.
        """
        standing = self._journal.standing(parcel.delivery)
        if standing.replaced:
            return Receipt(note="not sent: a later message on the study replaces it", reached=False)
        if standing.follows:
            raise Transient(f"{self._name}: an earlier message on the study is on its way")
        assert parcel.result is not None  # noqa: S101 - a message is made of it
        if self._only_positive and not (is_urgent(parcel.result) or standing.sent):
            return Receipt(
                note="not sent: nothing was found, and only what was goes there", reached=False
            )
        return standing

    def sent(self, parcel: Parcel) -> None:
        """Note that a message is there."""
        one = SentObject(_MESSAGE, "", _MESSAGE, ObjectState.SENT)
        self._journal.note(parcel.delivery, [one])


def is_urgent(result: Result) -> bool:
    """Return whether somebody should look at a study first: it is, or may be, or shows a slice."""
    if result.outcome in {Outcome.POSITIVE, Outcome.UNDETERMINED}:
        return True
    return any(finding.positive_slices > 0 for finding in result.all_findings())
