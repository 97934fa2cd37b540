"""How results stand in a PACS: told by the node, shown on the page of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.conf import settings
from rest_framework import serializers

from web.results.models import PacsDelivery, Phase

__all__ = ["PacsDeliverySerializer", "Placement", "placements", "tell", "viewer_address"]

_NAMES = {
    "sr": "report",
    "seg": "segmentation",
    "sc": "secondary capture",
    "ko": "key objects",
    "pm": "saliency map",
    "pr": "presentation state",
}
_WORDS = {
    "queued": "on its way",
    "running": "on its way",
    "sent": "sent, not yet vouched for",
    "committed": "committed",
    "done": "sent",
    "dead": "given up",
    "discarded": "given up by a person",
    "rejected": "rejects this node",
    "waiting": "waiting",
    "lost": "not kept, sent again",
    "refused": "refused",
}
_OBJECT_LIMIT = 5000
_TEXT_LENGTH = 2000


class ObjectSerializer(serializers.Serializer):
    """One DICOM object of a delivery."""

    kind = serializers.ChoiceField(choices=list(_NAMES))
    state = serializers.CharField(max_length=16)
    reason = serializers.CharField(allow_blank=True, max_length=_TEXT_LENGTH)


class PacsDeliverySerializer(serializers.Serializer):
    """How the delivery of one phase of a study to one PACS stands."""

    study_uid = serializers.RegexField(r"^[0-9]+(\.[0-9]+)*$", max_length=64)
    revision = serializers.IntegerField(min_value=1, max_value=2**31 - 1)
    phase = serializers.ChoiceField(choices=Phase.choices)
    destination = serializers.RegexField(r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    state = serializers.CharField(max_length=16)
    reason = serializers.CharField(allow_blank=True, max_length=_TEXT_LENGTH)
    objects = ObjectSerializer(many=True, max_length=_OBJECT_LIMIT)


@dataclass(frozen=True, slots=True)
class Placement:
    """One delivery as readers are shown it.

    Attributes
    ----------
    objects
        Pairs of what stands so (``committed: report, 2 secondary captures``), and why.
    """

    destination: str
    phase: str
    state: str
    reason: str
    objects: list[tuple[str, str]]


def tell(told: Mapping[str, Any]) -> None:
    """Keep what a node says of a delivery, in place of what it said before."""
    key = {name: told[name] for name in ("study_uid", "revision", "phase", "destination")}
    values = {
        "state": told["state"],
        "reason": told["reason"],
        "objects_told": [dict(one) for one in told["objects"]],
    }
    PacsDelivery.objects.update_or_create(**key, defaults=values)


def placements(study_uid: str, revision: int) -> list[Placement]:
    """Return how a revision of a study stands in every PACS."""
    rows = PacsDelivery.objects.filter(study_uid=study_uid, revision=revision)
    return [
        Placement(
            destination=row.destination,
            phase=row.get_phase_display(),
            state=_WORDS.get(row.state, row.state),
            reason=row.reason,
            objects=_grouped(row.objects_told),
        )
        for row in rows.order_by("destination", "-phase")
    ]


def viewer_address(study_uid: str) -> str:
    """Return where the viewer of the PACS shows a study; empty where none is configured."""
    return settings.VIEWER_URL.replace("{study_uid}", quote(study_uid))


def _grouped(told: list[dict[str, str]]) -> list[tuple[str, str]]:
    groups: dict[tuple[str, str], Counter[str]] = {}
    for one in told:
        group = groups.setdefault((one["state"], one["reason"]), Counter())
        group[_NAMES.get(one["kind"], one["kind"])] += 1
    return [
        (
            f"{_WORDS.get(state, state)}: "
            + ", ".join(name if n == 1 else f"{name} ({n})" for name, n in sorted(kinds.items())),
            reason,
        )
        for (state, reason), kinds in sorted(groups.items())
    ]
