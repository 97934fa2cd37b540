"""What a reader asks of the worklist: the words of its address, and which rows they choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, timedelta
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from web.results import names, place
from web.results.models import Outcome, Phase, Study
from web.results.summary import URGENT

__all__ = ["STATES", "WITHIN", "Filter", "UnknownFilter", "search"]

WITHIN = {"24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
WAITING = "waiting"
STATES = {
    WAITING: "Without a result",
    Phase.PREDICTION.value: Phase.PREDICTION.label,
    Phase.EXPLANATION.value: Phase.EXPLANATION.label,
}
_SWITCH = ["1"]
_MODALITY_LENGTH = 16
_SEARCH_LENGTH = 200


class UnknownFilter(ValueError):
    """An address asks for what the worklist does not have; the text says what it has."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What the reader asked for; the same words as in the address, and empty where there are none.

    Attributes
    ----------
    unread, mine
        "1": only what this reader has not read; only what they have opened or voted on.
    received
        Within which time it came.
    date
        Day of the study, ``YYYY-MM-DD``.
    after
        Place of the last row of the page before (``web.results.place``).
    """

    unread: str = ""
    mine: str = ""
    outcome: str = ""
    state: str = ""
    modality: str = ""
    received: str = ""
    date: str = ""
    q: str = ""
    after: str = ""

    @classmethod
    def read(cls, query: QueryDict) -> Filter:
        """Read a filter from an address.

        Raises
        ------
        UnknownFilter
            It has a name or a value that means nothing: to show every study in place of those that
            were asked for would look like an answer.
        """
        known = [field.name for field in fields(cls)]
        for name in query:
            if name not in known:
                raise UnknownFilter(
                    f"The worklist has no filter of that name; it has {', '.join(known[:-1])}."
                )
            if len(query.getlist(name)) > 1:
                raise UnknownFilter(f"The filter {name} is given twice; give it once.")
        found = cls(**{name: query[name].strip() for name in known if name in query})
        found._refuse_unknown()
        return found

    def _refuse_unknown(self) -> None:
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value and value not in allowed:
                raise UnknownFilter(
                    f"The filter {name} does not know this value; it knows {', '.join(allowed)}."
                )
        for name, length in (("modality", _MODALITY_LENGTH), ("q", _SEARCH_LENGTH)):
            if len(getattr(self, name)) > length:
                raise UnknownFilter(f"The filter {name} takes at most {length} characters.")
        if self.date and _day(self.date) is None:
            raise UnknownFilter("The filter date takes a day, as YYYY-MM-DD.")
        self._refuse_unknown_place()

    def _refuse_unknown_place(self) -> None:
        try:
            if self.after:
                place.Place.read(self.after)
        except ValueError as exc:
            raise UnknownFilter(
                "No page of this list begins there; begin again at its first page."
            ) from exc

    @property
    def is_active(self) -> bool:
        """Tell whether some studies may be hidden by it."""
        return self.address() != "/"

    @property
    def counts_alone_tell(self) -> bool:
        """Tell whether the counts of all studies say how many it chooses (``unread`` aside)."""
        return not (self.q or self.date or self.received or self.mine)

    @property
    def is_waiting(self) -> bool:
        """Tell whether only what has no result is asked for."""
        return self.state == WAITING

    def address(self, **changes: str) -> str:
        """Return the address of the worklist with this filter, changed."""
        changed = replace(self, **{"after": "", **changes})
        words = {f.name: value for f in fields(self) if (value := getattr(changed, f.name))}
        return "/" + (f"?{urlencode(words)}" if words else "")

    def others(self, *names: str) -> list[tuple[str, str]]:
        """Return the words of this filter but those named, for the hidden fields of a form."""
        names = (*names, "after")
        return [
            (f.name, value)
            for f in fields(self)
            if f.name not in names and (value := getattr(self, f.name))
        ]

    @property
    def kind(self) -> dict[str, str | int]:
        """Return the columns that it wants to be equal to something, and to what.

        Positive are all that wait among the positive: nobody who looks for bleeding patients
        should miss one because one slice could not be read.
        """
        named = {"outcome": self.outcome, "phase": self.state, "modality": self.modality}
        wanted: dict[str, str | int] = {name: value for name, value in named.items() if value}
        if self.outcome == Outcome.POSITIVE:
            del wanted["outcome"]
            wanted["urgency"] = URGENT
        return wanted

    @property
    def since(self) -> datetime | None:
        """Return since when it wants studies to have come."""
        return timezone.now() - WITHIN[self.received] if self.received else None

    def rows(self) -> QuerySet[Study]:
        """Return the studies that it chooses, but for ``unread`` and ``mine``, in no order."""
        rows = Study.objects.shown().filter(search(self.q), **self.kind)
        if self.date:
            rows = rows.filter(study_date=self.date.replace("-", ""))
        return rows.filter(received_at__gt=self.since) if self.received else rows


_ALLOWED: Mapping[str, list[str]] = {
    "unread": _SWITCH,
    "mine": _SWITCH,
    "outcome": list(Outcome.values),
    "state": list(STATES),
    "received": list(WITHIN),
}


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if text == day.isoformat() else None


def search(text: str) -> Q:
    """Return the condition that every word of a search is found."""
    words = names.fold(text)
    if text.strip() and not words:
        return Q(pk__in=[])
    condition = Q()
    for word in words:
        condition &= Q(search__contains=word)
    return condition
