"""Every hint names something that exists: in messages, on pages of the server, in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.hints import fault_of, mentions, module_fault, settings_in, texts
from tests.support.pages import blocks, inline, pages


def _settings(page: Path, text: str) -> list[str]:
    """What was called otherwise once may stand in the changelog."""
    return [] if page.name == "CHANGELOG.md" else list(settings_in(text))


def test_every_command_and_page_that_a_message_names_exists() -> None:
    wrong = [f"{path}:{line}: {f}" for path, line, text, _ in texts() for f in mentions(text)]
    assert wrong == []


def test_every_setting_that_a_message_names_exists() -> None:
    wrong = [
        f"{path}:{line}: {fault}"
        for path, line, text, is_docstring in texts()
        if not is_docstring
        for fault in settings_in(text)
    ]
    assert wrong == []


def test_every_command_and_setting_that_a_page_names_exists() -> None:
    wrong = [
        f"{page.name}: `{text}`: {fault}"
        for page in pages()
        for text in inline(page)
        for fault in (*mentions(text, quoted=True), *_settings(page, text))
    ]
    assert wrong == []


def test_every_command_of_a_block_that_is_not_run_exists() -> None:
    wrong = [
        f"{block.name}: {fault}"
        for page in pages()
        for block in blocks(page)
        for command in block.commands
        for fault in mentions(command, quoted=True)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "command",
    ["statsu", "status --jsno", "model make FOLDER", "model check --neww", "web tokn"],
)
def test_a_word_that_limen_does_not_know_is_found(command: str) -> None:
    assert fault_of(command)


@pytest.mark.parametrize(
    "text",
    [
        "look at it with `limen report`",
        "see docs/nowhere.md",
        "see docs/operations.md#nothing",
        "`make nothing`",
        "make one with: python -m web lnk NAME",
        "python -m worker.nothing",
    ],
)
def test_a_hint_to_nothing_is_found(text: str) -> None:
    assert list(mentions(text))


@pytest.mark.parametrize("text", ["set scp.prot", "in [serving]x [scp.nothing]", "LIMEN_SCP__PROT"])
def test_a_setting_that_does_not_exist_is_found(text: str) -> None:
    assert list(settings_in(text))


def test_a_module_that_does_not_exist_is_found() -> None:
    assert module_fault("bench.nothing", "") == "python -m bench.nothing is no module"
