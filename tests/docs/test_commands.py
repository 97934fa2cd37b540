"""Every command on every page is executed here, or the page says why not.

The blocks of a page run in its order, in one folder, so that a page may be followed from its
beginning to its end. A mark before a block says otherwise: see tests/support/pages.py.
"""

from __future__ import annotations

import re
import sys

import pytest

from limen import config as settings
from limen.config import Config
from tests.docs.conftest import Sandbox
from tests.support.pages import ROOT, Block, blocks, pages
from worker.destinations.oru import Template

BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [block for block in BLOCKS if block.commands]


def _named(found: list[Block]) -> list[object]:
    return [pytest.param(block, id=block.name) for block in found]


@pytest.mark.parametrize("block", _named([b for b in COMMANDS if not b.why_not and not b.run_by]))
def test_a_block_of_commands_works_as_it_stands(block: Block, sandbox: Sandbox) -> None:
    _write_files_named_on_the_page_before(block, sandbox)
    said = sandbox.run(block)
    lines = {_without_numbers(line) for line in said.splitlines()}
    assert [line for line in block.printed if _without_numbers(line) not in lines] == [], said


def _without_numbers(line: str) -> str:
    """Numbers and digests are those of one day and one machine; the words stay."""
    return " ".join(re.sub(r"\b[0-9a-f]{12,}\b|[+-]?\d[\d.]*", "#", line).split())


def _write_files_named_on_the_page_before(block: Block, sandbox: Sandbox) -> None:
    """A block that begins with ``# NAME.py`` is what the reader has saved under that name."""
    for other in blocks(block.page):
        name = re.match(r"# ([\w-]+\.\w+)\n", other.text)
        if name and other.line < block.line:
            (sandbox.folder / name[1]).write_text(other.text + "\n", "utf-8")


@pytest.mark.parametrize("block", _named([b for b in BLOCKS if b.toml is not None]))
def test_a_block_of_settings_is_accepted(
    block: Block, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = block.toml or {}
    if set(tree) <= set(Config.model_fields):
        file = tmp_path / "config.toml"  # type: ignore[operator]
        file.write_text(block.text, "utf-8")
        settings.load(file)
        return
    if "of a template" in block.mark:
        file = tmp_path / "oru.toml"  # type: ignore[operator]
        file.write_text(_changed_template(block), "utf-8")
        Template(file)
        return
    keys = (ROOT / "worker" / "bundles" / "manifest.py").read_text("utf-8")
    assert "of a bundle" in block.mark, f"{block.name}: {set(tree)} is no section of the settings"
    tables = [t for one in tree.values() for t in (one if isinstance(one, list) else [one])]
    assert all(f"{key}:" in keys for table in tables for key in table)


def _changed_template(block: Block) -> str:
    """Return the shipped template of HL7 messages, with what a block says in place of its own."""
    shipped = (ROOT / "worker" / "destinations" / "oru.toml").read_text("utf-8")
    head, *segments = shipped.split("[[segment]]")
    changed = {f'name = "{one["name"]}"' for one in (block.toml or {})["segment"]}
    kept = [one for one in segments if not any(name in one for name in changed)]
    assert len(kept) < len(segments)
    return "[[segment]]".join([f"{head}{block.text}\n", *kept])


@pytest.mark.parametrize("block", _named([b for b in BLOCKS if b.variables]))
def test_a_block_of_variables_is_accepted(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in block.variables.items():
        monkeypatch.setenv(name, value)
    settings.load(None)


@pytest.mark.parametrize("block", _named([b for b in COMMANDS if b.why_not]))
def test_what_is_not_run_says_why_and_by_what_it_is_proven(block: Block) -> None:
    assert len(block.why_not.split()) >= 3, block.mark
    for name in re.findall(r"(?:tests|docs|bench)/[\w./]+\.\w+", block.why_not):
        assert (ROOT / name).exists(), f"{block.name}: {name}"


@pytest.mark.parametrize("block", _named([b for b in COMMANDS if b.run_by]))
def test_what_another_test_runs_is_run_there(block: Block) -> None:
    """It reads the blocks of the page itself, or has every word of the command in its text."""
    test = (ROOT / block.run_by).read_text("utf-8")
    words = {word for command in block.commands for word in command.split()[1:]}
    assert f'"{block.page.name}"' in test or all(f'"{word}"' in test for word in words)


def test_no_command_hides_in_a_block_that_is_none() -> None:
    hidden = [
        f"{block.name}: {line}"
        for block in BLOCKS
        if not block.commands and block.toml is None and "not a command" not in block.mark
        for line in block.text.splitlines()
        if re.match(r"(\.venv/bin/)?limen [a-z]|python -m |make [a-z]+$|sudo |\$ ", line)
    ]
    assert hidden == []


def test_how_many_are_executed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    executed = sum(len(block.commands) for block in COMMANDS if not block.why_not)
    all_of_them = sum(len(block.commands) for block in COMMANDS)
    with capsys.disabled():
        sys.stdout.write(f"\ncommands of the docs: {executed} of {all_of_them} executed\n")
    assert executed >= 38, "what was executed once is not marked away"
