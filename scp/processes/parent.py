"""Receiving processes beside the receiver, each with a share of the associations.

The receiver accepts, counts and then hands the connection itself to the process with the least to
do (SCM_RIGHTS): the caps hold for all together, and four associations on two processes are two
each. With SO_REUSEPORT the kernel would deal them out by hash, and a process that dies would take
the connections that wait in its queue along.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog

from limen.config import Config
from limen.errors import Busy, LimenError, Transient
from limen.instance import CommitmentReport, NewCommitment, NewInstance
from scp.commitment_messages import Report
from scp.connection import Connection
from scp.intake import Intake
from scp.processes.channel import Channel, Message, Reply
from scp.spool import Spool

__all__ = ["ReceivingProcesses"]

log = structlog.get_logger("scp.processes.parent")

_READY_S = 30.0
_HANDOVER_S = 1.0
_END_S = 5.0
_REPORT_S = 60.0
_BACKOFF_S, _BACKOFF_LIMIT_S, _STEADY_S = 0.2, 10.0, 30.0


class ReceivingProcesses:
    """Starts receiving processes, hands connections to them, and starts again what dies.

    Parameters
    ----------
    intake
        Where they report to.
    on_end
        Called with the number of an association when it is over.
    on_loss
        Called when a process died: the spool may hold instances that it did not report.
    """

    def __init__(
        self,
        config: Config,
        spool: Spool,
        intake: Intake,
        on_end: Callable[[int], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._config = config
        self._spool = spool
        self._intake = intake
        self._on_end = on_end
        self._on_loss = on_loss
        self._stopping = threading.Event()
        self._processes = [_ReceivingProcess(self, n) for n in range(config.scp.processes)]

    def start(self) -> None:
        """Start every process and wait until they are ready.

        Raises
        ------
        LimenError
            One is not.
        """
        for process in self._processes:
            process.start()
        deadline = time.monotonic() + _READY_S
        for process in self._processes:
            if not process.ready.wait(max(0.0, deadline - time.monotonic())):
                self.drain(0)
                raise LimenError("a receiving process did not start; its reason is logged above")

    def serve(self, connection: Connection) -> None:
        """Hand a connection to the process with the fewest.

        Raises
        ------
        OSError
            None can take it.
        """
        ready = [p for p in self._processes if p.ready.is_set()]
        if not ready:
            raise ConnectionError("no receiving process")
        min(ready, key=lambda p: len(p.numbers)).serve(connection)

    def report(self, association: int, report: Report) -> bool:
        """Have a report sent on an association; return whether the peer took it.

        Raises
        ------
        Busy
            The association is there, but in the middle of a message.
        """
        for process in self._processes:
            if association in process.numbers:
                return process.report(association, report)
        return False

    def drain(self, seconds: float) -> None:
        """Let open associations end, then the processes."""
        self._stopping.set()
        ends = time.monotonic() + seconds + _END_S
        for process in self._processes:
            process.drain(seconds)
        for process in self._processes:
            process.join(max(0.1, ends - time.monotonic()))

    # -- called by each of them ---------------------------------------------------------------

    def take(self, message: Message, reply: Reply) -> int | None:
        """Take what a process reports; return the number of an association that ended."""
        for receiving_s, keeping_s in message.get("took", ()):
            self._intake.took(receiving_s, keeping_s)
        match message["do"]:
            case "add":
                row = NewInstance.of(message["row"])
                # Its sender has been told Success: from here on it can only wait.
                while not self._added(row, message["association"]):
                    pass
            case "ask":
                reply(self._ask(message))
            case "reported":
                reply(self._reported(message["report"]))
            case "refused":
                self._intake.refused(message["status"], message["reason"])
            case "not_kept":
                said = (message["status"], message["comment"])
                self._intake.not_kept(message["association"], *said)
            case "rejected":
                self._intake.rejected(message["reason"], message["peer"], message["address"])
            case "ended":
                self._on_end(message["association"])
                return int(message["association"])
        return None

    def _ask(self, message: Message) -> str | None:
        """Keep a request for storage commitment; return why it cannot be."""
        fields = message["asked"]
        pairs = tuple((c, i) for c, i in fields["instances"])
        try:
            self._intake.ask(
                NewCommitment(**(fields | {"instances": pairs})), message["association"]
            )
        except LimenError as exc:
            return str(exc)
        return None

    def _reported(self, fields: Message) -> bool | str:
        """Take a report of storage commitment; return whether it was asked for, or a fault."""
        kept = tuple(fields["kept"])
        failed = tuple((uid, reason) for uid, reason in fields["failed"])
        try:
            return self._intake.reported(CommitmentReport(fields["transaction_uid"], kept, failed))
        except LimenError as exc:
            return str(exc)

    def _added(self, row: NewInstance, association: int) -> bool:
        try:
            self._intake.add(row, association)
        except Busy:
            return False
        return True

    def lost(self, owner: str, numbers: set[int]) -> None:
        """Clean up behind a process that died."""
        self._spool.remove_parts(owner)
        self.over(numbers)
        self._on_loss()

    def over(self, numbers: set[int]) -> None:
        """Note that associations are over whose process cannot say so any more."""
        for number in sorted(numbers):
            self._on_end(number)

    @property
    def is_stopping(self) -> bool:
        """Whether processes are meant to end."""
        return self._stopping.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until ``drain``."""
        self._stopping.wait(seconds)

    def opening(self, owner: str) -> Message:
        """Return all that a process needs to know."""
        config = self._config
        return {
            "do": "begin",
            "settings": config.scp.model_dump(mode="json"),
            "spool": str(config.spool_dir),
            "owner": owner,
            "level": config.log.level,
            "format": config.log.format,
        }


