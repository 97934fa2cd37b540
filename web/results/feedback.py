"""Votes of readers: what they think of what the newest revision says."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from web.results import notes, reading
from web.results.models import Outcome, Study, Verdict, Vote

__all__ = ["OldRevision", "nothing_said", "vote", "withdraw"]


class OldRevision(Exception):
    """A newer revision has come; the text says so."""


def nothing_said(study: Study) -> str:
    """Return why there is nothing to agree with in what is said of a study; "" where there is."""
    if study.outcome == Outcome.NOT_ANALYSED:
        return "No model looked at this study: there is nothing to agree with."
    if study.outcome == Outcome.UNDETERMINED:
        return "The model does not agree with itself: there is nothing to agree with."
    if study.outcome == Outcome.PARTIAL and not study.analysed_slices:
        return "No slice was analysed: there is nothing to agree with."
    return ""


def vote(study: Study, revision: int, reader: User, verdict: str, note: str | None = None) -> Vote:
    """Record what a reader thinks; the reader's earlier vote becomes history.

    Parameters
    ----------
    note
        Takes the place of the reader's note; None leaves it as it is.

    Raises
    ------
    ValueError
        The verdict is none of those there are, nothing was said, the study has no such revision,
        or the note is too long.
    OldRevision
        The revision is not the newest.
    """
    if verdict not in Verdict.values:
        raise ValueError(f"a verdict is one of {', '.join(Verdict.values)}")
    with transaction.atomic():
        now = _newest(study, revision)
        if why := nothing_said(now):
            raise ValueError(why)
        text = (notes.of(now, reader) if note is None else notes.save(now, reader, note, None)).text
        _mine(now, reader).update(current=False)
        new = Vote.objects.create(
            study=now, revision=revision, reader=reader, verdict=verdict, note=text
        )
        _changed(now)
        reading.mark(study, reader)
    return new


def withdraw(study: Study, revision: int, reader: User) -> None:
    """Take the reader's vote back; it becomes history. Where there is none nothing happens.

    Raises
    ------
    ValueError
        The study has no such revision.
    OldRevision
        The revision is not the newest.
    """
    with transaction.atomic():
        now = _newest(study, revision)
        if _mine(now, reader).update(current=False, withdrawn_at=timezone.now()):
            _changed(now)


def _newest(study: Study, revision: int) -> Study:
    """Return a study as it is now, locked: two votes of one reader follow each other."""
    now = Study.objects.select_for_update().get(pk=study.pk)
    if revision == now.revision:
        return now
    if study.reports.filter(revision=revision).exists():
        raise OldRevision(f"revision {now.revision} has come: look at it, and vote on what it says")
    raise ValueError("the study has no such revision")


def _mine(study: Study, reader: User) -> QuerySet[Vote]:
    return Vote.objects.filter(study=study, revision=study.revision, reader=reader, current=True)


def _changed(study: Study) -> None:
    Study.objects.filter(pk=study.pk).update(changed_at=timezone.now())
