"""Who a study is about, and which of its instances claim to be the same."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.dicom.headers import Header

__all__ = ["Patient", "copies", "patients"]


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as a header names them."""

    id: str
    name: str
    birth_date: str
    other_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the patient as people are shown them."""
        born = f", born {self.birth_date}" if self.birth_date else ""
        return f"{self.name or 'no name'} (ID {self.id or 'none'}{born})"

    def may_be(self, other: Patient) -> bool:
        """Return False where an identifier, a name or a date of birth speaks against it."""
        ids = {_folded(i) for i in (self.id, *self.other_ids) if i}
        others = {_folded(i) for i in (other.id, *other.other_ids) if i}
        return (
            (not self.id or not other.id or bool(ids & others))
            and _names_agree(self.name, other.name)
            and _agree(self.birth_date, other.birth_date)
        )


def patients(headers: Iterable[Header]) -> list[Patient]:
    """Return the patients that the instances of a study name; more than one is a fault.

    An identifier, a name or a date of birth that is absent speaks against nothing. Names are
    compared without case, spaces and empty components (PS3.5 6.2.1.1).
    """
    named = {
        Patient(h.patient_id, h.patient_name, h.patient_birth_date, h.other_patient_ids)
        for h in headers
    }
    found: list[Patient] = []
    # Who says most is asked first: what says less joins whom it may be.
    for one in sorted(named, key=lambda p: (-_said(p), p.id, p.name, p.birth_date, p.other_ids)):
        if not any(one.may_be(other) for other in found):
            found.append(one)
    return sorted(found, key=lambda p: (p.id, p.name, p.birth_date))


def copies(items: Iterable[tuple[str, str, Path]]) -> dict[Path, int]:
    """Return for each file which content of its SOP Instance UID it is, from 1.

    Files of the same bytes are one content. The order is that of series and path, so that it
    is the same each time.

    Parameters
    ----------
    items
        SOP Instance UID, Series Instance UID and path of each file.
    """
    by_uid: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for sop_uid, series_uid, path in items:
        by_uid[sop_uid].append((series_uid, path))
    numbers: dict[Path, int] = {}
    for claimants in by_uid.values():
        numbers |= _numbered(
            [path for _, path in sorted(claimants, key=lambda c: (c[0], str(c[1])))]
        )
    return numbers


def _numbered(paths: Sequence[Path]) -> dict[Path, int]:
    if len(paths) == 1:
        return {paths[0]: 1}
    numbers: dict[str, int] = {}
    return {path: numbers.setdefault(_digest(path), len(numbers) + 1) for path in paths}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # it is gone: its reader tells
        return str(path)


def _said(patient: Patient) -> int:
    return sum(map(bool, (patient.id, patient.name, patient.birth_date)))


def _names_agree(one: str, other: str) -> bool:
    """Return False where a representation that both names have differs."""
    pairs = zip(one.split("="), other.split("="), strict=False)
    both = [(a, b) for a, b in ((_folded(a), _folded(b)) for a, b in pairs) if a and b]
    return all(a == b for a, b in both)


def _agree(one: str, other: str) -> bool:
    a, b = _folded(one), _folded(other)
    return not a or not b or a == b


def _folded(text: str) -> str:
    return re.sub(r"[\s^.,_-]+", "", text).casefold()
