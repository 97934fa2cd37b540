"""Read and check a result document.

Faults name the JSON path and the rule, and never repeat the value: the answer
to a wrong document is written to the log of the node that sent it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

__all__ = ["Document", "Fault", "InvalidDocument", "read"]

MAX_FAULTS = 50
# What a column of the database holds (PostgreSQL integer).
MAX_INTEGER = 2**31 - 1
_TIME_FIELDS = ("received", "complete", "predicted", "explained")
_UNIQUE_IMAGE = "is the second entry of this instance, frame and copy"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    path: str
    message: str


class InvalidDocument(ValueError):
    """The body is not a result document."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(f"{len(faults)} faults")
        self.faults = faults[:MAX_FAULTS]


@dataclass(frozen=True, slots=True)
class Document:
    """A document that satisfies the schema."""

    tree: dict[str, Any]
    canonical: bytes

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def study(self) -> dict[str, Any]:
        """The ``study`` part."""
        return self.tree["study"]

    @property
    def key(self) -> tuple[str, int, str]:
        """StudyInstanceUID, revision, phase."""
        return self.study["study_uid"], self.tree["revision"], self.tree["phase"]

    @property
    def images(self) -> list[dict[str, Any]]:
        """The ``images`` part."""
        return self.tree.get("images", [])

    def file_names(self) -> dict[str, str]:
        """Return each file name the document refers to, with the path of its first mention."""
        names: dict[str, str] = {}
        for number, image in enumerate(self.images):
            for kind in ("original", "explanation"):
                if image.get(kind) is not None:
                    names.setdefault(image[kind], f"$.images[{number}].{kind}")
        return names


def read(body: bytes) -> Document:
    """Read a document.

    Raises
    ------
    InvalidDocument
        The body is not JSON, breaks the schema, or contradicts itself.
    """
    tree = _parse(body)
    try:
        faults = [f for error in _validator().iter_errors(tree) for f in _faults_of(error)]
    except RecursionError as exc:
        raise InvalidDocument([Fault("$", "is nested too deeply")]) from exc
    if faults:
        raise InvalidDocument(faults)
    faults = list(_contradictions(tree))
    if faults:
        raise InvalidDocument(faults)
    return Document(tree, _canonical(tree))


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise InvalidDocument([Fault("$", "is not JSON in UTF-8")]) from exc


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _canonical(tree: Any) -> bytes:
    try:
        text = json.dumps(
            tree, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")
        )
        return text.encode("utf-8")
    except (
        ValueError,
        RecursionError,
    ) as exc:  # a number too large for a double, half of a surrogate pair
        raise InvalidDocument([Fault("$", "holds text or a number no reader can show")]) from exc


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads(Path(__file__).with_name("result.schema.json").read_text("utf-8"))
    # Python's "$" also matches before a final line feed, and "\d" any script's digits.
    strict = validators.extend(Draft202012Validator, {"pattern": _pattern})
    return strict(schema)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re.fullmatch(pattern, instance, re.ASCII):
        yield ValidationError("pattern")


def _faults_of(error: ValidationError) -> Iterator[Fault]:
    if error.validator == "anyOf":
        # "a thing or null": what is wrong is wrong with the thing.
        for sub in error.context or []:
            if sub.schema_path[0] == 0:
                yield from _faults_of(sub)
        return
    yield Fault(error.json_path, _rule(error))


def _rule(error: ValidationError) -> str:
    value = error.validator_value
    if error.validator == "required":
        return f"lacks {', '.join(name for name in value if name not in error.instance)}"
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(name for name in error.instance if name not in known)
        return f"has unknown fields: {', '.join(unknown)[:200]}"
    if error.validator == "enum":
        return f"must be one of {', '.join(map(str, value))}"
    words = {
        "type": "must be of type",
        "pattern": "must match",
        "minimum": "must be at least",
        "maximum": "must be at most",
    }
    return f"{words.get(str(error.validator), f'breaks {error.validator}')} {value}"


def _contradictions(tree: dict[str, Any]) -> Iterator[Fault]:
    for name in _TIME_FIELDS:
        text = tree["timings"].get(name)
        if text is not None and not _is_time(text):
            yield Fault(f"$.timings.{name}", "is no time of any day")
    for path, number in _integers(tree):
        if number > MAX_INTEGER:
            yield Fault(path, f"must be at most {MAX_INTEGER}")
    seen: set[tuple[str, int, int]] = set()
    for number, image in enumerate(tree.get("images", [])):
        frame = (image["sop_uid"], image["frame"], image.get("copy", 1))
        if frame in seen:
            yield Fault(f"$.images[{number}]", _UNIQUE_IMAGE)
        seen.add(frame)


def _integers(tree: dict[str, Any]) -> Iterator[tuple[str, int]]:
    yield "$.revision", tree["revision"]
    for name in ("positive_slices", "analysed_slices", "slices"):
        if tree["finding"]:
            yield f"$.finding.{name}", tree["finding"][name]
    for number, image in enumerate(tree.get("images", [])):
        yield f"$.images[{number}].frame", image["frame"]
        yield f"$.images[{number}].index", image["index"]
        yield f"$.images[{number}].copy", image.get("copy", 1)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
