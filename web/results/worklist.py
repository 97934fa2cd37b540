"""The worklist: which studies, in which order, one page at a time.

The order is that of urgency; within one, first what the reader has not read, who waits longest
first, then what they have read, the latest first (``web.results.place``).

A page of the order costs little wherever it begins: what chooses few studies is found first and
put in order here, and what chooses many is met soon where the order is followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from django.contrib.auth.models import User
from django.db.models import Count, Max, Prefetch, Q, QuerySet, Value, prefetch_related_objects
from django.utils import timezone

from web.results import reading
from web.results.asked import SETTLED
from web.results.filters import Filter
from web.results.models import Outcome, Study, Vote
from web.results.place import Place
from web.results.summary import RANKS, URGENT

__all__ = ["PAGE", "Counts", "Page", "counts", "outcomes", "page", "stamp"]

PAGE = 50
# So many places are put in order in a few milliseconds.
FEW = 2000
_VOTES = Prefetch(
    "votes", Vote.objects.filter(current=True).select_related("reader"), to_attr="current_votes"
)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page, and where the next one begins."""

    studies: list[Study]
    next: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What studies that are counted together have in common."""

    outcome: str
    phase: str
    modality: str
    urgency: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many studies there are of each kind, and how many of each urgency a reader has read."""

    kinds: dict[Kind, int]
    read: dict[int, int]

    @property
    def outcomes(self) -> list[tuple[str, str, int]]:
        """Value, name and number of studies of each outcome."""
        return [(one.value, one.label, self.of(outcome=one.value)) for one in Outcome]

    @property
    def choices(self) -> list[tuple[str, str, int]]:
        """Value, name and number of studies of each outcome that the worklist can be asked for."""
        return [
            (value, name, self.of(urgency=URGENT) if value == Outcome.POSITIVE else number)
            for value, name, number in self.outcomes
        ]

    @property
    def modalities(self) -> list[str]:
        """The modalities there are."""
        return sorted({kind.modality for kind in self.kinds} - {""})

    @property
    def total(self) -> int:
        """All of them."""
        return self.of()

    @property
    def new(self) -> int:
        """How many the reader has not read."""
        return self.total - sum(self.read.values())

    @property
    def new_positive(self) -> int:
        """How many of those wait among the positive."""
        return self.unread(URGENT)

    def of(self, **wanted: str | int) -> int:
        """Return how many there are of some kinds."""
        return sum(
            number
            for kind, number in self.kinds.items()
            if all(getattr(kind, name) == value for name, value in wanted.items())
        )

    def unread(self, urgency: int) -> int:
        """Return how many of an urgency the reader has not read."""
        return self.of(urgency=urgency) - self.read.get(urgency, 0)


def page(chosen: Filter, reader: User, known: Counts) -> Page:
    """Return a page of the worklist as it is for a reader; what is empty is not looked at."""
    begin = Place.read(chosen.after) if chosen.after else None
    found: list[Study] = []
    if not chosen.is_waiting:
        found = list(islice(_Order(chosen, reader, known, begin).studies(), PAGE + 1))
    last = found[PAGE - 1] if len(found) > PAGE else None
    shown = found[:PAGE]
    prefetch_related_objects(shown, _VOTES)
    return Page(shown, str(Place.of(last, is_read=last.is_read)) if last else "")


