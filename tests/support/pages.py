"""Pages of documentation: their blocks of code, the commands in them, their headings and links.

A block of commands is executed by tests/docs/test_commands.py, unless a comment before it says why
not; the comment is not shown where the page is rendered::

    <!-- not run: measures for minutes -->

        python -m bench.receive

Other marks: ``<!-- exit code 5 -->`` where a command does not end with 0.
"""

from __future__ import annotations

import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Block", "anchors", "blocks", "inline", "links", "pages"]

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^\s*(```|~~~)\s*(\w*)")
_MARK = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
_ASSIGNMENT = re.compile(r"^[A-Z][A-Z0-9_]*=")
# What a line of a shell begins with, on these pages. A new one is added here, or its block says
# by `$ ` or by its fence that it is a shell's.
# fmt: off
_PROGRAMS = frozenset(
    {
        "apt", "apt-get", "cat", "cd", "chmod", "cp", "curl", "dcmsend", "docker", "echoscu",
        "export", "findscu", "gcloud", "getent", "git", "install", "journalctl", "limen", "ls",
        "make", "mkdir", "movescu", "mv", "openssl", "pg_dump", "pip", "promtool", "psql",
        "python", "python3", "rabbitmqctl", "rsync", "sqlite3", "ssh", "storescu", "sudo",
        "systemctl", "systemd-analyze", "tar", "useradd",
    }
)
# fmt: on
_SHELLS = frozenset({"sh", "bash", "shell", "console"})


def pages() -> list[Path]:
    """Return every page that people read."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    return sorted([*found, *(ROOT / "models").glob("*/README.md")])


@dataclass(frozen=True)
class Block:
    """One block of code on a page, and what the comment before it says of it."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        """Where it is: ``docs/pacs.md:10``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def why_not(self) -> str:
        """Why its commands are not executed; empty when they are."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run") else ""

    @property
    def run_by(self) -> str:
        """The test that executes it in a setting of its own; empty where it needs none."""
        said = re.match(r"run by (tests/[\w/]+\.py)", self.mark)
        return said[1] if said else ""

    @property
    def exit_code(self) -> int:
        """What its last command ends with."""
        said = re.search(r"exit code (\d)", self.mark)
        return int(said[1]) if said else 0

    @cached_property
    def commands(self) -> list[str]:
        """Its lines for a shell: those after ``$``, or all of a block that begins as one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        asked = [line[2:] for line in lines if line.startswith(("$ ", "# ./"))]
        if asked:
            return [_without_comment(line) for line in asked]
        told = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        is_shell = self.language in _SHELLS or (not self.language and bool(told))
        if not is_shell or not (self.language in _SHELLS or _is_command(told[0])):
            return []
        return [_without_comment(line) for line in told]

    @cached_property
    def printed(self) -> list[str]:
        """What a block with ``$`` says that its commands print; ``...`` stands for more of it."""
        lines = self.text.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return []
        return [s for line in lines if (s := line.strip()) not in {"", "..."} and s[:2] != "$ "]

    @cached_property
    def toml(self) -> dict[str, Any] | None:
        """The tables of a block of settings; None when it is none."""
        if self.commands or not re.search(
            r"^\[\[?[a-z_.]+\]\]?\s*(#.*)?$", self.text, re.MULTILINE
        ):
            return None
        return tomllib.loads(self.text)

    @cached_property
    def variables(self) -> dict[str, str]:
        """The variables of a block that sets nothing but those."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        if not all(_ASSIGNMENT.match(line) for line in lines):
            return {}
        return dict(line.split("=", maxsplit=1) for line in lines)


def _is_command(line: str) -> bool:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return False
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    if not words:
        return False
    return words[0] in _PROGRAMS or words[0].startswith((".venv/bin/", "/opt/limen/", "tests/"))


def _without_comment(line: str) -> str:
    """Cut a comment off; ``#`` within a word or in quotes is none."""
    quoted = ""
    for n, letter in enumerate(line):
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'\"":
            quoted = letter
        elif letter == "#" and (n == 0 or line[n - 1].isspace()):
            return line[:n].strip()
    return line.strip()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, fenced and indented, in their order."""
    lines = page.read_text("utf-8").splitlines()
    n, before = 0, 0
    while n < len(lines):
        fence = _FENCE.match(lines[n])
        if fence:
            end = n + 1
            while end < len(lines) and not lines[end].strip().startswith(fence[1]):
                end += 1
            body, language, after = lines[n + 1 : end], fence[2], end + 1
        elif lines[n].startswith("    ") and (n == 0 or not lines[n - 1].strip()):
            end = n
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            body, language, after = lines[n:end], "", end
        else:
            n += 1
            continue
        text = textwrap.dedent("\n".join(body)).strip("\n")
        yield Block(page, n + 1, language, _mark(lines[before:n]), text)
        n = before = after


def _mark(above: list[str]) -> str:
    """Return the comment that ends what stands above a block."""
    text = "\n".join(above).rstrip()
    found = list(_MARK.finditer(text))
    return " ".join(found[-1][1].split()) if found and found[-1].end() == len(text) else ""


def inline(page: Path) -> Iterator[str]:
    """Yield what stands between backticks outside blocks."""
    text = "\n".join(_prose(page))
    yield from (found.replace("\n", " ") for found in re.findall(r"`([^`]+)`", text))


def _prose(page: Path) -> Iterator[str]:
    fenced = False
    for line in page.read_text("utf-8").splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield line


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield file and anchor of each link that stays within the repository."""
    for target in re.findall(r"\]\(<?(?!https?:|mailto:)([^)\s>]+)>?\)", "\n".join(_prose(page))):
        file, _, anchor = target.partition("#")
        yield file, anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    made: set[str] = set()
    for line in _prose(page):
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if not heading:
            continue
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower())
        anchor = words.replace(" ", "-")
        n, wanted = 0, anchor
        while wanted in made:
            n += 1
            wanted = f"{anchor}-{n}"
        made.add(wanted)
    made |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page.read_text("utf-8")))
    return made
