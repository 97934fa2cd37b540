"""What `limen doctor` asks the worker of the destinations that only the worker can reach.

``python -m worker destinations`` answers in JSON: a list of name, whether it works, and a text. The
archive is written to, read and tidied up again; a DICOMweb server is asked for one study,
or sent no objects where it does not search.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from limen import config
from limen.command.edge import OK
from limen.command.screen import say
from limen.config import Config, DicomwebDestination, Hl7Destination
from limen.errors import LimenError
from worker.destinations import registry
from worker.destinations.archive import Content
from worker.destinations.oru import Template

__all__ = ["main"]

NAME: Final = "limen-doctor/check.txt"
"""The same each time, with the same bytes: it does not grow where nothing may be removed."""

_BYTES: Final = b"Limen looks whether it can write here. This object may be removed.\n"
_TIMEOUT_S: Final = 5.0


def main() -> int:
    """Print what there is to say; that something does not work is no fault of this tool."""
    settings = _patient_for(config.load(), _TIMEOUT_S)
    looks = dict(_looks(settings))
    if not looks:
        say("[]")
        return OK
    with ThreadPoolExecutor(len(looks)) as pool:
        say(json.dumps(list(pool.map(_told, looks, looks.values()))))
    return OK


def _patient_for(settings: Config, timeout_s: float) -> Config:
    """Return the settings with short timeouts: somebody waits."""
    places = settings.destination
    archive = places.archive.model_copy(
        update={"timeout_s": min(timeout_s, places.archive.timeout_s)}
    )
    return settings.model_copy(
        update={"destination": places.model_copy(update={"archive": archive})}
    )


def _looks(settings: Config) -> Iterator[tuple[str, Callable[[], str]]]:
    if settings.destination.archive.enabled:
        yield "archive", lambda: _archive(settings)
    for entry in settings.destination.dicomweb:
        yield entry.name, lambda e=entry: _dicomweb(e)  # type: ignore[misc]
    for ris in settings.destination.hl7:
        yield ris.name, lambda e=ris: _template(e)  # type: ignore[misc]


def _told(name: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "text": look()}
    except LimenError as exc:
        return {"name": name, "ok": False, "text": str(exc)}


def _archive(settings: Config) -> str:
    archive = registry.archive(settings)
    archive.put(NAME, Content(_BYTES))
    with tempfile.TemporaryDirectory(prefix="limen-") as folder:
        path = Path(folder) / "read"
        if not archive.get(NAME, path) or path.read_bytes() != _BYTES:
            raise LimenError("the archive does not give back what was written; who else uses it?")
    bucket = settings.destination.archive.bucket
    where = f"the bucket {bucket}" if bucket else f"the folder {settings.archive_dir}"
    removed = archive.remove(NAME)
    return f"{where}: written and read" + (
        ", removed again" if removed else f"; {NAME} stays, as this node may remove nothing"
    )


def _template(entry: Hl7Destination) -> str:
    Template(entry.template)
    return f"{entry.name}: {entry.template or 'the shipped template'} makes a sound ORU^R01"


def _dicomweb(entry: DicomwebDestination) -> str:
    from worker.destinations.dicomweb import DicomwebWay  # noqa: PLC0415 - only who asks pays

    way = DicomwebWay(
        entry.name,
        entry.url,
        min(entry.timeout_s, _TIMEOUT_S),
        username=entry.username,
        password_file=entry.password_file,
        token_file=entry.token_file,
        ca_file=entry.ca_file,
    )
    with way.open((), ask=False) as line:
        line.look()
    return f"{entry.name} at {entry.url} answers"
