"""``limen send``: files and folders by C-STORE, over several associations, failed ones again."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from limen import dimse
from limen.errors import LimenError
from limen.scu import LOST, MAX_CONTEXTS, Answer, Peer, Refused, Requestor, Tls, echo

__all__ = ["Line", "Peer", "Refused", "Report", "Tls", "echo", "files_of", "meaning", "send"]

_NO_ASSOCIATION = "no association"


@dataclass(slots=True)
class Line:
    """One line of the summary: the instances that got the same status."""

    instances: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Report:
    """What became of the files.

    Attributes
    ----------
    sent
        Instances that the peer has now, those with a warning included.
    failed
        Status of each that it has not, after the last try.
    comments
        What the peer said to those (Error Comment), where it said anything.
    skipped
        What is not a DICOM file.
    statuses
        Instances by final status.
    lines
        Instances and bytes by final status.
    retried
        Tries after the first, of all instances.
    refusals
        Why associations beside the first were not opened.
    sent_bytes
        Bytes of the files that the peer has now.
    """

    sent: int = 0
    sent_bytes: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    comments: dict[Path, str] = field(default_factory=dict)
    skipped: list[Path] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    lines: dict[str, Line] = field(default_factory=dict)
    retried: int = 0
    refusals: list[str] = field(default_factory=list)

    def add(self, item: _Item, answer: Answer) -> None:
        """Note the final answer to an instance."""
        self.statuses[answer.status] += 1
        line = self.lines.setdefault(answer.status, Line())
        line.instances += 1
        line.size_bytes += item.size_bytes
        if answer.stored:
            self.sent += 1
            self.sent_bytes += item.size_bytes
            return
        self.failed[item.path] = answer.status
        if answer.comment:
            self.comments[item.path] = answer.comment


@dataclass(frozen=True, slots=True)
class _Item:
    path: Path
    sop_class: str
    syntax: str
    size_bytes: int

    @property
    def context(self) -> tuple[str, str]:
        """What has to be proposed for it."""
        return self.sop_class, self.syntax


def meaning(status: str) -> str:
    """Return what a C-STORE status says, "" for one that speaks for itself (PS3.4 Table B.2-1)."""
    return dimse.meaning(int(status, 16)).words if status.startswith("0x") else ""


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of ``paths``; folders are walked, in order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        else:
            yield path


def send(
    paths: Iterable[Path],
    peer: Peer,
    calling: str,
    timeout_s: float = 30.0,
    on_file: Callable[[Path], None] = lambda path: None,
    *,
    associations: int = 1,
    retries: int = 0,
    retry_wait_s: float = 1.0,
    tls: Tls | None = None,
) -> Report:
    """Send files by C-STORE, their bytes as they are.

    Parameters
    ----------
    timeout_s
        For a connection, for each answer, and for the peer to take a PDU.
    on_file
        Called with each file after its last try, from the thread of its association.
    associations
        How many are open side by side.
    retries
        How often what failed is tried again, where another try may help.
    retry_wait_s
        Before the first retry; doubles with each.

    Raises
    ------
    Refused
        The peer rejected every association: nothing was sent.
    Unreachable
        Nobody listens there: nothing was sent.
    ConfigError
        A file of ``tls`` cannot be used.
    """
    if tls is not None:
        tls.context()  # a file that cannot be used is told before anything is read or sent
    report = Report()
    items = list(_items(paths, report))
    fault: LimenError | None = None
    for attempt in range(retries + 1):
        if attempt:
            report.retried += len(items)
            time.sleep(retry_wait_s * 2 ** (attempt - 1))
        is_last = attempt == retries
        sending = _Round(peer, calling, timeout_s, tls, associations, is_last, on_file, report)
        items = sending.run(items)
        fault = sending.fault or fault
        if not items:
            break
    if fault is not None and set(report.statuses) == {_NO_ASSOCIATION}:
        raise fault
    return report


def _items(paths: Iterable[Path], report: Report) -> Iterator[_Item]:
    for path in paths:
        try:
            meta = read_file_meta_info(path)
            sop_class, syntax = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
            yield _Item(path, sop_class, syntax, path.stat().st_size)
        except (Exception, RecursionError):  # not a DICOM file, or one that only looks like it
            report.skipped.append(path)


class _Round:
    """One try of a list of instances."""

    def __init__(
        self,
        peer: Peer,
        calling: str,
        timeout_s: float,
        tls: Tls | None,
        associations: int,
        is_last: bool,
        on_file: Callable[[Path], None],
        report: Report,
    ) -> None:
        self._peer = peer
        self._calling = calling
        self._timeout_s = timeout_s
        self._tls = tls
        self._associations = associations
        self._is_last = is_last
        self._on_file = on_file
        self._report = report
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self.fault: LimenError | None = None
        """Why not even one association was opened."""

    def run(self, items: list[_Item]) -> list[_Item]:
        """Send; return what should be tried again."""
        wanted = sorted({item.context for item in items})
        again: list[_Item] = []
        for start in range(0, len(wanted), MAX_CONTEXTS):
            contexts = wanted[start : start + MAX_CONTEXTS]
            chosen = set(contexts)
            again += self._run_group([i for i in items if i.context in chosen], contexts)
        return again

    def _run_group(self, items: list[_Item], contexts: list[tuple[str, str]]) -> list[_Item]:
        """Send what one set of contexts is enough for, over several associations."""
        waiting, again = deque(items), list[_Item]()
        faults: list[LimenError] = []
        opened = threading.Event()

        def work() -> None:
            try:
                with Requestor(
                    self._peer, self._calling, contexts, self._timeout_s, self._tls
                ) as requestor:
                    opened.set()
                    self._drain(requestor, waiting, again)
            except LimenError as exc:
                faults.append(exc)

        threads = [
            threading.Thread(target=work, name=f"association {n}")
            for n in range(min(self._associations, len(items)))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: let each association end after its instance
            self._stopping.set()
            for thread in threads:
                thread.join()
            raise
        if opened.is_set():
            self._report.refusals += [str(fault) for fault in faults]
            left = LOST  # every association was lost on the way
        else:
            self.fault = faults[0]
            passing = not isinstance(self.fault, Refused) or self.fault.transient
            kind = dimse.Kind.TRANSIENT if passing else dimse.Kind.PERMANENT
            left = Answer(_NO_ASSOCIATION, str(self.fault), kind)
        while waiting:
            self._note(waiting.popleft(), left, again)
        return again

    def _drain(self, requestor: Requestor, waiting: deque[_Item], again: list[_Item]) -> None:
        message_id = 0
        while requestor.is_open and not self._stopping.is_set():
            try:
                item = waiting.popleft()
            except IndexError:
                return
            message_id = message_id % 0xFFFF + 1
            self._note(item, requestor.store(item.path, message_id), again)

    def _note(self, item: _Item, answer: Answer, again: list[_Item]) -> None:
        if not (answer.stored or self._is_last) and answer.may_pass_later:
            again.append(item)
            return
        with self._writing:
            self._report.add(item, answer)
        self._on_file(item.path)
