"""Refusals: what one association was refused, counted, and told in one line when it is over.

A sender that goes on after each refusal would else fill the log with a line for each instance.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["Refusals"]

_KINDS = 10
_OTHER = "other reasons"


class Refusals:
    """Counts by event, status and reason; used by the thread of the association alone."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int, str]] = Counter()

    def note(self, event: str, status: int, reason: str) -> bool:
        """Count an answer that is not Success; return whether it is the first of its kind."""
        kind = (event, status, reason)
        if kind not in self._counts and len(self._counts) >= _KINDS:
            kind = (event, status, _OTHER)
        self._counts[kind] += 1
        return self._counts[kind] == 1

    def tell(self, log: Any) -> None:
        """Log one warning for each event: how many, which status, and why; the most common first.

        Parameters
        ----------
        log
            Says of each line which association it is about.
        """
        for event in sorted({event for event, _, _ in self._counts}):
            found = [(s, r, n) for (e, s, r), n in self._counts.most_common() if e == event]
            several = len(found) > 1
            log.warning(
                event,
                count=sum(number for _, _, number in found),
                status=" ".join(dict.fromkeys(f"0x{status:04X}" for status, _, _ in found)),
                reason="; ".join(f"{r} ({n})" if several else r for _, r, n in found),
            )
