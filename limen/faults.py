"""What is wrong with the settings, told to whoever wrote them: where, why, and the likely word."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

__all__ = ["of_environment", "of_setting"]

_NESTED = "__"
_LEAST_ALIKE = 0.7


def of_environment(
    environ: Mapping[str, str],
    model: type[BaseModel],
    prefix: str,
    others: frozenset[str],
    old_names: Mapping[str, str],
) -> dict[str, str]:
    """Return what is wrong with variables, by name.

    Parameters
    ----------
    model
        The settings.
    prefix
        With which each variable of theirs begins.
    others
        Variables that begin so too and are no settings.
    old_names
        New beginning by old one.
    """
    known = dict(_variables(model, prefix))
    faults = {}
    for given in sorted(environ):
        name = given.upper()
        if not name.startswith(prefix) or name in others or _is_of_kubernetes(name, environ):
            continue
        for old, new in old_names.items():
            name = name.replace(old, new, 1)
        if name not in known:
            faults[given] = f"no such setting{_likely_variable(name, known)}"
        elif known[name] and not _is_json(environ[given]):
            faults[given] = "is not JSON; a section or a list is written as JSON in a variable"
    return faults


def of_setting(
    error: Any, model: type[BaseModel], tree: Mapping[str, Any], text: str, of_variable: bool
) -> str:
    """Return one of pydantic's errors as a line: key, what is wrong, what was given.

    Parameters
    ----------
    tree, text
        What the file says, parsed and as it stands there.
    of_variable
        A variable says it, not the file.
    """
    path = error["loc"]
    where = _place(path, error["input"], tree, "" if of_variable else text)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{_likely_key(path, model)}"
    given = repr(error["input"])
    secret = any(word in where for word in ("token", "url", "broker")) or "://" in given
    shown = "" if secret or isinstance(error["input"], BaseModel | dict) else f" (got {given})"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{shown}"


# -- variables -------------------------------------------------------------------------------------


def _variables(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    """Yield the name of each setting's variable, and whether its value is JSON."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield variable, True
            yield from _variables(kind, variable + _NESTED)
        else:
            yield variable, get_origin(kind) in {tuple, list, dict}


def _likely_variable(name: str, known: Mapping[str, object]) -> str:
    """Return a hint; the likeliest slip is one underscore for two."""
    by_words = {n.replace(_NESTED, "_"): n for n in known}
    words = name.replace(_NESTED, "_")
    found = difflib.get_close_matches(words, by_words, 1, _LEAST_ALIKE)
    if not found:
        return "; config.toml has every key, and section and key have two underscores between them"
    return f"; did you mean {by_words[found[0]]}?"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def _is_of_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    """Return True for what Kubernetes says of a service that is called limen-something."""
    services = [n.removesuffix("SERVICE_HOST") for n in environ if n.endswith("_SERVICE_HOST")]
    return any(name.startswith((f"{s}SERVICE_", f"{s}PORT")) for s in services)


# -- keys ------------------------------------------------------------------------------------------


def _place(path: tuple[Any, ...], given: Any, tree: Mapping[str, Any], text: str) -> str:
    """Return where a setting is; of an entry of a list its number, its name and its line."""
    number = next((n for n, part in enumerate(path) if isinstance(part, int)), None)
    if number is None:
        return ".".join(map(str, path)) or "(settings)"
    name = ".".join(map(str, path[:number]))
    facts = [str(path[number] + 1)]
    if line := _line(name, path[number], tree, text):
        facts.append(f"line {line}")
    rest = ".".join(map(str, path[number + 1 :]))
    return f"[[{name}]] {', '.join(facts)}{f': {rest}' if rest else ''}"


def _line(name: str, index: int, tree: Mapping[str, Any], text: str) -> int | None:
    """Return the line of an entry's head, where each entry of the list has one."""
    entries: Any = tree
    for part in name.split("."):
        entries = entries.get(part, {}) if isinstance(entries, dict) else {}
    head = re.compile(rf"[ \t]*\[\[[ \t]*{re.escape(name)}[ \t]*\]\]")
    heads = [n for n, line in enumerate(text.splitlines(), start=1) if head.match(line)]
    return heads[index] if len(heads) == len(entries) > index else None


def _likely_key(path: tuple[Any, ...], model: type[BaseModel]) -> str:
    """Return a hint for a key that the section does not have."""
    section: Any = model
    for part in path[:-1]:
        if not isinstance(part, int):
            section = _section(section.model_fields[part].annotation) if section else None
    keys = list(section.model_fields) if section else []
    found = difflib.get_close_matches(str(path[-1]), keys, 1, _LEAST_ALIKE)
    return f"; did you mean {found[0]}?" if found else "; check the spelling against config.toml"


def _section(kind: Any) -> type[BaseModel] | None:
    """Return the model behind a section, or behind a list of sections."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None
