"""limen.orders: of what a results server answers, two actions are taken, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from limen import orders

GOOD = {"id": 1, "action": "retry", "key": "k", "reason": "r", "who": "w"}


def test_an_order_is_read() -> None:
    assert list(orders.read({"orders": [GOOD]})) == [orders.Order(1, "retry", "k", "r", "w")]


@pytest.mark.parametrize(
    "answered",
    [
        None,
        [],
        {"status": "ok"},
        {"orders": "retry"},
        {"orders": ["retry", None, 7]},
        {"orders": [{**GOOD, "action": "purge"}]},
        {"orders": [{**GOOD, "action": ["retry"]}]},
        {"orders": [{**GOOD, "id": "1"}, {**GOOD, "id": True}]},
        {"orders": [{**GOOD, "key": "k" * 501}, {**GOOD, "who": None}]},
        {"orders": [{"id": 1}]},
    ],
)
def test_what_is_no_order_is_left_out(answered: Any) -> None:
    assert list(orders.read(answered)) == []


def test_at_most_fifty_orders_are_taken_at_once() -> None:
    assert len(list(orders.read({"orders": [GOOD] * 60}))) == 50
