"""The ``limen`` command within the process of the test."""

from __future__ import annotations

from limen.command import parser

__all__ = ["run"]


def run(*words: str) -> int:
    """Run a command as ``main`` does, exit of the parser included."""
    try:
        return parser.main(list(words))
    except SystemExit as exc:
        return int(exc.code or 0)
