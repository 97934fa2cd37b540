"""A webhook: a signed POST of a few lines for each result, for whoever wants to know of it at once.

What was found, and which study it is (StudyInstanceUID, accession number); no name, no patient ID,
no picture. The rest is to be had from the results server, by its API.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from limen.errors import Rejected, Unwelcome
from limen.result import Phase, Result
from limen.webhook import Webhook
from worker.destinations import ARRIVED, Parcel, Receipt
from worker.destinations.sequence import Sequence, is_urgent

__all__ = ["WebhookDestination", "body"]


class WebhookDestination:
    """A place that takes signed messages.

    Parameters
    ----------
    name
        What people call it.
    node
        Who we are.
    webhook
        How to get there.
    sequence
        Which messages go, and in which order.
    """

    def __init__(self, name: str, node: str, webhook: Webhook, sequence: Sequence) -> None:
        self._name = name
        self._node = node
        self._webhook = webhook
        self._sequence = sequence

    def deliver(self, parcel: Parcel) -> Receipt:
        """Post what was found; each try has the same ``webhook-id``. See ``Destination``."""
        standing = self._sequence.admit(parcel)
        if isinstance(standing, Receipt):
            return standing
        assert parcel.result is not None  # noqa: S101 - admit looked at it
        try:
            self._webhook.post(parcel.delivery, body(parcel.result, self._node))
        except Unwelcome as exc:
            raise Unwelcome(f"{exc}; then `limen retry {self._name}`") from exc
        except Rejected as exc:
            raise Rejected(f"{exc}; when it takes it, `limen retry {parcel.delivery}`") from exc
        self._sequence.sent(parcel)
        return ARRIVED


def body(result: Result, node: str) -> bytes:
    """Return what is told of a result, UTF-8 JSON: the same bytes each time."""
    study, finding, model = result.study, result.finding, result.model
    explained = result.phase is Phase.EXPLANATION
    told: dict[str, Any] = {
        "type": _type(result),
        "timestamp": (result.timings.explained if explained else result.timings.predicted)
        or result.timings.complete,
        "data": {
            "node": node,
            "study_uid": study.study_uid,
            "accession": study.accession,
            "revision": result.revision,
            "phase": result.phase.value,
            "outcome": result.outcome.value,
            "look_first": is_urgent(result),
            "final": explained or not result.wants_explanation,
            "finding": asdict(finding) if finding else None,
            "model": {"name": model.name, "version": model.version, "sha256": model.sha256}
            if model
            else None,
            "explained_slices": len(result.explanations),
            "timings": asdict(result.timings),
            "notice": result.provenance.notice,
        },
    }
    return json.dumps(told, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()


def _type(result: Result) -> str:
    if result.phase is Phase.EXPLANATION:
        return "result.explanation"
    return "result.finding" if result.revision == 1 else "result.revision"
