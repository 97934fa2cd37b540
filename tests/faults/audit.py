"""The auditor: what senders were told against what the node has, everywhere it keeps anything.

Every invariant that is broken is one line: which (docs/reliability.md), of what, and how.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from limen.journal import StudyRow
from limen.states import OVER, WorkState
from limen.uids import key_of
from scp.spool import digest_of
from tests.support.journals import paths
from tests.support.node import ENDED, Node

__all__ = ["Ledger", "audit", "kept"]


@dataclass
class Ledger:
    """What a sender was answered Success for.

    Attributes
    ----------
    studies
        By StudyInstanceUID: SHA-256 of the data set by SOPInstanceUID.
    """

    studies: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, acknowledged: Iterable[Path]) -> None:
        """Note files that the node has said to have."""
        for path in acknowledged:
            head = dcmread(path, stop_before_pixels=True)
            self.studies[head.StudyInstanceUID][head.SOPInstanceUID] = digest_of(path)

    @property
    def instances(self) -> int:
        """How many were acknowledged."""
        return sum(map(len, self.studies.values()))


def audit(node: Node, ledger: Ledger) -> list[str]:
    """Return every invariant that a node breaks; its results server has to run.

    The node is at rest: nothing is sent to it, and all its work has ended.
    """
    found = kept(node, ledger)
    for study_uid, digests in ledger.studies.items():
        found += _archived(node, study_uid, digests)
        rows = node.rows(study_uid)
        if not rows:
            found.append(f"I3 {study_uid}: the journal does not know it")
            continue
        found += _ends(rows)
        found += _results(node, rows)
        if rows[0].instances != len(digests):
            found.append(
                f"I4 {study_uid}: {rows[0].instances} instances of {len(digests)} acknowledged"
            )
    return found


def kept(node: Node, ledger: Ledger) -> list[str]:
    """Return what a receiver breaks: spool, journal, and what was acknowledged."""
    found = list(_spool_and_journal(node))
    for study_uid, digests in ledger.studies.items():
        found += _instances(node, study_uid, digests)
    return found


def _spool_and_journal(node: Node) -> Iterator[str]:
    spool = node.config.spool_dir
    there = {f"{p.parent.name}/{p.name}" for p in spool.glob("*/*.dcm")}
    known = paths(node.journal)
    yield from (f"I2 {one}: in the spool, not in the journal" for one in there - known)
    yield from (f"I2 {one}: in the journal, not in the spool" for one in known - there)
    yield from (f"I7 {one.name}: left half written" for one in spool.rglob("*.part"))


def _instances(node: Node, study_uid: str, digests: dict[str, str]) -> Iterator[str]:
    folder = node.config.spool_dir / key_of(study_uid)
    for sop_uid, digest in digests.items():
        file = folder / f"{key_of(sop_uid)}.dcm"
        if not file.is_file():
            yield f"I2 {sop_uid}: acknowledged, and not in the spool"
        elif digest_of(file) != digest:
            yield f"I1 {sop_uid}: the spool holds other bytes than were acknowledged"


def _archived(node: Node, study_uid: str, digests: dict[str, str]) -> Iterator[str]:
    archived = node.config.archive_dir / key_of(study_uid) / "instances"
    for sop_uid, digest in digests.items():
        copies = list(archived.glob(f"{key_of(sop_uid)}-*.dcm"))
        if [digest_of(copy) for copy in copies] != [digest]:
            yield f"I4 {sop_uid}: the archive holds it {len(copies)} times, or other bytes"


def _ends(rows: list[StudyRow]) -> Iterator[str]:
    for row in rows:
        name = f"{row.study_uid} revision {row.revision}"
        if row.state not in ENDED or row.outcome is None:
            yield f"I3 {name}: {row.state}, outcome {row.outcome}"
        for work in (*row.jobs, *row.shadows, *row.deliveries):
            if work.state not in OVER | {WorkState.DEAD}:
                yield f"I3 {work.key}: {work.state}"
            elif work.state == WorkState.DEAD:
                yield f"I6 {work.key}: given up after {work.attempts}: {work.last_error}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _results(node: Node, rows: list[StudyRow]) -> Iterator[str]:
    key, newest = rows[0].study_key, rows[0]
    for row in rows:
        for phase in {job.phase for job in row.jobs}:
            committed = node.journal.events.committed(key, row.revision, phase)
            archived = node.config.archive_dir / key / "results" / f"{row.revision}-{phase}"
            digests = [_sha256(path) for path in archived.glob("result-*.json")]
            if digests != [committed]:
                yield f"I4 {key} {row.revision}-{phase}: {len(digests)} in the archive"
    shown = node.page(f"/api/v1/studies/{newest.study_uid}")
    if shown.status_code != 200:
        yield f"I3 {key}: the results server answers {shown.status_code}"
        return
    told = shown.json()
    if (told["revision"], told["outcome"]) != (newest.revision, newest.outcome):
        yield f"I3 {key}: people read {told['outcome']} of revision {told['revision']}"
    if len(told["revisions"]) != len(set(told["revisions"])):
        yield f"I4 {key}: people read a revision twice"
