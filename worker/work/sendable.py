"""The DICOM objects of a phase, kept beside its result: built once, sent as often as need be.

``<results>/<study key>/<revision>/objects-<phase>/<kinds>/index.json`` and the files it names. A
PACS that was away for a week, and one that is asked again after an update of Limen, get the bytes
that the first attempt had: one SOP Instance UID never stands for two contents.

What rejects objects of earlier revisions is kept in the same way in ``rejected-<phase>/<digest of
what it names>``: each PACS may have other objects.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from limen.durable import sync_folder, write_new
from limen.errors import OutOfSpace, Transient
from limen.result import Phase, Result
from worker.destinations import DicomObject
from worker.dicom.decoder import Decoder
from worker.objects import Kind, Objects, Reference
from worker.objects.build import build, build_rejection
from worker.study.parts import Instance
from worker.work.results import ResultStore

__all__ = ["Sendable"]

_INDEX = "index.json"


class _Lock:
    """A lock that is forgotten when nobody holds it or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Sendable:
    """What is built of results, beside them."""

    def __init__(self, results: ResultStore, decoder: Decoder) -> None:
        self._results = results
        self._decoder = decoder
        self._lock = threading.Lock()
        self._building: WeakValueDictionary[Path, _Lock] = WeakValueDictionary()

    def of(
        self,
        study_key: str,
        result: Result,
        files: Mapping[str, Path],
        instances: Sequence[Instance],
        kinds: frozenset[str],
    ) -> list[DicomObject]:
        """Return the objects of these kinds, in the order to send them; build them if need be.

        Raises
        ------
        OutOfSpace
            The disk is full or failed.
        Transient
            The files cannot be read, or the decoder is gone.
        """
        of_study = self._results.objects(study_key)
        folder = _folder(of_study, result.revision, result.phase) / "-".join(sorted(kinds))
        wanted = {Kind(kind) for kind in kinds}

        def make() -> Objects:
            replaces = _predecessor(of_study, result)
            return build(result, files, instances, self._decoder, wanted, replaces=replaces)

        return self._once(study_key, folder, make)

    def rejection(
        self, study_key: str, result: Result, instances: Sequence[Instance], held: Collection[str]
    ) -> list[DicomObject]:
        """Return what rejects the objects that a PACS has of earlier revisions.

        Parameters
        ----------
        held
            SOP Instance UIDs of ours that it has. What one of them rejects already is not named.

        Returns
        -------
        list of DicomObject
            One, or none where nothing is to be rejected.

        Raises
        ------
        OutOfSpace
            The disk is full or failed.
        Transient
            The files cannot be read, or the decoder is gone.
        """
        of_study, revision = self._results.objects(study_key), result.revision
        named = {
            uid
            for number in range(1, revision + 1)
            for folder in of_study.glob(f"{number}/rejected-*/*")
            if any(one.sop_uid in held for one in _references(folder))
            for uid in (_index(folder) or {}).get("rejected", ())
        }
        rejected = {
            one.sop_uid: one
            for number in range(1, revision)
            for folder in sorted(of_study.glob(f"{number}/objects-*/*"))
            for one in _references(folder)
            if one.sop_uid in held and one.sop_uid not in named
        }
        if not rejected:
            return []
        digest = hashlib.sha256(" ".join(sorted(rejected)).encode()).hexdigest()[:16]
        folder = of_study / str(revision) / f"rejected-{result.phase.value}" / digest
        what = list(rejected.values())
        return self._once(
            study_key,
            folder,
            lambda: build_rejection(result, instances, self._decoder, what),
            list(rejected),
        )

    def _once(
        self,
        study_key: str,
        folder: Path,
        make: Callable[[], Objects],
        rejected: Sequence[str] = (),
    ) -> list[DicomObject]:
        """Return what a folder holds; make it if need be."""
        with self._lock_of(folder):  # of two that ask at the same moment one builds
            if _read(folder) is None:
                _write(folder, make(), rejected)
            self._results.share(study_key, folder)
            found = _read(folder)
        if found is None:
            raise Transient("DICOM objects are gone as soon as they were written")
        return found

    def _lock_of(self, folder: Path) -> _Lock:
        with self._lock:
            return self._building.setdefault(folder, _Lock())


def _predecessor(of_study: Path, result: Result) -> tuple[Reference, ...]:
    """Return the last report that was built before for this study; none: there is none."""
    for revision in range(result.revision, 0, -1):
        for phase in (Phase.EXPLANATION, Phase.PREDICTION):
            same = revision == result.revision
            if same and (phase is result.phase or result.phase is Phase.PREDICTION):
                continue
            for folder in sorted(_folder(of_study, revision, phase).glob("*")):
                reports = tuple(r for r in _references(folder) if r.kind is Kind.SR)
                if reports:
                    return reports
    return ()


def _folder(of_study: Path, revision: int, phase: Phase) -> Path:
    return of_study / str(revision) / f"objects-{phase.value}"


def _write(folder: Path, built: Objects, rejected: Sequence[str]) -> None:
    """Write objects and their index as one folder; that of a faster process stays as it is."""
    entries: list[dict[str, Any]] = [asdict(one.reference) for one in built.built]
    refused = [asdict(one) for one in built.refused]
    index = {"built": entries, "refused": refused, "rejected": list(rejected)}
    parents = (folder.parent, folder.parent.parent)
    part = folder.with_name(f".{uuid.uuid4().hex}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.mkdir(mode=0o700)
        for number, one in enumerate(built.built):
            write_new(part / f"{number:03d}.dcm", [one.body])
        write_new(part / _INDEX, [json.dumps(index).encode()])
        sync_folder(part)
        part.rename(folder)  # fails where there is one: somebody may be sending from it
        for parent in parents:
            sync_folder(parent)
    except OSError as exc:
        if not (folder / _INDEX).is_file():
            raise OutOfSpace(f"DICOM objects cannot be written ({exc.strerror})") from exc
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(folder: Path) -> list[DicomObject] | None:
    """Return what a folder holds; None: it is not there."""
    index = _index(folder)
    if index is None:
        return None
    sound = [
        DicomObject(e["kind"], e["sop_class_uid"], e["sop_uid"], folder / f"{number:03d}.dcm")
        for number, e in enumerate(index["built"])
    ]
    return [*sound, *(DicomObject(e["kind"], "", "", None, e["reason"]) for e in index["refused"])]


def _references(folder: Path) -> Iterator[Reference]:
    for entry in (_index(folder) or {"built": ()})["built"]:
        yield Reference(**{**entry, "kind": Kind(entry["kind"])})


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / _INDEX).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise Transient(f"DICOM objects cannot be read ({type(exc).__name__})") from exc
    return found
