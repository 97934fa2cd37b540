"""What is left of an answer when the patient is taken out: for tokens of the scope ``masked``, and
for accounts that need no names (web/results/roles.py).

The fields that stay are listed, not those that go: a field that is new is masked until somebody
decides. Free text of a person or a device (descriptions, notes) may hold a name and goes too. UIDs
stay: they are how a client asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["detail", "document", "reason", "row"]

_SAID = (
    # What the node says of a study of several patients ends with who they are.
    (re.compile(r"(patients in one study):.*", re.DOTALL), r"\1"),
    # Somebody wrote the description of a series. It may have brackets of its own.
    (re.compile(r"(series(?: -?\d+)?) \(.*?\)( is left out)", re.DOTALL), r"\1\2"),
    (re.compile(r"(the patient is) [^;,]+ old"), r"\1 younger"),
)

ROW = frozenset({
    "study_uid", "key", "page", "revision", "phase", "outcome", "reason", "label",
    "probability", "positive_slices", "analysed_slices", "slices", "modality",
    "received_at", "complete_at", "predicted_at", "explained_at", "changed_at",
})  # fmt: skip
STUDY = frozenset({"study_uid", "modality"})
SERIES = frozenset({
    "series_uid", "modality", "instances", "selected", "reason", "part", "slices",
    "analysed_slices", "positive_slices",
})  # fmt: skip
DOCUMENT = frozenset({
    "schema", "phase", "revision", "outcome", "reason", "finding", "findings", "images",
    "explanations", "model", "provenance", "timings",
})  # fmt: skip
VOTE = frozenset({"revision", "verdict", "current", "created_at"})


def _keep(tree: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name in names}


def reason(text: str) -> str:
    """Return a reason without what it says of patients: names, age, words that somebody wrote."""
    for found, instead in _SAID:
        text = found.sub(instead, text)
    return text


def row(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a study without who it is of."""
    return {**_keep(study, ROW), "reason": reason(study["reason"])}


def detail(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with its documents and votes, without who it is of and who voted."""
    return {
        **row(study),
        "revisions": study["revisions"],
        "documents": {phase: document(tree) for phase, tree in study["documents"].items()},
        "feedback": [_keep(vote, VOTE) for vote in study["feedback"]],
    }


def document(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result document without who it is of."""
    return {
        **_keep(tree, DOCUMENT),
        "reason": reason(tree["reason"]),
        "study": _keep(tree["study"], STUDY),
        "series": [_keep(one, SERIES) for one in tree.get("series", [])],
    }
