"""The channel between the receiver and one of its receiving processes: JSON, one object a line.

Both sides tell and ask. A question carries a number, and its reply the same. Who cannot write for a
while is told so: what a full channel means is back-pressure, not loss.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import structlog

from limen.errors import Busy, Transient, Unreachable

__all__ = ["Channel", "Message", "Reply"]

log = structlog.get_logger("scp.processes.channel")

_WRITABLE_S = 10.0

Message = dict[str, Any]
Reply = Callable[[Any], None]


class Channel:
    """One end.

    Parameters
    ----------
    on_message
        Called in the thread of ``run`` with what the other end tells or asks, and with a function
        that takes the reply; it may be called later, from anywhere, or for what was told, never.
    """

    def __init__(self, sock: socket.socket, on_message: Callable[[Message, Reply], None]) -> None:
        self._sock = sock
        self._on_message = on_message
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[threading.Event, list[Any]]] = {}

    def tell(self, message: Message) -> None:
        """Send a message.

        Raises
        ------
        Busy
            The other end has not been reading for ten seconds.
        Unreachable
            It is gone.
        """
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._writing:
            try:
                sent = self._send_some(line)
                if sent < len(line):  # the rest of a line has to follow, however long it takes
                    self._sock.sendall(line[sent:])
            except (OSError, ValueError) as exc:
                raise Unreachable("the other process of the receiver is gone") from exc

    def _send_some(self, line: bytes) -> int:
        """Return how many bytes the other end has room for, at least one."""
        with contextlib.suppress(BlockingIOError):
            return self._sock.send(line, socket.MSG_DONTWAIT)
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if not poll.poll(_WRITABLE_S * 1000):
            raise Busy("the receiver is not keeping up; send again later")
        return self._sock.send(line)

    def ask(self, message: Message, timeout_s: float) -> Any:
        """Send a question and return the reply.

        Raises
        ------
        Transient
            It did not come in time, or the other end is gone.
        """
        number = next(self._numbers)
        answered, values = self._waiting.setdefault(number, (threading.Event(), []))
        try:
            self.tell({**message, "call": number})
            if not answered.wait(timeout_s) or not values:
                raise Transient("the other process of the receiver did not answer")
            return values[0]
        finally:
            self._waiting.pop(number, None)

    def run(self) -> None:
        """Serve the other end until it is gone."""
        with contextlib.suppress(OSError, ValueError), self._sock.makefile("rb") as lines:
            for line in lines:
                self._take(json.loads(line))
        for answered, _ in list(self._waiting.values()):
            answered.set()

    def close(self) -> None:
        """End both directions; ``run`` returns on both sides."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _take(self, message: Message) -> None:
        if "reply" in message:
            answered, values = self._waiting.get(message["reply"], (None, []))
            if answered is not None:
                values.append(message["value"])
                answered.set()
            return
        call = message.pop("call", None)

        def reply(value: Any) -> None:
            if call is not None:
                with contextlib.suppress(Transient):  # who asked is gone
                    self.tell({"reply": call, "value": value})

        try:
            self._on_message(message, reply)
        except Exception:  # one message must not end the channel
            log.error("channel.fault", exc_info=True)