class _ReceivingProcess:
    """One receiving process at a time, in a thread that starts the next when it dies."""

    def __init__(self, every: ReceivingProcesses, number: int) -> None:
        self.numbers: set[int] = set()
        self.ready = threading.Event()
        self._all = every
        self._lock = threading.Lock()
        self._handover: socket.socket | None = None
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"receiving-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def serve(self, connection: Connection) -> None:
        said = {
            "number": connection.number,
            "address": connection.address,
            "secure": connection.secure,
        }
        with self._lock:
            if self._handover is None:
                raise ConnectionError("no receiving process")
            self.numbers.add(connection.number)
            try:
                data = json.dumps(said).encode()
                socket.send_fds(self._handover, [data], [connection.sock.fileno()])
            except OSError:
                self.numbers.discard(connection.number)
                raise
        connection.sock.close()

    def report(self, association: int, report: Report) -> bool:
        channel = self._channel
        if channel is None:
            return False
        message = {
            "do": "report",
            "association": association,
            "transaction": report.transaction_uid,
            "kept": report.kept,
            "failed": report.failed,
        }
        try:
            answer = channel.ask(message, _REPORT_S)
        except Transient:
            return False
        if isinstance(answer, str):
            raise Busy(answer)
        return bool(answer)

    def drain(self, seconds: float) -> None:
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(Transient):
                channel.tell({"do": "drain", "seconds": seconds})

    def join(self, timeout_s: float) -> None:
        """Wait for the process; end it when it takes too long."""
        self._thread.join(timeout_s)
        process = self._process
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join(_END_S)

    def _keep(self) -> None:
        backoff_s = _BACKOFF_S
        while not self._all.is_stopping:
            began = time.monotonic()
            owner = uuid.uuid4().hex
            fields: dict[str, object] = {}
            try:
                fields["code"] = self._run_one(owner)
            except Exception as exc:  # the edge: out of memory, descriptors or threads, for now
                fields["error"] = exc
            with self._lock:
                numbers, self.numbers = self.numbers, set()
            if self._all.is_stopping:
                self._all.over(numbers)
                return
            if time.monotonic() - began > _STEADY_S:
                backoff_s = _BACKOFF_S
            log.error("process.died", count=len(numbers), seconds=backoff_s, **fields)
            self._all.lost(owner, numbers)
            self._all.wait(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_LIMIT_S)

    def _run_one(self, owner: str) -> int:
        """Run one process from its start to its end; return its exit code.

        Raises
        ------
        OSError
            It cannot be started.
        """
        with contextlib.ExitStack() as ours:
            handover, theirs = map(
                ours.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            talk, their_talk = map(ours.enter_context, socket.socketpair())
            handover.settimeout(_HANDOVER_S)
            inherited = (theirs.fileno(), their_talk.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "scp.processes.child", *map(str, inherited)],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
            )
            theirs.close()
            their_talk.close()
            self._serve_until_gone(process, Channel(talk, self._on_message), handover, owner)
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _serve_until_gone(
        self,
        process: subprocess.Popen[bytes],
        channel: Channel,
        handover: socket.socket,
        owner: str,
    ) -> None:
        with self._lock:
            self._process, self._channel = process, channel
        threading.Thread(target=self._open, args=(channel, handover, owner), daemon=True).start()
        channel.run()
        with self._lock:
            self.ready.clear()
            self._handover = self._channel = None
        channel.close()

    def _open(self, channel: Channel, handover: socket.socket, owner: str) -> None:
        try:
            channel.ask(self._all.opening(owner), _READY_S)
        except Transient:
            channel.close()  # and the next one is started
            return
        with self._lock:
            if self._channel is not channel:  # it has died since
                return
            self._handover = handover
            self.ready.set()
        if self._all.is_stopping:
            self.drain(0)

    def _on_message(self, message: Message, reply: Reply) -> None:
        ended: Any = self._all.take(message, reply)
        if ended is not None:
            self.numbers.discard(ended)
