"""What somebody asked this node for on the results server: dead work again, or never.

The results server hands orders out in its answer to the bulletin, and hears what became of them in
the next. There are two actions and no more, on work that is dead here and now: an order that comes
twice finds nothing to do the second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from limen import again
from limen.config import Config
from limen.errors import LimenError, Transient
from limen.journal import Journal

__all__ = ["Answer", "Order", "carry_out", "read"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("limen.orders")

_ACTIONS = ("retry", "discard")
_MOST = 50
_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Order:
    """Something that is asked for.

    Attributes
    ----------
    id
        By which the results server knows it.
    who
        The account that asks.
    """

    id: int
    action: str
    key: str
    reason: str
    who: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order; ``text`` says it in words."""

    id: int
    done: bool
    text: str


def read(answered: Any) -> Iterator[Order]:
    """Yield the orders in an answer of the results server; what is none is left out."""
    listed = answered.get("orders") if isinstance(answered, dict) else None
    for one in listed[:_MOST] if isinstance(listed, list) else ():
        if not isinstance(one, dict) or one.get("action") not in _ACTIONS:
            continue
        number, words = one.get("id"), [one.get(name) for name in ("key", "reason", "who")]
        texts = [word for word in words if isinstance(word, str) and len(word) <= _LENGTH]
        if type(number) is int and len(texts) == len(words):
            yield Order(number, one["action"], *texts)


def carry_out(config: Config, journal: Journal, order: Order) -> Answer:
    """Do what an order asks for, and say what became of it.

    Raises
    ------
    Transient
        The journal is locked or away: it was not done, and is asked for again.
    """
    by = f"{order.who} (results server)"
    try:
        if not _is_dead(journal, order.key):
            raise LimenError(f"{order.key} is not dead any more")
        if order.action == "retry":
            text = again.retry(config, journal, order.key, by)
        else:
            text = again.discard(config, journal, order.key, reason=order.reason, by=by)
    except Transient:
        raise
    except LimenError as exc:
        return Answer(order.id, False, str(exc)[:_LENGTH])
    log.info("order.done", stage=order.action, job=order.key)
    return Answer(order.id, True, text[:_LENGTH])


def _is_dead(journal: Journal, key: str) -> bool:
    """Tell whether work is dead of a newest revision, or a destination rejects this node."""
    if any(name == key and lane.unwelcome for name, lane in journal.status.queues().items()):
        return True
    return any(work.key == key for work in journal.status.dead())
