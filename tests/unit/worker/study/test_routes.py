"""worker.study.routes: which bundle looks at a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from limen.config import Route
from worker.study.routes import choose, why_none

HEAD = Route(name="head", modality="CT", bundle="ich")
CHEST = Route(name="chest", modality="CR", bundle="cxr")
ALSO_CT = Route(name="also", modality="CT", bundle="other")


def headers(*modalities: str) -> list[Any]:
    """Headers of which a route reads the modality alone."""
    return [SimpleNamespace(modality=m) for m in modalities]


@pytest.mark.parametrize(
    ("modalities", "route"),
    [
        (["CT"], HEAD),
        (["SR", "CT"], HEAD),
        (["CR"], CHEST),
        (["CR", "CT"], HEAD),
        (["MR"], None),
        (["ct"], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_first_route_whose_modality_occurs_takes_the_study(
    modalities: list[str], route: Route | None
) -> None:
    assert choose([HEAD, CHEST, ALSO_CT], headers(*modalities)) == route


def test_without_routes_no_study_is_taken() -> None:
    assert choose([], headers("CT")) is None


@pytest.mark.parametrize(
    ("modalities", "reason"),
    [
        ([], "no instance of this study can be read"),
        (["MR", "MR"], "no route takes modality MR (routes take CR, CT)"),
        (["PT", "MR"], "no route takes modality MR, PT (routes take CR, CT)"),
        ([""], "no route takes modality unknown (routes take CR, CT)"),
    ],
)
def test_a_study_that_no_route_takes_says_why(modalities: list[str], reason: str) -> None:
    assert why_none([HEAD, CHEST, ALSO_CT], headers(*modalities)) == reason
