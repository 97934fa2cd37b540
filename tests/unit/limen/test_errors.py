"""limen.errors: the tree in the docstring is the tree of classes."""

from __future__ import annotations

import inspect
import re

import pytest

from limen import errors


def drawn() -> dict[str, str]:
    """Class -> its parent, as drawn."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ |]*(?:\+-- )?)([A-Z]\w+)\s{2,}\S", line)
        if match is None:
            continue
        depth = len(match[1])
        while path and path[-1][0] >= depth:
            path.pop()
        parents[match[2]] = path[-1][1] if path else "Exception"
        path.append((depth, match[2]))
    return parents


def test_the_tree_in_the_docstring_equals_the_classes() -> None:
    classes = {
        name: cls.__base__.__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if cls.__module__ == errors.__name__
    }
    assert drawn() == classes


def test_every_class_is_exported() -> None:
    assert set(errors.__all__) == set(drawn())


def test_no_error_is_on_both_branches() -> None:
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert not (issubclass(cls, errors.Transient) and issubclass(cls, errors.Permanent))


@pytest.mark.parametrize("name", ["Busy", "OutOfSpace", "Unreachable"])
def test_what_may_work_later_is_transient(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.Transient)
