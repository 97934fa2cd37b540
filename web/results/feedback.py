"""Votes of readers."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from web.results import reading
from web.results.models import Study, Verdict, Vote

__all__ = ["NOTE_LENGTH", "vote"]

NOTE_LENGTH = 2000


def vote(study: Study, revision: int, reader: User, verdict: str, note: str) -> Vote:
    """Record what a reader thinks; the reader's earlier vote becomes history.

    Raises
    ------
    ValueError
        The verdict is none of those there are, or the study has no such revision.
    """
    if verdict not in Verdict.values:
        raise ValueError(f"a verdict is one of {', '.join(Verdict.values)}")
    if not study.reports.filter(revision=revision).exists():
        raise ValueError("the study has no such revision")
    with transaction.atomic():
        # The lock makes two votes of one reader follow each other.
        Study.objects.select_for_update().get(pk=study.pk)
        Vote.objects.filter(study=study, revision=revision, reader=reader, current=True).update(
            current=False
        )
        new = Vote.objects.create(
            study=study,
            revision=revision,
            reader=reader,
            verdict=verdict,
            note=note.replace("\x00", "").strip()[:NOTE_LENGTH],
        )
        Study.objects.filter(pk=study.pk).update(changed_at=timezone.now())
        reading.mark(study, reader)
    return new
