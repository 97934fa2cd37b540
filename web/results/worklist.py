"""The worklist: which studies, in which order, one page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlencode

from django.db.models import Count, Max, Prefetch, Q, QuerySet
from django.http import QueryDict

from web.results.models import Outcome, Study, Vote
from web.results.names import fold

__all__ = ["PAGE", "Filter", "Page", "counts", "modalities", "page", "search", "stamp"]

PAGE = 50


@dataclass(frozen=True, slots=True)
class Filter:
    """What the reader asked for; the same words as in the address.

    Attributes
    ----------
    after
        Place of the last row of the page before, or empty.
    """

    outcome: str = ""
    modality: str = ""
    q: str = ""
    after: str = ""

    @classmethod
    def read(cls, query: QueryDict) -> Filter:
        """Read a filter from an address; a value that means nothing filters nothing."""
        outcome = query.get("outcome", "")
        return cls(
            outcome=outcome if outcome in Outcome.values else "",
            modality=query.get("modality", "")[:16],
            q=query.get("q", "")[:200].strip(),
            after=query.get("after", "")[:80],
        )

    @property
    def is_active(self) -> bool:
        """Tell whether some studies may be hidden by it."""
        return bool(self.outcome or self.modality or self.q)

    def address(self, **changes: str) -> str:
        """Return the address of the worklist with this filter, changed."""
        changed = replace(self, **{"after": "", **changes})
        names = ("outcome", "modality", "q", "after")
        words = {name: value for name in names if (value := getattr(changed, name))}
        return "/" + (f"?{urlencode(words)}" if words else "")


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page, and where the next one begins."""

    studies: list[Study]
    next: str


def search(text: str) -> Q:
    """Return the condition that every word of a search is found."""
    condition = Q()
    for word in fold(text).split():
        condition &= Q(search__contains=word)
    return condition


def page(chosen: Filter) -> Page:
    """Return a page of the worklist, most urgent first, then longest waiting."""
    rows = _filtered(chosen)
    place = _place(chosen.after)
    if place is not None:
        urgency, received_at, pk = place
        rows = rows.filter(
            Q(urgency__gt=urgency)
            | Q(urgency=urgency, received_at__gt=received_at)
            | Q(urgency=urgency, received_at=received_at, pk__gt=pk)
        )
    votes = Prefetch(
        "votes", Vote.objects.filter(current=True).select_related("reader"), to_attr="current_votes"
    )
    ordered = rows.order_by("urgency", "received_at", "pk").prefetch_related(votes)
    found = list(ordered.defer("search")[: PAGE + 1])
    last = found[PAGE - 1] if len(found) > PAGE else None
    return Page(found[:PAGE], _mark(last) if last else "")


def _filtered(chosen: Filter) -> QuerySet[Study]:
    rows = Study.objects.shown().filter(search(chosen.q))
    if chosen.outcome:
        rows = rows.filter(outcome=chosen.outcome)
    if chosen.modality:
        rows = rows.filter(modality=chosen.modality)
    return rows


def _mark(study: Study) -> str:
    since = study.received_at - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    return f"{study.urgency}.{micros}.{study.pk}"


def _place(after: str) -> tuple[int, datetime, int] | None:
    words = after.split(".")
    if len(words) != 3 or not all(w.isascii() and w.isdecimal() and len(w) < 19 for w in words):
        return None
    urgency, micros, pk = map(int, words)
    try:
        seconds, rest = divmod(micros, 1_000_000)
        received_at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError, OSError):
        return None
    return min(urgency, 2**31 - 1), received_at, pk


def counts() -> Iterator[tuple[str, str, int]]:
    """Yield each outcome: value, name, number of studies."""
    found = dict(Study.objects.shown().values_list("outcome").annotate(n=Count("pk")).order_by())
    for outcome in Outcome:
        yield outcome.value, outcome.label, found.get(outcome.value, 0)


def modalities() -> list[str]:
    """Return the modalities there are."""
    rows = Study.objects.shown().exclude(modality="").order_by("modality")
    return list(rows.values_list("modality", flat=True).distinct())


def stamp() -> str:
    """Return a text that changes whenever any row of the worklist does."""
    found = Study.objects.shown().aggregate(last=Max("changed_at"), n=Count("pk"))
    return f"{found['n']}-{found['last']}"
