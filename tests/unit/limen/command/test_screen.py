"""limen.command.screen: what others wrote is shown as it is, and does nothing to the screen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from limen.command.screen import say, table
from tests.support.services import REPOSITORY

Captured = pytest.CaptureFixture[str]
MARKUP = ["[/X]", "[bold]CT", "[red", ":bomb:", "\\[/b]", "1.2.3", "CT [1]"]
CONTROL = ["a\x1b[2Jb", "a\x9b2Jb", "a\rb", "a\x00b", "a\udcffb", "a\u202eb"]


@pytest.mark.parametrize(
    "text", ["[/X]", "[bold]CT", "[red", ":bomb:", "\\[/b]", "1.2.3", "CT [1]"]
)
def test_text_that_looks_like_markup_is_shown_as_it_is(text: str, capsys: Captured) -> None:
    table(["what"], [(text,)])
    say(text)
    head, row, line = capsys.readouterr().out.splitlines()
    assert head.strip() == "what"
    assert row.strip() == line == text


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jb", "a\x9b2Jb", "a\rb", "a\x00b", "a\udcffb", "a\u202eb"]
)
def test_text_that_would_move_the_cursor_is_shown_by_its_code(text: str, capsys: Captured) -> None:
    table(["what"], [(text,)])
    say(text)
    _, row, line = capsys.readouterr().out.splitlines()
    assert row.strip() == line
    assert line.isprintable()
    assert line.startswith("a\\")


def test_a_table_without_heads_has_no_line_for_them(capsys: Captured) -> None:
    table([], [("a", "b"), ("c", "d")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["a", "b"],
        ["c", "d"],
    ]


def test_a_terminal_of_ascii_only_gets_codes_for_the_rest() -> None:
    program = (
        "from limen.command.edge import at_the_edge\n"
        "from limen.command.screen import say\n"
        "raise SystemExit(at_the_edge(lambda: say('größe') or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "gr\\xf6\\xdfe\n"), done.stderr
