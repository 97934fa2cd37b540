"""A test study, sent to our own receiver and followed to the results server."""

from __future__ import annotations

from collections.abc import Iterator

from limen.doctor import trial
from limen.doctor.check import Finding, Node, failed, ok, skipped, warning
from limen.doctor.trial import Arrived, Head, NotArrived

__all__ = ["study"]

_FOLLOWED_S = 40.0
_EXPECTED = "positive"


def study(node: Node) -> Iterator[Finding]:
    """Send a synthetic head that bleeds; follow it to its prediction and its delivery."""
    why_not = trial.cannot(node)
    if why_not is not None:
        yield skipped(*why_not)
        return
    try:
        sent = trial.send(node, Head.BLEED)
        with node.journal() as journal:
            arrived = trial.follow(node, journal, sent, _FOLLOWED_S)
    except NotArrived as exc:
        yield failed(str(exc), exc.next)
    else:
        yield _judge(node, arrived)


def _judge(node: Node, arrived: Arrived) -> Finding:
    said = (
        f"test study {arrived.study_key[:12]}: {arrived.outcome} {arrived.predicted_s:.1f} s after "
        f"its last image, delivered in {arrived.delivered_s:.1f} s"
    )
    if arrived.outcome == _EXPECTED or not trial.knows_the_truth(node):
        return ok(said)
    return warning(
        f"{said}; it shows a large bleed, and should be {_EXPECTED}: {arrived.reason}",
        "look whether a [[route]] takes CT heads, and at the bundle: `limen model check ich`",
    )
