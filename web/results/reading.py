"""Who has read what: a study is read once its reader has opened its latest word.

A new revision makes it unread again, and so does an explanation. ``mine`` is what a reader has
opened or voted on, however long ago: nobody assigns studies here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Exists, Max, OuterRef
from django.utils import timezone

from web.results.models import ReadMark, Study

__all__ = ["is_read", "is_theirs", "latest", "mark", "outdate", "read_by_urgency"]


def mark(study: Study, reader: User) -> None:
    """Note that a reader was shown the latest word of a study, as ``study`` has it."""
    if study.is_test or ReadMark.objects.filter(study=study, reader=reader, current=True).exists():
        return
    with transaction.atomic():
        # The lock orders this and a new result: what came since is not what was read.
        now = Study.objects.select_for_update().get(pk=study.pk)
        ReadMark.objects.update_or_create(
            study=now,
            reader=reader,
            defaults={
                "current": (now.revision, now.phase) == (study.revision, study.phase),
                "urgency": now.urgency,
                "received_at": now.received_at,
                "at": timezone.now(),
            },
        )


def outdate(study: Study) -> None:
    """Make a study unread for everybody; to be called in the transaction that changes it."""
    ReadMark.objects.filter(study=study, current=True).update(current=False, at=timezone.now())


def is_read(reader: User) -> Exists:
    """Return the condition that a reader has read a study."""
    return Exists(ReadMark.objects.filter(study=OuterRef("pk"), reader=reader, current=True))


def is_theirs(reader: User) -> Exists:
    """Return the condition that a reader has ever opened a study or voted on it."""
    return Exists(ReadMark.objects.filter(study=OuterRef("pk"), reader=reader))


def read_by_urgency(reader: User) -> Mapping[int, int]:
    """Return how many studies of each urgency a reader has read."""
    marks = ReadMark.objects.filter(reader=reader, current=True)
    return dict(marks.values_list("urgency").annotate(n=Count("pk")).order_by())


def latest(reader: User) -> datetime | None:
    """Return when something was last read, or became unread, for a reader."""
    return ReadMark.objects.filter(reader=reader).aggregate(at=Max("at"))["at"]
