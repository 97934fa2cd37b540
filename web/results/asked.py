"""What a client asks of the API by the words of an address: known ones, or an error names them.

A word that means nothing is refused: an answer to a question that was not asked looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework import serializers
from rest_framework.request import Request

from web.results.models import Study

__all__ = [
    "CURSOR",
    "MOST",
    "SETTLED",
    "TEXT_LENGTH",
    "Changes",
    "known",
    "number",
    "one_of",
    "text",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT_LENGTH = 200
MOST = 10**9 - 1
CURSOR = r"^[0-9]{1,18}\.[0-9]{1,18}$"
SETTLED = timedelta(seconds=5)
"""A change is told when it is so old: no transaction that began before it is still open."""


def known(request: Request, *names: str) -> None:
    """Refuse an address with a name that is not one of these, or is empty, or stands there twice.

    An empty value is what a script sends whose variable is not set: it is no wish for everything.
    """
    for name in request.query_params:
        if name not in names:
            allowed = ", ".join(names) or "none"
            raise serializers.ValidationError({"query": [f"a name is unknown; known: {allowed}"]})
        if len(request.query_params.getlist(name)) > 1:
            raise serializers.ValidationError({name: ["is given twice"]})
        if not request.query_params[name]:
            raise serializers.ValidationError({name: ["is empty; leave it out"]})


def one_of(request: Request, name: str, allowed: Collection[str]) -> str:
    """Return a word, one of these; "" where it is not given."""
    value = request.query_params.get(name, "")
    if value and value not in allowed:
        raise serializers.ValidationError({name: [f"is unknown; known: {', '.join(allowed)}"]})
    return value


def text(request: Request, name: str, most: int = TEXT_LENGTH) -> str:
    """Return a text without control characters; "" where it is not given."""
    value = request.query_params.get(name, "")
    if len(value) > most or any(c < " " or "\ud800" <= c <= "\udfff" for c in value):
        raise serializers.ValidationError({name: [f"takes {most} characters, none of control"]})
    return value


def number(request: Request, name: str, default: int, most: int = MOST) -> int:
    """Return a whole number from 1; ``default`` where it is not given."""
    value = request.query_params.get(name, "")
    if not value:
        return default
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and 1 <= int(value) <= most):
        raise serializers.ValidationError({name: [f"a whole number is wanted, 1 to {most}"]})
    return int(value)


@dataclass(frozen=True, slots=True)
class Changes:
    """A place in the order in which studies changed; what follows it is asked for.

    A study that changes while pages are read moves to the end: it may come twice, never not.

    Attributes
    ----------
    after
        Until when all is known.
    pk
        Of the last study of that moment that is known; 0: all of it is still asked for.
    """

    after: datetime
    pk: int = 0

    @classmethod
    def asked(cls, request: Request) -> Changes | None:
        """Return the place that ``cursor`` or ``changed_since`` names; None: neither is given."""
        cursor, since = (request.query_params.get(name) for name in ("cursor", "changed_since"))
        if cursor is None and since is None:
            return None
        if cursor is not None and since is not None:
            raise serializers.ValidationError({"cursor": ["goes on alone, without changed_since"]})
        if "page" in request.query_params:
            raise serializers.ValidationError({"page": ["changes have no pages; follow cursor"]})
        return cls._of_cursor(cursor) if cursor is not None else cls._since(since or "")

    @classmethod
    def _since(cls, value: str) -> Changes:
        try:
            at = parse_datetime(value) if "T" in value.upper() else None
            if at is not None and at.tzinfo is not None:
                return cls(max(at.astimezone(UTC), _EPOCH))
        except (ValueError, OverflowError):
            pass
        wanted = "a time is wanted (RFC 3339): 2026-01-02T03:04:05Z; a + is written %2B"
        raise serializers.ValidationError({"changed_since": [wanted]})

    @classmethod
    def _of_cursor(cls, value: str) -> Changes:
        if re.fullmatch(CURSOR, value):
            words = value.split(".")
            try:
                return cls(_EPOCH + timedelta(microseconds=int(words[0])), int(words[1]))
            except OverflowError:
                pass
        raise serializers.ValidationError({"cursor": ["is none that this server gave"]})

    def page(self, rows: QuerySet[Study], size: int) -> tuple[list[Study], bool, Changes]:
        """Return what follows, whether more does, and the place after it."""
        same = Q(changed_at=self.after, pk__gt=self.pk)
        rows = rows.filter(Q(changed_at__gt=self.after) | same, changed_at__gte=self.after)
        rows = rows.filter(changed_at__lt=timezone.now() - SETTLED)
        found = list(rows.order_by("changed_at", "pk")[: size + 1])
        shown, more = found[:size], len(found) > size
        return shown, more, Changes(shown[-1].changed_at, shown[-1].pk) if shown else self

    def __str__(self) -> str:
        """Return the word of ``cursor``."""
        return f"{(self.after - _EPOCH) // timedelta(microseconds=1)}.{self.pk}"
