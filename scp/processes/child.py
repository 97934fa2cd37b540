"""``python -m scp.processes.child``: one receiving process, started by ``parent``.

It gets connections from the receiver, keeps instances, and says so. It opens no port, and knows
neither journal nor broker. When the receiver is gone, so is it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import structlog

from limen import telemetry
from limen.config import Scp
from limen.errors import Busy, LimenError, Transient
from limen.instance import CommitmentReport, NewCommitment, NewInstance
from scp.commitment_messages import Report
from scp.connection import Connection
from scp.processes.channel import Channel, Message, Reply
from scp.roster import TURN_S, Roster
from scp.service import Service
from scp.spool import Spool
from scp.tls import Credentials

__all__ = ["main"]

log = structlog.get_logger("scp.processes.child")

_MESSAGE_BYTES = 4096
_ASK_S = 20.0


class _Child:
    """Serves what comes through the handover socket; reports through the channel."""

    def __init__(self, handover: socket.socket, talk: socket.socket) -> None:
        self._handover = handover
        self._channel = Channel(talk, self._on_message)
        self._roster: Roster | None = None
        self._took: list[tuple[float, float]] = []
        self._measuring = threading.Lock()

    def run(self) -> None:
        """Serve until the receiver says that it is over, or is gone."""
        self._channel.run()
        if self._roster is not None:
            self._roster.abort_all()

    def add(self, instance: NewInstance, association: int) -> None:
        """Report a kept instance (``scp.intake.Intake``)."""
        message = {"do": "add", "row": instance.row(), "association": association}
        self._channel.tell(message | self._measured())

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Pass a request for storage commitment on."""
        message = {"do": "ask", "asked": asdict(asked), "association": association}
        fault = self._channel.ask(message, _ASK_S)
        if fault is not None:
            raise Transient(fault)

    def reported(self, report: CommitmentReport) -> bool:
        """Pass a report of storage commitment on."""
        answer = self._channel.ask({"do": "reported", "report": asdict(report)}, _ASK_S)
        if isinstance(answer, str):
            raise Transient(answer)
        return bool(answer)

    def refused(self, status: int, reason: str) -> None:
        """Report an answer to C-STORE that is not Success."""
        self._tell({"do": "refused", "status": status, "reason": reason})

    def took(self, receiving_s: float, keeping_s: float) -> None:
        """Measure an answer to C-STORE; the receiver is told with whatever it is told next."""
        with self._measuring:
            self._took.append((receiving_s, keeping_s))

    def _measured(self) -> Message:
        with self._measuring:
            took, self._took = self._took, []
        return {"took": took} if took else {}

    def not_kept(self, association: int, status: int, comment: str) -> None:
        """Report what an association was refused."""
        said = {"association": association, "status": status, "comment": comment}
        self._tell({"do": "not_kept", **said})

    def rejected(self, reason: str, peer: str, address: str) -> None:
        """Report an association that was refused."""
        self._tell({"do": "rejected", "reason": reason, "peer": peer, "address": address})

    def _on_message(self, message: Message, reply: Reply) -> None:
        match message["do"]:
            case "begin":
                self._begin(message)
                reply("ready")
            case "report":
                threading.Thread(target=self._report, args=(message, reply), daemon=True).start()
            case "drain":
                threading.Thread(target=self._drain, args=(message["seconds"],)).start()

    def _begin(self, message: Message) -> None:
        settings = Scp.model_validate(message["settings"])
        telemetry.configure(message["level"], message["format"], "limen-scp")
        spool = Spool(Path(message["spool"]), settings.min_free_bytes, message["owner"])
        credentials = Credentials(settings.tls) if settings.tls.port else None
        service = Service.of(settings, spool, self, credentials)
        self._roster = Roster(service, lambda n: self._tell({"do": "ended", "association": n}))
        threading.Thread(target=self._take, args=(self._roster,), daemon=True).start()

    def _report(self, message: Message, reply: Reply) -> None:
        report = Report(
            message["transaction"],
            tuple((c, i) for c, i in message["kept"]),
            tuple((c, i, r) for c, i, r in message["failed"]),
        )
        roster = self._roster
        try:
            reply(roster is not None and roster.report(message["association"], report))
        except Busy as exc:
            reply(str(exc))

    def _take(self, roster: Roster) -> None:
        """Take connections: a line of JSON each, with the socket attached to it."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._handover, _MESSAGE_BYTES, 1)
            if not data:
                return
            said = json.loads(data)
            if not descriptors:  # the kernel had none left for this process, and closed it
                log.error("process.exhausted", address=said["address"])
                self._tell({"do": "ended", "association": said["number"]})
                continue
            sock = socket.socket(fileno=descriptors[0])
            try:
                roster.serve(Connection(said["number"], sock, said["address"], said["secure"]))
            except RuntimeError:  # no thread to be had
                sock.close()
                self._tell({"do": "ended", "association": said["number"]})

    def _drain(self, seconds: float) -> None:
        if self._roster is not None:
            self._roster.drain(seconds)
        self._channel.close()

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(LimenError):  # without a receiver this process ends
            self._channel.tell(message | self._measured())


def main() -> None:
    """Serve until the receiver ends; the two descriptors are on the command line."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the receiver decides, and is told the same
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(TURN_S)
    handover, talk = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    _Child(handover, talk).run()
    # Threads that a peer still holds on to have nothing to lose: the spool is durable as it is.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
