"""Storage Commitment Push Model, SCP (PS3.4 J): what the spool holds is vouched for, nothing else.

A request (N-ACTION) is in the journal before it is answered. A thread then looks at each instance
again, class, size and digest of the file, and reports (N-EVENT-REPORT): on the association that
asked while that is there, else on a new one to the address and port of the peer, again and again
until the peer takes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Protocol

import structlog

from limen.config import Config
from limen.errors import LimenError, Permanent, Transient
from limen.instance import NewCommitment
from limen.journal import Commitment, Journal, StoredInstance, backoff_s, host_name
from limen.states import WorkState
from limen.uids import key_of
from scp.guard import Guard
from scp.header import IMPLICIT_VR
from scp.report import Report
from scp.sop_classes import COMMITMENT, COMMITMENT_INSTANCE
from scp.spool import digest_of

__all__ = ["Commitments", "Reporter"]

log = structlog.get_logger("scp.commitment")

# Failure reasons (PS3.3 C.14.1.1).
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119

_TICK_S = 5.0
_LEASE_S = 600.0
_TIMEOUT_S = 10.0


class Reporter(Protocol):
    """Sends a report on an association that is open."""

    def report(self, association: int, report: Report) -> bool:
        """Return whether the peer took it."""


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
        self._owner = f"{host_name()}:{os.getpid()}"
        self._asked_on: dict[str, int] = {}
        self._bell = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commitments", daemon=True)

    def start(self) -> None:
        """Start the thread; what was not answered before a restart is answered now."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; what is not answered stays due."""
        self._stopping = True
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Take a request.

        Raises
        ------
        Unreachable
            The journal does not answer.
        """
        key = self._journal.ask_commitment(asked)
        self._asked_on[key] = association
        log.info("commitment.asked", peer=asked.peer, count=len(asked.instances))
        self._bell.set()

    def examine(self, asked: NewCommitment) -> Report:
        """Look at every instance of a request: journal row, file, size, digest."""
        self._flush()
        stored = self._journal.stored([key_of(uid) for _, uid in asked.instances])
        kept, failed = [], []
        for sop_class, uid in asked.instances:
            reason = self._fault(sop_class, stored.get(key_of(uid), []))
            if reason is None:
                kept.append((sop_class, uid))
            else:
                failed.append((sop_class, uid, reason))
        return Report(asked.transaction_uid, tuple(kept), tuple(failed))

    def answer_next(self) -> bool:
        """Answer the longest due request; return False when there is none."""
        claimed = self._journal.claim_commitment(self._owner, _LEASE_S)
        if claimed is None:
            return False
        asked, queue = claimed.asked, self._config.queue
        try:
            report = self.examine(asked)
            self._deliver(claimed, report)
        except Permanent as exc:
            log.warning("commitment.dead", peer=asked.peer, attempt=claimed.attempts, reason=exc)
            self._settle(claimed, WorkState.DEAD, str(exc))
        except Transient as exc:
            age_s = (self._journal.clock() - claimed.created_at).total_seconds()
            state = WorkState.DEAD if age_s > queue.delivery_give_up_s else WorkState.QUEUED
            wait_s = backoff_s(claimed.attempts, queue.retry_base_s, queue.retry_max_s)
            log.warning("commitment.waiting", peer=asked.peer, attempt=claimed.attempts, reason=exc)
            self._settle(claimed, state, str(exc), wait_s)
        else:
            log.info(
                "commitment.reported",
                peer=asked.peer,
                accepted=len(report.kept),
                refused=len(report.failed),
            )
            self._settle(claimed, WorkState.DONE)
        return True

    def _settle(
        self, claimed: Commitment, state: WorkState, error: str = "", wait_s: float = 0.0
    ) -> None:
        if self._journal.settle_commitment(claimed.key, self._owner, state, error, wait_s):
            self._asked_on.pop(claimed.key, None)

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

    def _deliver(self, claimed: Commitment, report: Report) -> None:
        association = self._asked_on.pop(claimed.key, None)
        if association is not None and self._reporter.report(association, report):
            return
        asked = claimed.asked
        peer = self._guard.listed(asked.peer, asked.address)
        if peer is None or peer.port is None:
            raise Permanent(
                f"the association that asked is over, and [[scp.peer]] {asked.peer} has no port; "
                "set it to where the peer listens for reports"
            )
        send_report(report, asked, peer.port, self._config.scp.ae_title)

    def _run(self) -> None:
        while not self._stopping:
            try:
                while not self._stopping and self.answer_next():
                    pass
            except Exception as exc:  # the thread must outlive any fault of the journal
                known = isinstance(exc, LimenError)
                log.error("commitment.fault", error=exc, exc_info=not known)
            self._bell.wait(_TICK_S)
            self._bell.clear()


def send_report(report: Report, asked: NewCommitment, port: int, ae_title: str) -> None:
    """Report on a new association, as its requestor in the role of the SCP (PS3.4 J.3.3).

    Raises
    ------
    Transient
        The peer does not answer, or does not take it now.
    """
    # pynetdicom costs 30 MB: only receivers that need it pay.
    from pydicom.filereader import read_dataset  # noqa: PLC0415
    from pynetdicom import AE, build_role  # noqa: PLC0415

    explicit, implicit = "1.2.840.10008.1.2.1", IMPLICIT_VR
    where = f"{asked.peer} at {asked.address}:{port}"
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _TIMEOUT_S
    ae.add_requested_context(COMMITMENT, [explicit, implicit])
    role = build_role(COMMITMENT, scp_role=True)
    association = ae.associate(asked.address, port, ae_title=asked.peer, ext_neg=[role])
    try:
        if not association.is_established:
            raise Transient(f"{where} does not take reports of storage commitment")
        data_set = read_dataset(BytesIO(report.encode(explicit)), False, True)
        status, _ = association.send_n_event_report(
            data_set, report.event_type, COMMITMENT, COMMITMENT_INSTANCE
        )
    except ValueError as exc:
        raise Transient(f"{where} refused us the role of the one who reports") from exc
    finally:
        if association.is_established:
            association.release()
        wrapper = association.dul.socket  # left open when the peer is not there
        if wrapper is not None and wrapper.socket is not None:
            wrapper.socket.close()
    if "Status" not in status or status.Status != 0:
        raise Transient(f"{where} did not answer the report with Success")
