"""A syslog collector that takes RFC 5425 strictly: TLS, counted messages, RFC 5424 headers."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.support.ports import free_ports

__all__ = ["Collector", "Message"]

# RFC 5424 6: PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG
_HEADER = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) "
    rb"([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) - \xef\xbb\xbf"
)


@dataclass(frozen=True)
class Message:
    """One message, taken apart."""

    priority: int
    host: str
    app: str
    pid: str
    message_id: str
    body: bytes


class Collector:
    """A collector on one port, which can go away and come back.

    Parameters
    ----------
    folder
        Where its certificates are: ``ca.pem`` for who trusts it, ``client.pem`` and ``client.key``
        for who has to show one.
    """

    def __init__(self, folder: Path, *, asks: bool = True) -> None:
        (self.port,) = free_ports(1)
        self.messages: list[Message] = []
        self.faults: list[str] = []
        self.connections = 0
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        client = authority.issue_cert("limen.example")
        client.private_key_pem.write_to_path(folder / "client.key")
        client.cert_chain_pems[0].write_to_path(folder / "client.pem")
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(folder / "server.key")
        server.cert_chain_pems[0].write_to_path(folder / "server.pem")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.configure_cert(self._context)
        authority.configure_trust(self._context)
        if asks:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Go away at once, whatever is under way."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as sock:
                self._open.add(sock)
                self.connections += 1
                try:
                    with sock.makefile("rb") as stream:
                        while self._one(stream):
                            pass
                finally:
                    self._open.discard(sock)
        except (OSError, ValueError):
            raw.close()

    def _one(self, stream: object) -> bool:
        """Take one message: its length in octets, a space, the message (RFC 5425 4.3)."""
        digits = b""
        while (letter := stream.read(1)) and letter != b" ":  # type: ignore[attr-defined]
            digits += letter
        if not letter:
            return False
        if not re.fullmatch(rb"[1-9]\d{0,6}", digits):
            self.faults.append(f"no length: {digits!r}")
            return False
        body = stream.read(int(digits))  # type: ignore[attr-defined]
        if len(body) < int(digits):  # cut off: the sender has to send it again
            return False
        header = _HEADER.match(body)
        if header is None:
            self.faults.append(f"no header: {body[:120]!r}")
            return False
        words = [header[n].decode("ascii") for n in (3, 4, 5, 6)]
        self.messages.append(Message(int(header[1]), *words, body[header.end() :]))
        return True
