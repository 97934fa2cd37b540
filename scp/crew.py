"""The crew: receiving processes beside the receiver, each with a share of the associations.

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
from limen.instance import NewCommitment, NewInstance
from scp.association import Connection
from scp.channel import Channel, Message, Reply
from scp.handlers import Intake
from scp.report import Report
from scp.spool import Spool

__all__ = ["Crew"]

log = structlog.get_logger("scp.crew")

_READY_S = 30.0
_HANDOVER_S = 1.0
_END_S = 5.0
_REPORT_S = 60.0
_BACKOFF_S, _BACKOFF_LIMIT_S, _STEADY_S = 0.2, 10.0, 30.0


class Crew:
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
        self._members = [_Member(self, n) for n in range(config.scp.processes)]

    def start(self) -> None:
        """Start every process and wait until they are ready.

        Raises
        ------
        LimenError
            One is not.
        """
        for member in self._members:
            member.start()
        deadline = time.monotonic() + _READY_S
        for member in self._members:
            if not member.ready.wait(max(0.0, deadline - time.monotonic())):
                self.drain(0)
                raise LimenError("a receiving process did not start; its reason is logged above")

    def serve(self, connection: Connection) -> None:
        """Hand a connection to the process with the fewest.

        Raises
        ------
        OSError
            None can take it.
        """
        ready = [m for m in self._members if m.ready.is_set()]
        if not ready:
            raise ConnectionError("no receiving process")
        min(ready, key=lambda m: len(m.numbers)).serve(connection)

    def report(self, association: int, report: Report) -> bool:
        """Have a report sent on an association; return whether the peer took it."""
        for member in self._members:
            if association in member.numbers:
                return member.report(association, report)
        return False

    def drain(self, seconds: float) -> None:
        """Let open associations end, then the processes."""
        self._stopping.set()
        ends = time.monotonic() + seconds + _END_S
        for member in self._members:
            member.drain(seconds)
        for member in self._members:
            member.join(max(0.1, ends - time.monotonic()))

    # -- called by members -----------------------------------------------------------------------

    def take(self, message: Message, reply: Reply) -> int | None:
        """Take what a process reports; return the number of an association that ended."""
        match message["do"]:
            case "add":
                row = NewInstance.of(message["row"])
                # Its sender has been told Success: from here on it can only wait.
                while not self._added(row, message["association"]):
                    pass
            case "ask":
                reply(self._ask(message))
            case "refused":
                self._intake.refused(message["status"])
            case "rejected":
                self._intake.rejected(message["reason"])
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


class _Member:
    """One receiving process at a time, in a thread that starts the next when it dies."""

    def __init__(self, crew: Crew, number: int) -> None:
        self.numbers: set[int] = set()
        self.ready = threading.Event()
        self._crew = crew
        self._lock = threading.Lock()
        self._handover: socket.socket | None = None
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"crew-{number}", daemon=True)

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
            return bool(channel.ask(message, _REPORT_S))
        except Transient:
            return False

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
        while not self._crew.is_stopping:
            began = time.monotonic()
            owner = uuid.uuid4().hex
            code = self._run_one(owner)
            with self._lock:
                numbers, self.numbers = self.numbers, set()
            if self._crew.is_stopping:
                self._crew.over(numbers)
                return
            log.error("crew.died", code=code, count=len(numbers))
            self._crew.lost(owner, numbers)
            if time.monotonic() - began > _STEADY_S:
                backoff_s = _BACKOFF_S
            self._crew.wait(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_LIMIT_S)

    def _run_one(self, owner: str) -> int:
        """Run one process from its start to its end; return its exit code."""
        handover, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        talk, their_talk = socket.socketpair()
        handover.settimeout(_HANDOVER_S)
        with theirs, their_talk:
            process = subprocess.Popen(
                [sys.executable, "-m", "scp.child", str(theirs.fileno()), str(their_talk.fileno())],
                pass_fds=(theirs.fileno(), their_talk.fileno()),
                stdin=subprocess.DEVNULL,
            )
        channel = Channel(talk, self._on_message)
        self._process, self._channel = process, channel
        opening = threading.Thread(target=self._open, args=(channel, handover, owner), daemon=True)
        opening.start()
        channel.run()
        self.ready.clear()
        with self._lock:
            self._handover = self._channel = None
        handover.close()
        channel.close()
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _open(self, channel: Channel, handover: socket.socket, owner: str) -> None:
        try:
            channel.ask(self._crew.opening(owner), _READY_S)
        except Transient:
            channel.close()  # and the next one is started
            return
        with self._lock:
            self._handover = handover
        self.ready.set()
        if self._crew.is_stopping:
            self.drain(0)

    def _on_message(self, message: Message, reply: Reply) -> None:
        ended: Any = self._crew.take(message, reply)
        if ended is not None:
            self.numbers.discard(ended)
