"""Versions of models that results came from: what their bundles say of them, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import F
from django.utils import timezone

from web.results.models import ModelVersion

__all__ = ["seen"]

_WORDS = ("name", "version", "intended_use", "training_data", "licence")


def seen(model: Mapping[str, Any] | None) -> None:
    """Note that a prediction came from a model; None where no model looked."""
    if model is None:
        return
    now = timezone.now()
    said = {word: model.get(word, "").replace("\x00", "") for word in _WORDS}
    said |= {"labels": model["labels"], "threshold": model["threshold"], "last_at": now}
    ModelVersion.objects.get_or_create(sha256=model["sha256"], defaults={**said, "first_at": now})
    ModelVersion.objects.filter(sha256=model["sha256"]).update(**said, results=F("results") + 1)
