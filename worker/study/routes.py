"""Routes: which bundles look at a study, by its headers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from limen.config import Route, RouteKeyword
from worker.dicom.headers import Header

__all__ = ["choose", "shadows", "why_none"]

_ATTRIBUTES: Final[dict[RouteKeyword, str]] = {
    "BodyPartExamined": "body_part",
    "ConvolutionKernel": "kernel",
    "InstitutionName": "referring_institution",
    "SeriesDescription": "series_description",
    "StudyDescription": "study_description",
}
"""DICOM keyword -> attribute of ``Header``."""


def choose(routes: Sequence[Route], headers: Sequence[Header]) -> Route | None:
    """Return the first route that takes the study and is no shadow, or None."""
    return next((r for r in routes if not r.shadow and _takes(r, headers)), None)


def shadows(routes: Sequence[Route], headers: Sequence[Header]) -> list[Route]:
    """Return every shadow route that takes the study, one for each bundle."""
    found = [route for route in routes if route.shadow and _takes(route, headers)]
    return list({route.bundle: route for route in found}.values())


def why_none(routes: Sequence[Route], headers: Sequence[Header]) -> str:
    """Return in plain words why no route takes a study; values of its headers stay out."""
    found = sorted({h.modality or "unknown" for h in headers})
    if not found:
        return "no instance of this study can be read"
    shown = [route for route in routes if not route.shadow]
    near = [route for route in shown if route.modality in found]
    if near:
        wanted = "; ".join(f"{route.name}: {_wish(route)}" for route in near)
        return f"no route takes this study, because no instance matches its pattern ({wanted})"
    modalities = sorted({route.modality for route in shown})
    return f"no route takes modality {', '.join(found)} (routes take {', '.join(modalities)})"


def _takes(route: Route, headers: Sequence[Header]) -> bool:
    """Return True when one instance of the modality matches every pattern."""
    return any(
        header.modality == route.modality
        and all(
            fnmatchcase(getattr(header, _ATTRIBUTES[keyword]).upper(), pattern.upper())
            for keyword, pattern in route.where.items()
        )
        for header in headers
    )


def _wish(route: Route) -> str:
    return " and ".join(f"{keyword} {pattern}" for keyword, pattern in route.where.items())
