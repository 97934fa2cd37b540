"""deploy/prometheus: rules that name metrics and sections that exist, and fire when they should."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.services import REPOSITORY, program

FOLDER = REPOSITORY / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ROW = re.compile(r"^\| `(limen_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)


def known() -> dict[str, set[str]]:
    """Return the series of the table in the docs, each with its labels."""
    found = {}
    for row in ROW.finditer((REPOSITORY / "docs/metrics.md").read_text("utf-8")):
        labels = set(re.findall(r"`(\w+)`", row[3])) | {"instance", "job"}
        name = f"{row[1]}_bucket" if row[2] == "histogram" else row[1]
        found[name] = labels | ({"le"} if row[2] == "histogram" else set())
    return found


def anchors(path: str) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", (REPOSITORY / path).read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_made_of_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    names = set(re.findall(r"\blimen_\w+", rule["expr"]))
    assert names <= known().keys()
    used = {name for by in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for name in by.split(", ")}
    used |= set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", rule["expr"]))
    allowed = {label for name in names for label in known()[name]} | {"job", "instance"}
    assert used <= allowed
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert shown <= used


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_names_a_section_of_the_runbook_that_exists(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(path)
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_promtool_takes_the_rules_and_they_fire_when_they_should_and_are_silent_else() -> None:
    promtool = program("promtool", "prometheus")
    for words in (
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run(
            [promtool, *words], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
