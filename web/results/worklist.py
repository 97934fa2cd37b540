"""The worklist: which studies, in which order, one page at a time.

The order is that of urgency; within one, first what the reader has not read, who waits longest
first, then what they have read, the latest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from django.contrib.auth.models import User
from django.db.models import Count, Max, Prefetch, Q, QuerySet, Value

from web.results import reading
from web.results.filters import Filter
from web.results.models import Outcome, Study, Vote
from web.results.summary import RANKS

__all__ = ["PAGE", "Counts", "Page", "counts", "modalities", "outcomes", "page", "stamp"]

PAGE = 50
_FEW = 500
_POSITIVE = RANKS[Outcome.POSITIVE]


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page, and where the next one begins."""

    studies: list[Study]
    next: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many studies there are.

    Attributes
    ----------
    outcomes
        Value, name and number of studies of each.
    parts
        How many each part of the order has: by urgency, and whether the reader has read them.
    """

    outcomes: list[tuple[str, str, int]]
    parts: dict[tuple[int, bool], int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(number for _, _, number in self.outcomes)

    @property
    def new(self) -> int:
        """How many the reader has not read."""
        return sum(number for (_, is_read), number in self.parts.items() if not is_read)

    @property
    def new_positive(self) -> int:
        """How many of those wait among the positive."""
        return self.parts[_POSITIVE, False]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands in the order."""

    urgency: int
    is_read: bool
    received_at: datetime
    pk: int


def page(chosen: Filter, reader: User, known: Counts) -> Page:
    """Return a page of the worklist as it is for a reader; what is empty is not looked at."""
    place = _place(chosen.after)
    found: list[Study] = []
    if not chosen.is_waiting:
        for part in _parts(chosen, reader, known, place):
            found += part[: PAGE + 1 - len(found)]
            if len(found) > PAGE:
                break
    last = found[PAGE - 1] if len(found) > PAGE else None
    return Page(found[:PAGE], _mark(last) if last else "")


def _parts(
    chosen: Filter, reader: User, known: Counts, place: _Place | None
) -> Iterator[QuerySet[Study]]:
    """Yield what is left of each part of the order, each by an index of its own."""
    votes = Prefetch(
        "votes", Vote.objects.filter(current=True).select_related("reader"), to_attr="current_votes"
    )
    rows = chosen.rows(reader)
    if chosen.may_be_rare:
        # In the order of the worklist, few among many are found late: by one look at all, soon.
        found = list(rows.values_list("pk", flat=True)[: _FEW + 1])
        rows = Study.objects.filter(pk__in=found) if len(found) <= _FEW else rows
    rows = rows.defer("search").prefetch_related(votes)
    for part, number in sorted(known.parts.items()):
        urgency, is_read = part
        at = (place.urgency, place.is_read) if place else (0, False)
        if number <= 0 or part < at or (is_read and chosen.unread):
            continue
        begin = place if part == at else None
        yield (_read if is_read else _unread)(rows, urgency, reader, begin)


def _unread(
    rows: QuerySet[Study], urgency: int, reader: User, begin: _Place | None
) -> QuerySet[Study]:
    rows = rows.filter(~reading.is_read(reader), urgency=urgency).annotate(is_read=Value(False))
    if begin:
        same = Q(received_at=begin.received_at, pk__gt=begin.pk)
        rows = rows.filter(Q(received_at__gt=begin.received_at) | same)
    return rows.order_by("received_at", "pk")


def _read(
    rows: QuerySet[Study], urgency: int, reader: User, begin: _Place | None
) -> QuerySet[Study]:
    rows = rows.filter(marks__reader=reader, marks__current=True, marks__urgency=urgency)
    rows = rows.annotate(is_read=Value(True))
    if begin:
        same = Q(marks__received_at=begin.received_at, marks__study__lt=begin.pk)
        rows = rows.filter(Q(marks__received_at__lt=begin.received_at) | same)
    return rows.order_by("-marks__received_at", "-marks__study")


def _mark(study: Study) -> str:
    since = study.received_at - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    return f"{study.urgency}.{study.is_read:d}.{micros}.{study.pk}"


def _place(after: str) -> _Place | None:
    words = after.split(".")
    if len(words) != 4 or not all(w.isascii() and w.isdecimal() and len(w) < 19 for w in words):
        return None
    urgency, is_read, micros, pk = map(int, words)
    try:
        seconds, rest = divmod(micros, 1_000_000)
        received_at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError, OSError):
        return None
    return _Place(urgency, bool(is_read), received_at, pk)


def outcomes() -> list[tuple[str, str, int]]:
    """Return each outcome: value, name, number of studies."""
    found = dict(Study.objects.shown().values_list("outcome").annotate(n=Count("pk")).order_by())
    return [(outcome.value, outcome.label, found.get(outcome.value, 0)) for outcome in Outcome]


def counts(reader: User) -> Counts:
    """Return how many studies there are, and how many of them are new to a reader."""
    rows = Study.objects.shown().values_list("outcome", "urgency").annotate(n=Count("pk"))
    found = list(rows.order_by())
    every = {rank: sum(n for _, urgency, n in found if urgency == rank) for rank in RANKS.values()}
    read = reading.read_by_urgency(reader)
    return Counts(
        outcomes=[(o.value, o.label, sum(n for v, _, n in found if v == o)) for o in Outcome],
        parts={(rank, True): read.get(rank, 0) for rank in every}
        | {(rank, False): n - read.get(rank, 0) for rank, n in every.items()},
    )


def modalities() -> list[str]:
    """Return the modalities there are."""
    rows = Study.objects.shown().exclude(modality="").order_by("modality")
    return list(rows.values_list("modality", flat=True).distinct())


def stamp(reader: User) -> str:
    """Return a text that changes whenever any row of the worklist does, as a reader sees it."""
    last = Study.objects.shown().aggregate(last=Max("changed_at"))["last"]
    return f"{last} {reading.latest(reader)}"
