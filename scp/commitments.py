"""Storage Commitment Push Model, SCP (PS3.4 J): what the spool holds is vouched for, nothing else.

A request (N-ACTION) is in the journal before it is answered. A thread then looks at each instance
again, class, size and digest of the file, and reports (N-EVENT-REPORT): on the association that
asked while that is there, else on a new one to the address and port of the peer, again and again
until the peer takes it.

A request is claimed under a lease, renewed while it is answered: what a receiver that was killed
had claimed is answered by the next one as soon as the lease ends, ``queue.lease_s`` later.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Protocol

import structlog

from limen.config import Config
from limen.errors import LimenError, Permanent, Transient, Unreachable
from limen.instance import NewCommitment
from limen.journal import Commitment, Journal, StoredInstance, backoff_s, host_name
from limen.rounds import Rounds
from limen.states import WorkState
from limen.uids import key_of
from scp.commitment_messages import Report
from scp.guard import Guard
from scp.sop_classes import COMMITMENT
from scp.spool import digest_of
from scp.statuses import CLASS_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE

__all__ = ["Commitments", "Reporter"]

log = structlog.get_logger("scp.commitments")

_TICK_S = 5.0
_TIMEOUT_S = 10.0


class Reporter(Protocol):
    """Sends a report on an association that is open."""

    def report(self, association: int, report: Report) -> bool:
        """Return whether the peer took it.

        Raises
        ------
        Busy
            The association is there, but in the middle of something else.
        """


class Commitments:
    """Answers requests, in a thread of its own.

    Parameters
    ----------
    flush
        Waits until everything kept so far has its row.
    reporter
        Reaches the associations that are open.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        flush: Callable[[], None],
        reporter: Reporter,
    ) -> None:
        self._config = config
        self._journal = journal
        self._flush = flush
        self._reporter = reporter
        self._guard = Guard(config.scp)
        self._owner = f"{host_name()}:{uuid.uuid4().hex[:12]}"
        self._lease_s = config.queue.lease_s
        # Held while a row and what is known of it here change together: without it a request
        # could be answered before it is known on which association it came.
        self._lock = threading.Lock()
        self._asked_on: dict[str, int] = {}
        self._claimed: str | None = None
        self._answering = Rounds("commitments", self._answer_all, _TICK_S)
        self._renewing = Rounds("commitment lease", self._renew, self._lease_s / 3)

    def start(self) -> None:
        """Start the threads; what was not answered before a restart is answered now."""
        self._answering.start()
        self._renewing.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the threads; what is not answered is due for whoever comes next."""
        ended = self._answering.stop(timeout_s)
        self._renewing.stop()
        claimed = self._claimed
        if ended or claimed is None:
            return
        with contextlib.suppress(Transient):  # else its lease ends
            self._journal.commitments.settle(claimed, self._owner, WorkState.QUEUED)

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Take a request.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        with self._lock:
            key = self._journal.commitments.ask(asked)
            self._asked_on[key] = association
        log.info("commitment.asked", peer=asked.peer, count=len(asked.instances))
        self._answering.ring()

    def examine(self, asked: NewCommitment) -> Report:
        """Look at every instance of a request: journal row, file, size, digest."""
        self._flush()
        stored = self._journal.receiving.stored([key_of(uid) for _, uid in asked.instances])
        kept, failed = [], []
        for sop_class, uid in asked.instances:
            reason = self._fault(sop_class, stored.get(key_of(uid), []))
            if reason is None:
                kept.append((sop_class, uid))
            else:
                failed.append((sop_class, uid, reason))
        return Report(asked.transaction_uid, tuple(kept), tuple(failed))

    def answer_next(self) -> bool:
        """Answer the longest due request; return False when there is none.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        with self._lock:
            claimed = self._journal.commitments.claim(self._owner, self._lease_s)
            if claimed is None:
                return False
            self._claimed = claimed.key
            association = self._asked_on.get(claimed.key)
        try:
            self._answer(claimed, association)
        finally:
            self._claimed = None
        return True

    def _answer(self, claimed: Commitment, association: int | None) -> None:
        asked, queue = claimed.asked, self._config.queue
        try:
            report = self.examine(asked)
            self._deliver(asked, association, report)
        except LimenError as exc:
            age_s = (self._journal.clock() - claimed.created_at).total_seconds()
            dead = isinstance(exc, Permanent) or age_s > queue.delivery_give_up_s
            wait_s = backoff_s(claimed.attempts, queue.retry_base_s, queue.retry_max_s)
            event = "commitment.dead" if dead else "commitment.waiting"
            log.warning(event, peer=asked.peer, attempt=claimed.attempts, reason=exc)
            self._settle(claimed, WorkState.DEAD if dead else WorkState.QUEUED, str(exc), wait_s)
        else:
            log.info(
                "commitment.reported",
                peer=asked.peer,
                accepted=len(report.kept),
                refused=len(report.failed),
            )
            self._settle(claimed, WorkState.DONE)

    def _settle(
        self, claimed: Commitment, state: WorkState, error: str = "", wait_s: float = 0.0
    ) -> None:
        with self._lock:
            settled = self._journal.commitments.settle(
                claimed.key, self._owner, state, error, wait_s
            )
            if settled and state is not WorkState.QUEUED:
                self._asked_on.pop(claimed.key, None)

    def _renew(self) -> None:
        claimed = self._claimed
        if claimed is not None:
            self._journal.commitments.renew(claimed, self._owner, self._lease_s)

    def _fault(self, sop_class: str, contents: Iterable[StoredInstance]) -> int | None:
        """Return why an instance is not vouched for; of several contents, all have to be there."""
        reason: int | None = NO_SUCH_INSTANCE
        for stored in contents:
            if stored.sop_class_uid != sop_class:
                return CLASS_CONFLICT
            path: Path = self._config.spool_dir / stored.path
            try:
                if path.stat().st_size != stored.size_bytes or digest_of(path) != stored.digest:
                    return PROCESSING_FAILURE
            except FileNotFoundError:
                return NO_SUCH_INSTANCE
            except (OSError, LimenError):
                return PROCESSING_FAILURE
            reason = None
        return reason

    def _deliver(self, asked: NewCommitment, association: int | None, report: Report) -> None:
        if association is not None and self._reporter.report(association, report):
            return
        peer = self._guard.listed(asked.peer, asked.address)
        if peer is None or peer.port is None:
            # The settings can be put right; the report must then go without being asked for again.
            raise Unreachable(
                "the report was not taken on the association that asked, or that is over, and "
                f"[[scp.peer]] {asked.peer} has no port; set it to where the peer listens for "
                "reports"
            )
        send_report(report, asked, peer.port, self._config.scp.ae_title)

    def _answer_all(self) -> None:
        while not self._answering.stopping and self.answer_next():
            pass


