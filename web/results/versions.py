"""Versions of models that results came from: what their bundles say of them, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import F
from django.utils import timezone

from web.results import summary
from web.results.models import ModelVersion, Phase, Study

__all__ = ["before", "seen"]

_VERSION_LENGTH = 100
_WORDS = ("name", "version", "intended_use", "training_data", "licence")


def before(study: Study, number: int, model: Mapping[str, Any] | None) -> str:
    """Return which version looked at the revision before, where it was another one; else ``""``."""
    earlier = study.reports.filter(revision__lt=number, phase=Phase.PREDICTION)
    last = earlier.order_by("-revision").first()
    known = summary.document(last)["model"] if last else None
    if known is None or model is None:
        return ""
    keys = ("name", "version", "sha256")
    if all(known[key] == model[key] for key in keys):
        return ""
    return f"{known['name']} {known['version']}"


def seen(model: Mapping[str, Any] | None) -> None:
    """Note that a prediction came from a model; None where no model looked."""
    if model is None:
        return
    now = timezone.now()
    said = {word: model.get(word, "").replace("\x00", "") for word in _WORDS}
    said |= {"labels": model["labels"], "threshold": model["threshold"], "last_at": now}
    it = {"sha256": model["sha256"], "version": said.pop("version")[:_VERSION_LENGTH]}
    ModelVersion.objects.get_or_create(**it, defaults={**said, "first_at": now})
    ModelVersion.objects.filter(**it).update(**said, results=F("results") + 1)
