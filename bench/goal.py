"""What a benchmark aims at, and what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Goal", "at_least", "at_most", "tell"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One number against what it should be."""

    name: str
    goal: str
    measured: float
    ok: bool


def at_least(name: str, goal: float, measured: float) -> Goal:
    """Return a goal that is reached from below."""
    return Goal(name, f">= {goal:g}", round(measured, 3), measured >= goal)


def at_most(name: str, goal: float, measured: float) -> Goal:
    """Return a goal that is reached from above."""
    return Goal(name, f"<= {goal:g}", round(measured, 3), measured <= goal)


def tell(goals: Sequence[Goal], quick: bool) -> None:
    """Print each goal with its verdict."""
    print("\ngoals" + (" (--quick: a check that this runs, no measurement)" if quick else ""))
    width = max(len(goal.name) for goal in goals)
    for goal in goals:
        verdict = "ok" if goal.ok else "missed"
        print(f"{verdict:<7} {goal.name:<{width}} {goal.goal:>8}  {goal.measured:g}", flush=True)
