"""The operations page: how the nodes stand, and orders that they fetch.

A receiver tells how its node stands with each bulletin (``limen.operations``), and is handed in the
answer what somebody asked it for: dead work again, or never. What became of it comes with its next.
Orders stay as the record of who asked for what, when and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework import serializers

from web.results.models import Bulletin, Node, Order

__all__ = [
    "AnswerSerializer",
    "Host",
    "OperationsSerializer",
    "ReplySerializer",
    "answered",
    "ask",
    "deployed",
    "hosts",
    "waiting",
]

REASON_LENGTH = 300
_SHOWN = timedelta(days=7)
_MOST_ORDERS = 50
_LENGTH = 500
_NUMBER = {"min_value": 0, "max_value": 2**63 - 1}


class LaneSerializer(serializers.Serializer):
    """A queue, or a destination."""

    name = serializers.CharField(max_length=64)
    queued = serializers.IntegerField(**_NUMBER)
    running = serializers.IntegerField(**_NUMBER)
    dead = serializers.IntegerField(**_NUMBER)
    sent = serializers.IntegerField(**_NUMBER)
    oldest_s = serializers.FloatField()
    away_s = serializers.FloatField(allow_null=True)
    unwelcome = serializers.CharField(allow_blank=True, max_length=_LENGTH)


class DeadSerializer(serializers.Serializer):
    """Work that was given up."""

    key = serializers.CharField(max_length=200)
    lane = serializers.CharField(max_length=64)
    attempts = serializers.IntegerField(**_NUMBER)
    error = serializers.CharField(allow_blank=True, max_length=_LENGTH)


class WorkerSerializer(serializers.Serializer):
    """A worker."""

    name = serializers.CharField(max_length=300)
    version = serializers.CharField(allow_blank=True, max_length=64)
    lanes = serializers.ListField(child=serializers.CharField(max_length=64), max_length=100)
    started_at = serializers.DateTimeField()
    seen_s = serializers.FloatField()
    late = serializers.BooleanField()


class ModelSerializer(serializers.Serializer):
    """A version of a model that serves, or is to: how it stands, since when and by whose word."""

    name = serializers.CharField(max_length=64)
    version = serializers.CharField(max_length=64)
    state = serializers.CharField(max_length=16)
    looks_at = serializers.CharField(allow_blank=True, max_length=64)
    since = serializers.DateTimeField()
    by = serializers.CharField(allow_blank=True, max_length=200)
    note = serializers.CharField(allow_blank=True, max_length=_LENGTH)
    ready = serializers.IntegerField(**_NUMBER)
    workers = serializers.IntegerField(**_NUMBER)


class DiskSerializer(serializers.Serializer):
    """Room of the spool, in bytes; below ``least`` senders are refused."""

    total = serializers.IntegerField(**_NUMBER)
    free = serializers.IntegerField(**_NUMBER)
    least = serializers.IntegerField(**_NUMBER)


class PeerSerializer(serializers.Serializer):
    """A sender, and when it last sent something new."""

    name = serializers.CharField(max_length=64)
    last_at = serializers.DateTimeField(allow_null=True)


class OperationsSerializer(serializers.Serializer):
    """How a node stands."""

    lanes = LaneSerializer(many=True, max_length=100)
    dead = DeadSerializer(many=True, max_length=100)
    workers = WorkerSerializer(many=True, max_length=100)
    models = ModelSerializer(many=True, max_length=100, required=False)
    disk = DiskSerializer(allow_null=True)
    peers = PeerSerializer(many=True, max_length=100)


class AnswerSerializer(serializers.Serializer):
    """What became of an order."""

    id = serializers.IntegerField(**_NUMBER)
    done = serializers.BooleanField()
    text = serializers.CharField(allow_blank=True, max_length=_LENGTH)


class OrderSerializer(serializers.ModelSerializer):
    """What a receiver is asked for."""

    class Meta:
        """An order that has no answer yet."""

        model = Order
        fields = ("id", "action", "key", "reason", "who")


class ReplySerializer(serializers.Serializer):
    """What a bulletin is answered."""

    status = serializers.CharField()
    orders = OrderSerializer(many=True)


@dataclass(frozen=True, slots=True)
class Host:
    """A receiver, as it told last.

    Attributes
    ----------
    told
        See ``OperationsSerializer``; empty where its node is too old to tell.
    orders
        Of the last week, the latest first.
    """

    bulletin: Bulletin
    told: Mapping[str, Any]
    orders: list[Order]

    @property
    def is_silent(self) -> bool:
        """Tell whether it has told nothing for two minutes."""
        return self.bulletin.told_at < timezone.now() - timedelta(minutes=2)

    @property
    def dead(self) -> list[dict[str, Any]]:
        """Return the dead work, and whether something was asked for that is not done yet."""
        asked = {order.key: order for order in self.orders if order.done_at is None}
        return [{**one, "asked": asked.get(one["key"])} for one in self.told.get("dead", [])]

    @property
    def workers(self) -> list[dict[str, Any]]:
        """Return the workers; when each was seen is a time."""
        at = self.bulletin.told_at
        return [
            {**one, "seen_at": at - timedelta(seconds=min(max(one["seen_s"], 0), 1e9))}
            for one in self.told.get("workers", [])
        ]

    @property
    def peers(self) -> list[tuple[str, datetime | None]]:
        """Return the senders, and when each last sent something new."""
        listed = self.told.get("peers", [])
        return [(p["name"], parse_datetime(p["last_at"]) if p["last_at"] else None) for p in listed]


def hosts() -> list[Host]:
    """Return every receiver that told something within a week."""
    since = timezone.now() - _SHOWN
    asked = list(Order.objects.filter(asked_at__gt=since).order_by("-asked_at"))
    rows = Bulletin.objects.filter(told_at__gt=since).select_related("node").order_by("host")
    return [
        Host(
            row,
            row.operations,
            [o for o in asked if (o.node_id, o.host) == (row.node_id, row.host)],
        )
        for row in rows
    ]


def deployed() -> list[dict[str, Any]]:
    """Return which versions of models look at studies, or are to, as each node told last."""
    last: dict[int, Host] = {}
    for host in hosts():  # receivers of a node share a journal: who told last is right
        known = last.setdefault(host.bulletin.node_id, host)
        if host.bulletin.told_at > known.bulletin.told_at:
            last[host.bulletin.node_id] = host
    return [
        {**one, "node": host.bulletin.node.name, "since": parse_datetime(one["since"])}
        for host in last.values()
        for one in host.told.get("models", [])
    ]


def ask(bulletin: Bulletin, who: User, action: str, key: str, reason: str) -> Order:
    """Ask a receiver for dead work again, or never.

    Raises
    ------
    ValueError
        There is no such action, nothing dead of that key, no reason to discard it, or it was
        asked for already.
    """
    reason = " ".join(reason.replace("\x00", "").split())[:REASON_LENGTH]
    if action not in Order.Action.values:
        raise ValueError(f"an action is one of {', '.join(Order.Action.values)}")
    if not any(one["key"] == key for one in bulletin.operations.get("dead", [])):
        raise ValueError("this work is not dead any more; load the page again")
    if not reason:
        raise ValueError("say why: it is kept with your name")
    try:
        with transaction.atomic():
            return Order.objects.create(
                node=bulletin.node, host=bulletin.host, action=action, key=key, reason=reason,
                who=who.get_username(), asked_at=timezone.now(),
            )  # fmt: skip
    except IntegrityError as exc:
        raise ValueError("this was asked for already, and the node has not answered yet") from exc


def answered(node: Node, host: str, answers: Iterable[Mapping[str, Any]]) -> None:
    """Keep what became of orders; what was told before stays."""
    for answer in answers:
        Order.objects.filter(pk=answer["id"], node=node, host=host, done_at=None).update(
            done_at=timezone.now(), done=answer["done"], text=answer["text"].replace("\x00", "")
        )


def waiting(node: Node, host: str) -> list[Order]:
    """Return what a receiver is asked for and has not answered, the oldest first."""
    rows = Order.objects.filter(node=node, host=host, done_at=None).order_by("pk")
    return list(rows[:_MOST_ORDERS])
