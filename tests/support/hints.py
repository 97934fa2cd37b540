"""Whether what a message, a page or a comment tells people to type exists.

The words of the ``limen`` command and of ``python -m`` are held against the parsers themselves.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from limen.command.parser import build
from limen.config import Config
from tests.support.pages import ROOT, anchors

__all__ = ["fault_of", "mentions", "settings_in", "texts"]

_PACKAGES = ("limen", "logs", "scp", "worker", "web")
_SETTINGS = (ROOT / "Makefile", ROOT / "config.toml", ROOT / "docker-compose.yml")
_SECTIONS = set(Config.model_fields)
_PROMPT = r"(?:\.venv/bin/|/opt/limen/(?:\S*/)?bin/)?"
_LIMEN = re.compile(rf"(?<![\w./@-]){_PROMPT}limen(?: ([^\n]*))?")
_MODULE = re.compile(r"\bpython3? -m ([\w.]+)([^\n]*)")
_MAKE = re.compile(r"`make ([a-z-]+)")
_COMMON = ("--config", "--debug", "--help", "-h")
# Ends of what is meant to be typed, where no quotes say so.
_END = re.compile(r"[`,;)\"'\u2192]|: |\. |\.$| -> |  |$")


@cache
def _parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers behind the words that ``limen`` passes on."""
    found = {}
    for word, module, name in (
        ("scp", "scp.__main__", "_parser"),
        ("worker", "worker.__main__", "_parser"),
        ("web", "web.__main__", "_parser"),
        ("explain", "worker.tools.explain", "_explain_parser"),
        ("model", "worker.tools.model_tool", "_parser"),
    ):
        found[word] = getattr(importlib.import_module(module), name)()
    return found


