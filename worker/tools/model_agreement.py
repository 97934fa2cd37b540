"""``limen model agreement``: what two models said of the studies that both looked at.

Told from the journal: what was shown to people, and what a bundle in shadow said. Studies are named
by their keys alone. Two opinions are on the same study when they are of the same revision, or of
two that had the same instances: a study that was replayed.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from limen import config
from limen.command import NOTICE
from limen.command.edge import OK, PARTIAL
from limen.command.screen import number, say, table
from limen.errors import ConfigError, LimenError
from limen.journal import Journal, Opinion
from limen.result import Outcome
from worker.tools.console import print_json

__all__ = ["Agreement", "Kappa", "Pair", "agreement", "kappa", "pairs"]

_Z: Final = 1.959964
"""Of a normal distribution: 95 % lie within so many standard deviations."""

_SHOWN: Final = 40
_WORDS = (Outcome.POSITIVE, Outcome.NEGATIVE)


@dataclass(frozen=True, slots=True)
class Pair:
    """What both said of one study."""

    study: str
    outcome_a: Outcome
    probability_a: float | None
    outcome_b: Outcome
    probability_b: float | None

    @property
    def difference(self) -> float | None:
        """B less A; None where one of them gave no probability."""
        if self.probability_a is None or self.probability_b is None:
            return None
        return self.probability_b - self.probability_a

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """What is looked at first: what A calls positive and B does not; then the other way."""
        lost = self.outcome_a is Outcome.POSITIVE
        new = self.outcome_b is Outcome.POSITIVE
        return not lost, not new, -abs(self.difference or 0.0)


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa of positive and negative, with its interval of 95 %.

    Attributes
    ----------
    value, low, high
        None where both say the same word of every study: chance alone would agree as well.
    observed
        The share of studies of which both say the same, 0..1.
    studies
        Those of which both say positive or negative.
    """

    value: float | None
    low: float | None
    high: float | None
    observed: float
    studies: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two models said of the same studies."""

    pairs: tuple[Pair, ...]
    kappa: Kappa | None

    @property
    def disagreeing(self) -> list[Pair]:
        """Those of which they say different things, the worst first."""
        return sorted((p for p in self.pairs if p.outcome_a is not p.outcome_b), key=_rank)

    @property
    def table(self) -> Counter[tuple[Outcome, Outcome]]:
        """How many studies A calls this and B that."""
        return Counter((p.outcome_a, p.outcome_b) for p in self.pairs)

    @property
    def differences(self) -> list[float]:
        """Probability of B less that of A, of each study with both."""
        return [p.difference for p in self.pairs if p.difference is not None]


def agreement(args: argparse.Namespace) -> int:
    """Show how two models agree.

    Returns
    -------
    int
        0; 5 where no study was seen by both.
    """
    settings = config.load(args.config)
    if args.a == args.b:
        raise ConfigError(f"{args.a} agrees with itself; name two, as heads@1.0 heads@2.0")
    journal = Journal(settings.journal_url)
    try:
        journal.migrate()
        sides = [_of(journal, named) for named in (args.a, args.b)]
    finally:
        journal.close()
    found = tuple(pairs(*sides))
    made = Agreement(found, kappa(found))
    if args.json:
        print_json({"a": args.a, "b": args.b, **_tree(made)})
    else:
        _show(args.a, args.b, made)
    return OK if found else PARTIAL


def _of(journal: Journal, named: str) -> list[Opinion]:
    """Return what ``NAME`` or ``NAME@VERSION`` said."""
    name, _, version = named.partition("@")
    every = journal.events.opinions(name)
    found = [one for one in every if version in {"", one.version}]
    if found:
        return found
    known = Counter(one.version for one in every)
    there = ", ".join(f"{name}@{v} ({n} studies)" for v, n in sorted(known.items()))
    hint = f"; there are {there}" if there else "; a route in shadow lets a bundle look beside it"
    raise LimenError(f"the journal has no result of {named}{hint}")


def pairs(a: Sequence[Opinion], b: Sequence[Opinion]) -> Iterator[Pair]:
    """Yield what both said last of the same instances, by study."""
    last_b = {(one.study_key, one.instances): one for one in b}
    last_a = {(one.study_key, one.instances): one for one in a}
    newest = {key: instances for key, instances in last_a if (key, instances) in last_b}
    for key, instances in newest.items():
        one, other = last_a[key, instances], last_b[key, instances]
        yield Pair(key, one.outcome, one.probability, other.outcome, other.probability)


def kappa(found: Sequence[Pair]) -> Kappa | None:
    """Return Cohen's kappa (1960) of positive and negative; None where no study has both words.

    The interval is that of Wilson (1927) for the observed agreement, with the agreement by chance
    held: it does not shrink to nothing where few studies all agree.
    """
    words = [p for p in found if p.outcome_a in _WORDS and p.outcome_b in _WORDS]
    count = len(words)
    if not count:
        return None
    same = sum(p.outcome_a is p.outcome_b for p in words) / count
    positive_a = sum(p.outcome_a is Outcome.POSITIVE for p in words) / count
    positive_b = sum(p.outcome_b is Outcome.POSITIVE for p in words) / count
    chance = positive_a * positive_b + (1 - positive_a) * (1 - positive_b)
    if chance == 1:
        return Kappa(None, None, None, same, count)

    def beyond_chance(share: float) -> float:
        return (share - chance) / (1 - chance)

    low, high = (beyond_chance(share) for share in _wilson(same, count))
    return Kappa(beyond_chance(same), low, high, same, count)


def _wilson(share: float, count: int) -> tuple[float, float]:
    middle = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    whole = 1 + _Z**2 / count
    return (middle - half) / whole, (middle + half) / whole


def _rank(pair: Pair) -> tuple[bool, bool, float]:
    return pair.rank


def _tree(made: Agreement) -> dict[str, Any]:
    differences = made.differences
    return {
        "studies": len(made.pairs),
        "table": [
            {"a": a.value, "b": b.value, "studies": n} for (a, b), n in sorted(made.table.items())
        ],
        "kappa": asdict(made.kappa) if made.kappa else None,
        "difference": {
            "studies": len(differences),
            "mean": _mean(differences),
            "mean_absolute": _mean([abs(d) for d in differences]),
            "largest": max(differences, key=abs, default=None),
        },
        "disagreeing": [{**asdict(p), "difference": p.difference} for p in made.disagreeing],
    }


def _show(a: str, b: str, made: Agreement) -> None:
    count = len(made.pairs)
    say(f"A: {a}\nB: {b}\n{count} {'study was' if count == 1 else 'studies were'} seen by both")
    if not made.pairs:
        return
    heads = [o for o in Outcome if any(o in pair for pair in made.table)]
    say("")
    table(
        ["A \\ B", *map(_word, heads)],
        [(_word(row), *(str(made.table[row, column]) for column in heads)) for row in heads],
    )
    say("")
    say(_kappa_in_words(made.kappa))
    differences = made.differences
    if differences:
        say(
            f"probability, B - A, of {len(differences)}: mean {_mean(differences):+.4f}, mean size "
            f"{_mean([abs(d) for d in differences]):.4f}, largest "
            f"{max(differences, key=abs):+.4f}"
        )
    _show_disagreeing(made.disagreeing)
    say(NOTICE)


def _show_disagreeing(found: Sequence[Pair]) -> None:
    lost = sum(p.outcome_a is Outcome.POSITIVE for p in found)
    new = sum(p.outcome_b is Outcome.POSITIVE for p in found)
    if not found:
        say("they say the same of each")
        return
    say(
        f"they say different things of {len(found)}: {lost} that A calls positive and B does not, "
        f"{new} the other way"
    )
    say("")
    table(
        ["study", "A", "", "B", ""],
        [
            (
                p.study,
                *(_word(p.outcome_a), number(p.probability_a, "{:.3f}")),
                *(_word(p.outcome_b), number(p.probability_b, "{:.3f}")),
            )
            for p in found[:_SHOWN]
        ],
    )
    if len(found) > _SHOWN:
        say(f"... and {len(found) - _SHOWN} more; --json has all")


def _kappa_in_words(found: Kappa | None) -> str:
    if found is None:
        return "kappa: there is no study of which both say positive or negative"
    of = f"of {found.studies} that both call positive or negative"
    if found.value is None or found.low is None or found.high is None:
        return f"kappa {of}: not defined, both say the same of every study"
    return (
        f"kappa {found.value:.2f} (95 % interval {found.low:.2f} to {found.high:.2f}) {of}; they "
        f"say the same of {found.observed:.1%}"
    )


def _word(outcome: Outcome) -> str:
    return outcome.value.replace("_", " ")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
