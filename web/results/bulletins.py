"""Bulletins: what receivers tell of studies without a result, and of what is not well there.

A receiver tells its whole picture (``limen.bulletin``); it takes the place of what it told before.
Where no receiver of a node has told anything for two minutes, everybody is told so: studies that
were sent meanwhile may be missing from the list. After a week without a word it is forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework import serializers

from web.results.models import Bulletin, Node, Outcome, Study
from web.results.operations import AnswerSerializer, OperationsSerializer

__all__ = [
    "Board",
    "BulletinSerializer",
    "Waiting",
    "awaits_more",
    "board",
    "reasons",
    "stamp",
    "tell",
]

_SILENT = timedelta(minutes=2)
_FORGOTTEN = timedelta(days=7)
_LATE = timedelta(minutes=15)
_MOST = 500
_TEXT_LENGTH = 2000
_STATES = {
    "receiving": "Arriving",
    "complete": "Waiting for the model",
    "predicted": "Result on its way",
}
_FIRST = {Outcome.POSITIVE.value: 0, Outcome.UNDETERMINED.value: 1}


class AwaitedSerializer(serializers.Serializer):
    """A study that came and has no result that people can read."""

    study_uid = serializers.RegexField(r"^[0-9]+(\.[0-9]+)*$", max_length=64)
    revision = serializers.IntegerField(min_value=1, max_value=2**31 - 1)
    accession = serializers.CharField(allow_blank=True, max_length=64)
    state = serializers.ChoiceField(choices=list(_STATES))
    outcome = serializers.ChoiceField(choices=Outcome.choices, allow_blank=True)
    images = serializers.IntegerField(min_value=0, max_value=2**31 - 1)
    received_at = serializers.DateTimeField()
    last_image_at = serializers.DateTimeField()


class AlarmSerializer(serializers.Serializer):
    """Something that is not well."""

    kind = serializers.CharField(max_length=16)
    about = serializers.CharField(max_length=255)
    text = serializers.CharField(max_length=_TEXT_LENGTH)


class BulletinSerializer(serializers.Serializer):
    """How a receiver stands."""

    host = serializers.CharField(max_length=255)
    alarms = AlarmSerializer(many=True, max_length=_MOST)
    awaited = AwaitedSerializer(many=True, max_length=_MOST)
    awaited_total = serializers.IntegerField(min_value=0, max_value=2**31 - 1)
    operations = OperationsSerializer(required=False)
    answers = AnswerSerializer(many=True, max_length=_MOST, required=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A study without a result, as readers are shown it.

    Attributes
    ----------
    key
        Of its page, where an earlier revision has one; else empty.
    late
        Whether it waits for longer than any study should.
    """

    key: str
    revision: int
    accession: str
    state: str
    outcome: str
    images: int
    received_at: datetime
    late: bool


@dataclass(frozen=True, slots=True)
class Board:
    """What all receivers tell together.

    Attributes
    ----------
    known
        Whether any receiver has told anything within a week.
    more
        How many studies wait beyond those in ``waiting``.
    silent
        Hosts that have told nothing for too long, and since when.
    """

    known: bool
    waiting: list[Waiting]
    more: int
    alarms: list[str]
    silent: list[tuple[str, datetime]]

    @property
    def late(self) -> int:
        """How many wait for longer than any study should."""
        return sum(one.late for one in self.waiting)


def tell(node: Node, told: Mapping[str, Any]) -> None:
    """Keep what a receiver tells, in place of what it told before."""
    values = {name: told[name] for name in ("alarms", "awaited", "awaited_total")}
    text = json.dumps(values, sort_keys=True).encode()
    values |= {
        "operations": told.get("operations") or {},
        "digest": hashlib.sha256(text).hexdigest(),
        "told_at": timezone.now(),
    }
    Bulletin.objects.update_or_create(node=node, host=told["host"], defaults=values)


def board() -> Board:
    """Return what is known of studies without a result, and of what is not well."""
    now = timezone.now()
    rows = list(Bulletin.objects.filter(told_at__gt=now - _FORGOTTEN).order_by("told_at"))
    last = {row.node_id: row for row in rows}
    # A host that a node no longer has, or that has another name now, tells nothing any more.
    rows = [row for row in rows if row.told_at >= now - _SILENT or row is last[row.node_id]]
    # Receivers that share a journal tell of the same studies: who told last is right.
    awaited = {one["study_uid"]: one for row in rows for one in row.awaited}
    known = {
        study_uid: (key, revision)
        for study_uid, key, revision in Study.objects.filter(study_uid__in=awaited).values_list(
            "study_uid", "key", "revision"
        )
    }
    waiting = []
    for study_uid, one in awaited.items():
        key, revision = known.get(study_uid, ("", 0))
        if revision < one["revision"]:
            waiting.append(_waiting(one, key, now))
    waiting.sort(key=lambda one: (_FIRST.get(one.outcome, 2), one.received_at))
    return Board(
        known=bool(rows),
        waiting=waiting,
        more=sum(row.awaited_total - len(row.awaited) for row in rows[-1:]),
        alarms=list(dict.fromkeys(alarm["text"] for row in rows for alarm in row.alarms)),
        silent=[(row.host, row.told_at) for row in rows if row.told_at < now - _SILENT],
    )


def awaits_more(study: Study) -> bool:
    """Tell whether images of a study came after its latest result, and have none yet."""
    rows = Bulletin.objects.filter(told_at__gt=timezone.now() - _FORGOTTEN)
    return any(
        one["study_uid"] == study.study_uid and one["revision"] > study.revision
        for awaited in rows.values_list("awaited", flat=True)
        for one in awaited
    )


def reasons() -> dict[str, int]:
    """Return what is not well: how often each kind of alarm is told, and how many are silent.

    Kinds alone, since anybody may ask: a text names hosts and destinations.
    """
    now = timezone.now()
    rows = Bulletin.objects.filter(told_at__gte=now - _SILENT)
    told = {
        (alarm["kind"], alarm["about"])
        for alarms in rows.values_list("alarms", flat=True)
        for alarm in alarms
    }
    found = Counter(kind for kind, _ in told)
    found["silent"] = len(board().silent)
    return {kind: count for kind, count in sorted(found.items()) if count}


def stamp() -> str:
    """Return a text that changes whenever the board does."""
    since = timezone.now() - _SILENT
    rows = Bulletin.objects.order_by("pk").values_list("digest", "told_at")
    return " ".join(f"{digest[:16]}{told_at < since:d}" for digest, told_at in rows)


def _waiting(one: Mapping[str, Any], key: str, now: datetime) -> Waiting:
    came = parse_datetime(one["received_at"])
    last = parse_datetime(one["last_image_at"])
    return Waiting(
        key=key,
        revision=one["revision"],
        accession=one["accession"],
        state=_STATES[one["state"]],
        outcome=one["outcome"],
        images=one["images"],
        received_at=came,
        late=now - last > _LATE,
    )