def _words(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def fault_of(command: str) -> str:
    """Return what is wrong with a ``limen`` command line, or a beginning of one; empty if nothing.

    Placeholders (``FOLDER``), optional parts (``[--keep]``) and alternatives (``check|info``) are
    read as people read them.
    """
    text = re.sub(r"\[|\]|\.\.\.|\u2026", " ", command.replace("\\|", "|"))
    return _fault(build(), text.split(), "limen")


def _fault(parser: argparse.ArgumentParser, words: list[str], said: str) -> str:
    choices = _words(parser)
    if choices and words and not words[0].startswith("-"):
        for word in words[0].split("|"):
            if word.isupper() or word.startswith(("{", "<", "%")):
                continue
            if word not in choices:
                return f"{said} has no command {word!r}"
            behind = _parsers().get(word) if said == "limen" else None
            fault = _fault(behind or choices[word], words[1:], f"{said} {word}")
            if fault:
                return fault
        return ""
    options = {*parser._option_string_actions, *(_COMMON if said.startswith("limen ") else ())}
    for word in words:
        option = re.match(r"--?[a-zA-Z][\w-]*", word)
        if option and option[0] not in options:
            return f"{said} has no option {option[0]}"
    return ""


def module_fault(module: str, rest: str) -> str:
    """Return what is wrong with ``python -m MODULE ...``."""
    if module.partition(".")[0] not in {*_PACKAGES, "models", "bench", "tests"}:
        return ""
    if module == "bench.NAME" or rest.startswith("$"):  # any of them; a word that make fills in
        return ""
    path = ROOT / module.replace(".", "/")
    if not (path / "__main__.py").exists() and not path.with_suffix(".py").exists():
        return f"python -m {module} is no module"
    if module in {"scp", "worker", "web"}:
        return _fault(_parsers()[module], _until_the_end(rest).split(), f"python -m {module}")
    source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
    for option in re.findall(r"(?<!\S)--[a-z][\w-]*", _until_the_end(rest)):
        if f'"{option}"' not in source and module.partition(".")[0] in {"bench", "models"}:
            return f"python -m {module} has no option {option}"
    return ""


def _until_the_end(text: str) -> str:
    end = _END.search(text)
    return text[: end.start()] if end else text


def _as_typed(text: str) -> str:
    """Cut what follows a command in a sentence: ``run limen status and see`` is ``status``."""
    words = []
    for n, word in enumerate(_until_the_end(text).split()):
        # What is typed: the first word; then placeholders, options, paths, words behind a command.
        typed = not word.isalpha() or word.isupper() or n == 0 or (n == 1 and _takes_a_word(words))
        if not typed:
            break
        words.append(word)
    return " ".join(words)


def _takes_a_word(words: list[str]) -> bool:
    parser = _parsers().get(words[0])
    return bool(parser and _words(parser)) or bool(
        words[0] in _words(build()) and _words(_words(build())[words[0]])
    )


def mentions(text: str, *, quoted: bool = False) -> Iterator[str]:
    """Yield each fault of what a text names: commands, modules, targets of make, pages.

    Parameters
    ----------
    text
        What people read.
    quoted
        Whether all of it is to be typed, as between backticks or in a block.
    """
    for found in _LIMEN.finditer(text):
        if found[1] is not None and (re.match(r"[a-z|]+(?!\w*=)", found[1])):
            typed = _until_the_end(found[1]) if quoted else _as_typed(found[1])
            fault = fault_of(typed) if typed else ""
            if fault:
                yield fault
    for found in _MODULE.finditer(text):
        fault = module_fault(found[1].rstrip("."), found[2])
        if fault:
            yield fault
    yield from _targets_that_are_none(text, quoted)
    yield from _pages_that_are_none(text)


def _targets_that_are_none(text: str, quoted: bool) -> Iterator[str]:
    targets = set(re.findall(r"^([a-z][\w -]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    targets = {name for line in targets for name in line.split()}
    for name in _MAKE.findall(text) + (re.findall(r"^make ([a-z-]+)", text) if quoted else []):
        if name not in targets:
            yield f"make has no target {name}"


def _pages_that_are_none(text: str) -> Iterator[str]:
    for page in re.findall(r"(?<![\w/.-])((?:docs|tests|deploy|models|bench)/[\w./-]+\.\w+)", text):
        if not (ROOT / page).exists():
            yield f"there is no {page}"
    for page, anchor in re.findall(r"((?:docs/)?[\w-]+\.md)#([\w-]+)", text):
        if (ROOT / page).exists() and anchor not in anchors(ROOT / page):
            yield f"there is no section {anchor} in {page}"
    for page in re.findall(r"(?<![\w/.-])([A-Z]{4,}\.(?:md|cff))\b", text):
        if not (ROOT / page).exists() and not list(ROOT.glob(f"models/*/{page}")):
            yield f"there is no {page}"


def settings_in(text: str) -> Iterator[str]:
    """Yield each key, section or variable of the settings that a text names and that is none."""
    for section, key in re.findall(r"(?<![\w./-])([a-z]+)\.([a-z_0-9]+)(?![\w(./*-])", text):
        if section in _SECTIONS and key not in {"py", "md", "toml", "db", "json"}:
            model = _section(section)
            if model is not None and key not in model.model_fields:
                yield f"{section}.{key}"
    for path in re.findall(r"\[{1,2}([a-z_.]+)\]{1,2}", text):
        parts = path.split(".")
        if parts[0] in _SECTIONS and not _has(parts):
            yield f"[{path}]"
    for name in re.findall(r"\bLIMEN_[A-Z0-9_]+__[A-Z0-9_]+[A-Z0-9]", text):
        if not _has(name.removeprefix("LIMEN_").lower().split("__")):
            yield name


def _section(name: str) -> type | None:
    annotation = Config.model_fields[name].annotation
    return annotation if hasattr(annotation, "model_fields") else None


def _has(parts: list[str]) -> bool:
    model = Config
    for part in parts:
        fields = getattr(model, "model_fields", None)
        if fields is None:
            return True
        if part not in fields:
            return False
        model = fields[part].annotation
        inner = getattr(model, "__args__", ())
        model = next((m for m in inner if hasattr(m, "model_fields")), model)
    return True


def texts() -> Iterator[tuple[Path, int, str, bool]]:
    """Yield what the source says to people: file, line, text, and whether it is a docstring."""
    for package in (*_PACKAGES, "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" not in path.parts:
                yield from _strings(path)
        for path in sorted((ROOT / package).rglob("*.html")):
            for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                said = re.sub(r"{{.*?}}|{%.*?%}", "X", line)  # the rest is for Django
                yield path, n, re.sub(r"</?code>", "`", said), False
    deployed = (p for p in (ROOT / "deploy").rglob("*") if p.is_file() and p.suffix != ".md")
    for path in (*_SETTINGS, *sorted(deployed)):
        for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            yield path, n, line, True


def _strings(path: Path) -> Iterator[tuple[Path, int, str, bool]]:
    tree = ast.parse(path.read_text("utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    pieces: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces |= {id(value) for value in node.values}
            text = "".join(
                str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values
            )
            yield path, node.lineno, text, False
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in pieces
            and not re.fullmatch(r"\S*", node.value)  # one word: an event of the log, a key
        ):
            yield path, node.lineno, node.value, id(node) in said
