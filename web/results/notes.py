"""Notes of readers: one of each on a study, saved as it is typed."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from web.results.models import Note, Study

__all__ = ["LENGTH", "Conflict", "of", "save"]

LENGTH = 2000
_MOST_VERSIONS = 2**31 - 1


class Conflict(Exception):
    """The note was changed elsewhere, in another window or on another computer.

    Attributes
    ----------
    note
        As it is now.
    """

    def __init__(self, note: Note) -> None:
        super().__init__("the note was changed elsewhere")
        self.note = note


def of(study: Study, reader: User) -> Note:
    """Return the note of a reader; one of version 0, not saved, where there is none."""
    found = Note.objects.filter(study=study, reader=reader).first()
    return found or Note(study=study, reader=reader, text="", version=0)


def save(study: Study, reader: User, text: str, version: int | None) -> Note:
    """Save a note in place of ``version`` of it; None takes the place of any.

    The same text again is no change: who did not hear that it was saved may send it once more.

    Raises
    ------
    ValueError
        The text is too long.
    Conflict
        The note has another text and another version by now.
    """
    text = text.replace("\x00", "").replace("\r\n", "\n")
    if len(text) > LENGTH:
        raise ValueError(f"a note has at most {LENGTH} characters")
    with transaction.atomic():
        # The lock makes two windows of one reader follow each other.
        Study.objects.select_for_update().get(pk=study.pk)
        now = of(study, reader)
        if now.text == text:
            return now
        if version is not None and version != now.version:
            raise Conflict(now)
        now.text, now.version = text, min(now.version + 1, _MOST_VERSIONS)
        now.saved_at = timezone.now()
        now.save()
    return now
