"""Asking a process of Limen: what the worker and the results server know of themselves.

``limen`` imports neither; they are asked by a command that answers in JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from limen.doctor.check import Node
from limen.errors import LimenError

__all__ = ["ask"]

_SAID = 300


def ask(node: Node, words: Sequence[str], whom: str, timeout_s: float = 60.0) -> Any:
    """Return what ``python -m`` with these words answers.

    Raises
    ------
    LimenError
        It does not answer in JSON, or not in time; the text has its last words.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            env=dict(node.environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise LimenError(f"{whom} did not answer within {timeout_s:g} s") from exc
    try:
        return json.loads(done.stdout)
    except ValueError as exc:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1][-_SAID:]
        raise LimenError(f"{whom} cannot be asked (code {done.returncode}): {said}") from exc
