"""What the script of a study's slices is told (static/results/viewer.js)."""

from __future__ import annotations

from typing import Any

from web.results.revision import Explained, Revision, Slice

__all__ = ["first", "slices", "windows"]


def first(shown: Revision) -> Slice | None:
    """Return the slice that a page opens on: the highest that says something, else the middle.

    Of a volume that is explained the one that shows most of it.
    """
    if shown.is_of_volume and shown.remarkable:
        places = {e.number: e.rank for e in shown.explanations}
        return min(shown.remarkable, key=lambda s: places.get(s.number, len(places)))
    remarkable = [s for s in shown.remarkable if s.probability is not None]
    if remarkable:
        return max(remarkable, key=lambda s: s.probability or 0.0)
    return shown.slices[(len(shown.slices) - 1) // 2] if shown.slices else None


def slices(shown: Revision) -> list[dict[str, Any]]:
    """Return the slices of a revision in geometric order."""
    explained = {e.number: e for e in shown.explanations}
    return [
        {
            "number": s.number,
            "position": s.position_mm,
            "probability": s.probability,
            "said": s.said,
            "sentence": "" if shown.is_of_slices else _sentence(s, shown),
            "positive": s.positive,
            "reason": s.reason,
            "original": s.original,
            "overlay": s.overlay,
            "oriented": s.oriented,
            "series": s.series,
            "unit": s.unit,
            "pixel_mm": s.pixel_mm,
            "explained": _explained(explained.get(s.number)),
        }
        for s in shown.slices
    ]


def _sentence(one: Slice, shown: Revision) -> str:
    """Return what is said of a slice that is not judged by itself."""
    said = f"{one.said[:1].upper()}{one.said[1:]}."
    if not (shown.is_of_volume and one.overlay):
        return said
    return f"{said} One explanation is of all of them: this is what lies in this slice."


def _explained(one: Explained | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "without": one.without_strongest,
        "poor": one.poor,
        "reason": one.poor_reason,
        "second": one.second,
        "ownMap": one.own_map,
    }


def windows(shown: Revision) -> list[dict[str, Any]]:
    """Return the windows that the bundle suggests, none in documents of schema 2."""
    found: list[dict[str, Any]] = (shown.tree["model"] or {}).get("windows", [])
    return found
