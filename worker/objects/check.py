"""Whether an object may leave: our own look at it, and ``dciodvfy`` where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from worker.objects import Built
from worker.objects.identity import NOTICE

__all__ = ["check"]

VALIDATOR: Final = "dciodvfy"
TIMEOUT_S: Final = 30.0
"""An object of a thousand frames takes two seconds; what takes longer is let go unproven."""

_NEEDED: Final = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("SeriesNumber", "SeriesDescription", "InstanceNumber", "Manufacturer"),
)
_NAMED: Final = 3
"""So many errors of the validator are told."""


def check(built: Built, *, validate: bool = True) -> str | None:
    """Return why an object must not leave, naming no value of it; None where it may.

    Parameters
    ----------
    validate
        Whether ``dciodvfy`` is asked.
    """
    with tempfile.TemporaryDirectory(prefix="limen-object-") as folder:
        path = Path(folder) / "object.dcm"
        path.write_bytes(built.body)
        try:
            dataset = dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError) as exc:
            return f"it cannot be read back: {type(exc).__name__}"
        return _own(built, dataset) or (_asked(path) if validate else None)


def _own(built: Built, dataset: Dataset) -> str | None:
    missing = [keyword for keyword in _NEEDED if not dataset.get(keyword)]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (built.sop_class_uid, built.sop_uid):
        return "its UIDs are not those that it is announced with"
    if not str(dataset.SeriesDescription).endswith(NOTICE):
        return f"its series description does not say {NOTICE}"
    return None


def _asked(path: Path) -> str | None:
    """Return the first errors of ``dciodvfy``; None where it has none or is not there."""
    program = shutil.which(VALIDATOR)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-new", str(path)], capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    said = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    found = (_without_values(line) for line in said if line.startswith("Error"))
    errors = list(dict.fromkeys(found))
    if errors:
        return f"{VALIDATOR}: {'; '.join(errors[:_NAMED])}"
    return None if done.returncode >= 0 else f"{VALIDATOR} ended by signal {-done.returncode}"


def _without_values(line: str) -> str:
    """Return which attribute an error is about and what it is; its value may name a patient."""
    _, where, what, *_ = [*line.split(" - "), "", ""]
    return f"{where.strip('<>/ ')}: {what.split(' = <', maxsplit=1)[0]}"
