"""What is kept of a study beside the journal: instances in spool and archive, result documents.

Which revision an instance belongs to is told by times. A document says when the last instance
before it was received and when its revision was complete, which is a second later at least; an
archive stores the instances of a revision before its document. An instance that belongs to none
came after the newest result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info, read_partial

from limen.config import Config
from limen.errors import LimenError, Unreadable
from limen.implementation import MANUFACTURER, RESULT_SOP_CLASSES
from limen.instance import NewInstance
from limen.journal import KeptResult
from limen.result import Phase, Result
from limen.uids import KEY_LENGTH, is_uid, key_of
from worker.destinations.archive import Archive, digest_of
from worker.dicom.datasets import reasons
from worker.work.outbox import Outbox

__all__ = ["Remains", "Study"]

_KEY = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")
_ORIGINAL = re.compile(rf"instances/([0-9a-f]{{{KEY_LENGTH}}})-([0-9a-f]{{16}})\.dcm")
_RESULT = re.compile(r"results/(\d+)-([^/]+)/(.+)-([0-9a-f]{16})(\.\w+)")
_LAST = 0x0020000E  # Series Instance UID: nothing behind it is read
_TEXT_BYTES = 64
_SHADOW = "shadow-"

Content = tuple[str, str]
"""Key of an instance, and the first 16 digits of its digest."""


@dataclass(slots=True)
class Study:
    """What is kept of one study.

    Attributes
    ----------
    instances
        Each with its revision; None: it came after the newest result.
    unreadable
        How many files are no whole instances, or no documents.
    """

    key: str
    instances: list[tuple[int | None, NewInstance]] = field(default_factory=list)
    results: list[KeptResult] = field(default_factory=list)
    unreadable: int = 0


@dataclass(slots=True)
class _Archived:
    """What the archive holds of a study: names, and when each was stored, in seconds."""

    originals: dict[Content, tuple[str, float]] = field(default_factory=dict)
    results: dict[tuple[int, str], dict[str, list[tuple[float, str]]]] = field(default_factory=dict)
    """By revision and part: for each file name the objects that have it, the oldest first."""

    def document_at_s(self, revision: int) -> float | None:
        """Return when the first document of a revision was stored."""
        times = [
            at_s
            for phase in Phase
            for at_s, _ in self.results.get((revision, phase.value), {}).get("result.json", ())
        ]
        return min(times, default=None)


class Remains:
    """Spool, results folder and archive of a node, read study by study."""

    def __init__(self, config: Config, archive: Archive | None) -> None:
        self._spool = config.spool_dir
        self._results = config.results_dir
        self._archive = archive
        self._outbox = Outbox(config.results_dir)

    def studies(self) -> list[str]:
        """Return the key of every study of which anything is kept.

        Raises
        ------
        Transient
            The archive does not answer.
        """
        found: set[str] = set(self._archive.studies() if self._archive else ())
        for root in (self._spool, self._results):
            if root.is_dir():
                found.update(folder.name for folder in root.iterdir())
        return sorted(name for name in found if _KEY.fullmatch(name))

    def of(self, key: str, known: Collection[Content], *, purged: bool) -> Study:
        """Return what is kept of a study.

        Parameters
        ----------
        known
            Instances that have a row: they are not read.
        purged
            It went by policy, and the journal knows that: the archive is not asked.

        Raises
        ------
        Transient
            The archive does not answer.
        """
        study = Study(key)
        archived = _Archived() if purged else self._archived(key)
        study.results = list(self._documents(study, archived))
        times = _Times(study.results, archived)
        here: set[Content] = set()
        for path in sorted((self._spool / key).glob("*.dcm")):
            try:
                one = _instance(path, f"{key}/{path.name}")
            except Unreadable:  # the receiver sets it aside when it starts
                study.unreadable += 1
                continue
            here.add(_content(one))
            study.instances.append((times.revision(one), one))
        for content in archived.originals.keys() - here - set(known):
            brought = self._from_archive(study, archived, content, times)
            if brought is not None:
                study.instances.append(brought)
        study.instances.sort(key=lambda pair: pair[1].received_at)
        return study

    def bring_results_back(self, study: Study) -> None:
        """Write the result files that only the archive holds into the results folder.

        Raises
        ------
        Transient
            The archive does not answer, or the disk is full.
        """
        archived = self._archived(study.key)
        for kept in study.results:
            part = f"{_SHADOW}{kept.shadow}" if kept.shadow else kept.result.phase.value
            if (self._results / study.key / str(kept.result.revision) / part).exists():
                continue
            objects = archived.results.get((kept.result.revision, part), {})
            bodies = {
                name: self._read(found[-1][1])
                for name, found in objects.items()
                if name in kept.result.file_names()
            }
            document = self._read(_named(objects["result.json"], kept.sha256))
            self._outbox.put(study.key, kept.result, document, bodies, kept.shadow)

    # -- what there is -------------------------------------------------------------------------

    def _archived(self, key: str) -> _Archived:
        found = _Archived()
        for stored in self._archive.below(key) if self._archive else ():
            name = stored.name.removeprefix(f"{key}/")
            if original := _ORIGINAL.fullmatch(name):
                sop_key, digest = original.groups()
                found.originals[sop_key, digest] = (stored.name, stored.at_s)
            elif result := _RESULT.fullmatch(name):
                revision, part, stem, _, suffix = result.groups()
                files = found.results.setdefault((int(revision), part), {})
                files.setdefault(f"{stem}{suffix}", []).append((stored.at_s, stored.name))
        for files in found.results.values():
            for objects in files.values():
                objects.sort()
        return found

    def _documents(self, study: Study, archived: _Archived) -> Iterator[KeptResult]:
        """Yield every document, that of the results folder before that of the archive."""
        places = {
            (int(path.parent.parent.name), path.parent.name)
            for path in (self._results / study.key).glob("[0-9]*/*/result.json")
        } | {place for place, files in archived.results.items() if "result.json" in files}
        for revision, part in sorted(places):
            if part not in set(Phase) and not part.startswith(_SHADOW):
                continue
            stored = archived.results.get((revision, part), {}).get("result.json", [])
            path = self._results / study.key / str(revision) / part / "result.json"
            try:
                body = path.read_bytes()
            except FileNotFoundError:
                body = self._read(stored[0][1])
            try:
                result = Result.from_json(body)
            except LimenError:
                study.unreadable += 1
                continue
            digest = hashlib.sha256(body).hexdigest()
            there = any(digest[:16] in name for _, name in stored)
            yield KeptResult(result, digest, there, _shadow(part))

    def _from_archive(
        self, study: Study, archived: _Archived, content: Content, times: _Times
    ) -> tuple[int | None, NewInstance] | None:
        """Return an instance that only the archive holds, with the place it had in the spool."""
        sop_key, digest = content
        name, at_s = archived.originals[content]
        several = sum(sop == sop_key for sop, _ in archived.originals) > 1
        relative = f"{study.key}/{sop_key}{f'-{digest}' if several else ''}.dcm"
        with TemporaryDirectory(prefix="limen-repair-") as folder:
            path = Path(folder) / "original"
            if self._archive is None or not self._archive.get(name, path):
                return None
            try:
                found = _instance(path, relative, at_s)
            except Unreadable:
                study.unreadable += 1
                return None
        revision = times.of_archived(at_s)
        return revision, times.dated(found, revision)

    def _read(self, name: str) -> bytes:
        with TemporaryDirectory(prefix="limen-repair-") as folder:
            path = Path(folder) / "object"
            if self._archive is None or not self._archive.get(name, path):
                raise LimenError(f"{name} has gone from the archive meanwhile; run this again")
            return path.read_bytes()


class _Times:
    """Which revision an instance belongs to."""

    def __init__(self, results: Collection[KeptResult], archived: _Archived) -> None:
        self._archived = archived
        self._received: dict[int, datetime] = {}
        self._until_s: dict[int, float] = {}
        for kept in results:
            times, revision = kept.result.timings, kept.result.revision
            received = datetime.fromisoformat(times.received)
            complete = datetime.fromisoformat(times.complete)
            self._received[revision] = received
            self._until_s[revision] = (received + (complete - received) / 2).timestamp()
        stored = {revision: archived.document_at_s(revision) for revision in self._received}
        self._stored_s = {revision: at_s for revision, at_s in stored.items() if at_s is not None}

    def revision(self, one: NewInstance) -> int | None:
        """Return the revision of an instance of the spool.

        One that was brought back from the archive is younger than its revision: then the archive
        knows better.
        """
        came = _first(self._until_s, one.received_at.timestamp())
        stored = self._archived.originals.get(_content(one))
        there = None if stored is None else self.of_archived(stored[1])
        known = [revision for revision in (came, there) if revision is not None]
        return min(known, default=None)

    def of_archived(self, at_s: float) -> int | None:
        """Return the revision of an original that the archive stored then."""
        return _first(self._stored_s, at_s)

    def dated(self, one: NewInstance, revision: int | None) -> NewInstance:
        """Return an instance of the archive with a time at which its revision was received."""
        at = self._received.get(revision or 0)
        return one if at is None else replace(one, received_at=at)


def _first(limits: Mapping[int, float], at_s: float) -> int | None:
    return min((revision for revision, until_s in limits.items() if at_s <= until_s), default=None)


def _content(one: NewInstance) -> Content:
    return one.sop_key, one.digest[:16]


def _shadow(part: str) -> str:
    return part.removeprefix(_SHADOW) if part.startswith(_SHADOW) else ""


def _named(objects: list[tuple[float, str]], sha256: str) -> str:
    return next(name for _, name in objects if sha256[:16] in name)


# -- one file --------------------------------------------------------------------------------------


def _instance(path: Path, relative: str, at_s: float | None = None) -> NewInstance:
    """Return the row of a file as the receiver wrote it.

    Raises
    ------
    Unreadable
        It is not such a file, or not all of it.
    """
    with reasons("it is not an instance as the receiver keeps them"):
        meta = read_file_meta_info(str(path))
        digest = digest_of(path)
        if bytes(meta.get("PrivateInformation", b"")).hex() != digest:
            raise Unreadable("not all of an instance (its SHA-256 does not match)")
        with path.open("rb") as file:
            head = read_partial(file, lambda tag, _vr, _length: tag > _LAST)
        stat = path.stat()
    uids = [_uid(head, tag) for tag in (0x00080016, 0x00080018, 0x0020000D, _LAST)]
    sop_class_uid, sop_uid, study_uid, series_uid = uids
    is_ours = _text(head, 0x00080070) == MANUFACTURER and sop_class_uid in RESULT_SOP_CLASSES
    return NewInstance(
        study_key=key_of(study_uid),
        sop_key=key_of(sop_uid),
        digest=digest,
        study_uid=study_uid,
        series_uid=series_uid,
        sop_uid=sop_uid,
        sop_class_uid=sop_class_uid,
        transfer_syntax=str(meta.TransferSyntaxUID),
        path=relative,
        size_bytes=stat.st_size,
        peer=str(meta.get("SourceApplicationEntityTitle", "")).strip(),
        accession=_text(head, 0x00080050),
        received_at=datetime.fromtimestamp(stat.st_mtime if at_s is None else at_s, UTC),
        is_result=is_ours,
    )


def _uid(head: Dataset, tag: int) -> str:
    value = _raw(head, tag)
    if not is_uid(value):
        raise Unreadable("not an instance as the receiver keeps them (a UID is missing)")
    return value


def _text(head: Dataset, tag: int) -> str:
    value = _raw(head, tag)
    fits = len(value) <= _TEXT_BYTES and value.isascii() and value.isprintable()
    return value if fits else ""


def _raw(head: Dataset, tag: int) -> str:
    """Return a value as its bytes are: the receiver decodes none either."""
    element: Any = head.get_item(tag) if tag in head else None
    value = b"" if element is None else element.value
    return value.strip(b"\0 ").decode("latin-1") if isinstance(value, bytes) else str(value or "")