class _Order:
    """What a filter chooses, in the order of the worklist, from a place on."""

    def __init__(self, chosen: Filter, reader: User, known: Counts, begin: Place | None) -> None:
        self._chosen = chosen
        self._reader = reader
        self._known = known
        self._begin = begin
        self._rows = chosen.rows()

    def studies(self) -> Iterator[Study]:
        """Yield at least a page and one more, where there are so many."""
        many = self._chosen.counts_alone_tell and self._known.of(**self._chosen.kind) > FEW
        few = None if many else self._few(self._theirs())
        if few is not None:
            yield from few
            return
        for urgency in sorted(RANKS.values()):
            if urgency != self._chosen.kind.get("urgency", urgency):
                continue
            most = self._known.of(**{**self._chosen.kind, "urgency": urgency})
            if not most or (self._begin and urgency < self._begin.urgency):
                continue
            few = self._few(self._theirs().filter(urgency=urgency)) if most <= FEW else None
            yield from self._follow(urgency) if few is None else few

    def _theirs(self) -> QuerySet[Study]:
        """Return the rows, found by the marks of the reader where those are asked for."""
        return self._rows.filter(marks__reader=self._reader) if self._chosen.mine else self._rows

    def _few(self, rows: QuerySet[Study]) -> Iterator[Study] | None:
        """Yield what follows of some rows, put in order here; None where they are too many."""
        rows = rows.annotate(is_read=reading.is_read(self._reader))
        listed = rows.values_list("urgency", "is_read", "received_at", "pk").order_by()[: FEW + 1]
        places = [Place(urgency, bool(is_read), at, pk) for urgency, is_read, at, pk in listed]
        if len(places) > FEW:
            return None
        if self._chosen.unread:
            places = [place for place in places if not place.is_read]
        if self._begin is not None:
            places = [place for place in places if place.order > self._begin.order]
        places.sort(key=lambda place: place.order)
        return self._at(places[: PAGE + 1])

    def _at(self, places: list[Place]) -> Iterator[Study]:
        found = Study.objects.defer("search").in_bulk([place.pk for place in places])
        for place in places:
            if place.pk in found:  # it may have gone meanwhile
                found[place.pk].is_read = place.is_read
                yield found[place.pk]

    def _follow(self, urgency: int) -> Iterator[Study]:
        """Yield the rows of an urgency in their order, each half by an index of its own."""
        begin = self._begin if self._begin and self._begin.urgency == urgency else None
        rows = self._rows.defer("search")
        if self._chosen.mine:
            rows = rows.filter(reading.is_theirs(self._reader))
        unread = self._known.unread(urgency)
        if unread > 0 and not (begin and begin.is_read):
            # Where no more are left to be found, the search for them ends.
            yield from self._unread(rows, urgency, begin)[: min(unread, PAGE + 1)]
        if self._known.read.get(urgency) and not self._chosen.unread:
            begin = begin if begin and begin.is_read else None
            yield from self._read(rows, urgency, begin)[: PAGE + 1]

    def _unread(self, rows: QuerySet[Study], urgency: int, begin: Place | None) -> QuerySet[Study]:
        rows = rows.filter(~reading.is_read(self._reader), urgency=urgency)
        if begin:
            same = Q(received_at=begin.received_at, pk__gt=begin.pk)
            rows = rows.filter(Q(received_at__gt=begin.received_at) | same)
        return rows.annotate(is_read=Value(False)).order_by("received_at", "pk")

    def _read(self, rows: QuerySet[Study], urgency: int, begin: Place | None) -> QuerySet[Study]:
        of_theirs = Q(marks__reader=self._reader, marks__current=True, marks__urgency=urgency)
        if self._chosen.since:  # of the study too, but there it does not end the way
            of_theirs &= Q(marks__received_at__gt=self._chosen.since)
        if begin:
            same = Q(marks__received_at=begin.received_at, marks__study__lt=begin.pk)
            of_theirs &= Q(marks__received_at__lt=begin.received_at) | same
        rows = rows.filter(of_theirs).annotate(is_read=Value(True))
        return rows.order_by("-marks__received_at", "-marks__study")


def outcomes() -> list[tuple[str, str, int]]:
    """Return each outcome: value, name, number of studies."""
    return Counts(_kinds(), {}).outcomes


def counts(reader: User) -> Counts:
    """Return how many studies there are, and how many of them a reader has read."""
    return Counts(_kinds(), dict(reading.read_by_urgency(reader)))


def _kinds() -> dict[Kind, int]:
    names = ("outcome", "phase", "modality", "urgency")
    rows = Study.objects.shown().values_list(*names).annotate(n=Count("pk")).order_by()
    return {Kind(*values): number for *values, number in rows}


def stamp(reader: User) -> str:
    """Return a text that changes whenever any row of the worklist does, as a reader sees it.

    Of two results that are stored side by side the earlier one may be there later: so it changes
    once more when the last change is settled.
    """
    changed = Study.objects.shown().aggregate(last=Max("changed_at"))["last"]
    read = reading.latest(reader)
    last = max((at for at in (changed, read) if at is not None), default=None)
    is_settled = last is None or timezone.now() - last > SETTLED
    return f"{changed} {read} {is_settled:d}"
