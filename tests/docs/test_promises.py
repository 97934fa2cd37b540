"""Every promise of docs/reliability.md has tests that exist; CITATION.cff is of this version."""

from __future__ import annotations

import re

import pytest
import yaml

from limen import __version__
from tests.support.pages import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| ([IF]\d+) \| .*? \| (.*) \|$", PAGE, re.MULTILINE))
FEWEST = {"I": 3, "F": 1}


def test_every_promise_is_listed() -> None:
    promises = [name for name in ROWS if name.startswith("I")]
    assert promises == [f"I{n}" for n in range(1, 13)]


def test_every_fault_has_its_tests() -> None:
    faults = [name for name in ROWS if name.startswith("F")]
    assert faults == [f"F{n}" for n in range(1, len(faults) + 1)]


@pytest.mark.parametrize("promise", ROWS)
def test_the_tests_that_prove_a_promise_exist(promise: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROWS[promise])
    assert len(named) >= FEWEST[promise[0]]
    for path, test in named:
        assert f"\ndef {test}(" in (ROOT / path).read_text("utf-8"), f"{path}::{test}"


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
