"""limen.doctor.examination: side by side, with deadlines, and what builds on what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from limen.doctor.check import Check, Finding, Node, Verdict, failed, ok, skipped, warning
from limen.doctor.examination import examine
from limen.doctor.registry import CHECKS, chosen
from limen.errors import Unreachable
from tests.support.doctor import node_of

Look = Callable[[Node], Iterable[Finding]]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return node_of(tmp_path)


def saying(*found: Finding) -> Look:
    return lambda _: found


def check(name: str, look: Look, *needs: str, timeout_s: float = 5.0) -> Check:
    return Check(name, "", look, needs, timeout_s)


def verdicts(node: Node, *checks: Check) -> list[list[Verdict]]:
    return [[f.verdict for f in one.findings] for one in examine(node, checks)]


def test_checks_run_side_by_side(node: Node) -> None:
    together = threading.Barrier(3, timeout=5)

    def meet(_: Node) -> list[Finding]:
        together.wait()
        return [ok("met")]

    three = [check(name, meet) for name in "abc"]
    assert verdicts(node, *three) == [[Verdict.OK]] * 3


def test_a_check_that_does_not_end_is_left_behind_and_holds_nothing_up(node: Node) -> None:
    for_ever = threading.Event()
    hangs = check("hangs", lambda _: [ok("late")] if for_ever.wait(60) else [], timeout_s=0.2)
    began = time.monotonic()
    late, other = examine(node, [hangs, check("other", saying(ok("fine")))])
    assert time.monotonic() - began < 10
    for_ever.set()
    assert late.has_failed
    assert "no answer within 0.2 s" in late.findings[0].text
    assert not other.has_failed


@pytest.mark.parametrize("first", [failed("no", "do"), skipped("none")])
def test_what_builds_on_a_check_that_says_nothing_is_skipped_and_says_which(
    node: Node, first: Finding
) -> None:
    two = [check("first", saying(first)), check("second", saying(ok("")), "first")]
    _, second = examine(node, two)
    assert second.findings == (skipped("not looked at: `first` comes first"),)


def test_a_warning_holds_nothing_up(node: Node) -> None:
    two = [check("first", saying(warning("old", "do"))), check("second", saying(ok("")), "first")]
    assert verdicts(node, *two)[1] == [Verdict.OK]


def test_an_error_of_ours_is_a_failure_with_its_text(node: Node) -> None:
    def broken(_: Node) -> list[Finding]:
        raise Unreachable("it is away; start it")

    (one,) = examine(node, [check("a", broken)])
    assert one.findings[0].text == "it is away; start it"


def test_a_foreign_error_breaks_one_check_and_does_not_tell_what_it_quotes(node: Node) -> None:
    def broken(_: Node) -> list[Finding]:
        raise ValueError("MUSTERMANN^MAX")

    one, other = examine(node, [check("a", broken), check("b", saying(ok("")))])
    assert "ValueError at test_examination.py" in one.findings[0].text
    assert "MUSTERMANN" not in one.findings[0].text
    assert not other.has_failed


def test_what_a_chosen_check_needs_is_made_too() -> None:
    assert [c.name for c in chosen(["workers"])] == ["journal", "migrations", "workers"]


def test_every_check_comes_after_what_it_needs() -> None:
    before: set[str] = set()
    for one in CHECKS:
        assert set(one.needs) <= before, one.name
        before.add(one.name)


def test_the_page_has_every_check_with_what_it_looks_at() -> None:
    page = (Path(__file__).parents[4] / "docs" / "doctor.md").read_text("utf-8")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].strip("| `"): cells[1] for cells in lines if len(cells) == 4}
    assert told == {one.name: one.looks_at for one in CHECKS}