def send_report(report: Report, asked: NewCommitment, port: int, ae_title: str) -> None:
    """Report on a new association, as its requestor in the role of the SCP (PS3.4 J.3.3).

    Raises
    ------
    Transient
        The peer does not answer, or does not take it now.
    """
    # pynetdicom costs 30 MB: only receivers that need it pay.
    from pydicom.filereader import read_dataset  # noqa: PLC0415

    from limen.scu import EXPLICIT, IMPLICIT, NOT_ACCEPTED, Peer, Refused, Requestor  # noqa: PLC0415

    peer = Peer(asked.peer, asked.address, port)
    contexts = [(COMMITMENT, EXPLICIT), (COMMITMENT, IMPLICIT)]
    data_set = read_dataset(BytesIO(report.encode(EXPLICIT)), False, True)
    try:
        with Requestor(peer, ae_title, contexts, _TIMEOUT_S, provides=[COMMITMENT]) as requestor:
            answer = requestor.tell(report.event_type, data_set)
    except (Refused, Unreachable) as exc:
        raise Transient(f"{peer} does not take reports of storage commitment: {exc}") from exc
    if answer is NOT_ACCEPTED:
        raise Transient(f"{peer} refused us the role of the one who reports")
    if not answer.stored:
        raise Transient(f"{peer} did not answer the report with Success: {answer}")
