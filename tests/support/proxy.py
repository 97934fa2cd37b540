"""A TCP proxy of a test's own: what a network does to a connection, at will."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

__all__ = ["BOTH", "FROM_SERVER", "TO_SERVER", "Proxy"]

TO_SERVER, FROM_SERVER = "to server", "from server"
BOTH = (TO_SERVER, FROM_SERVER)
_CHUNK = 1 << 16
_LOOK_S = 0.05
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the connection."""


class _Pair:
    """One connection through the proxy, its two sides."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.over = threading.Event()
        self.forgotten = False

    def reset(self) -> None:
        """End both sides as a router does that has lost its table."""
        self.over.set()
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RD)  # wakes its thread, and tells the peer nothing


class Proxy:
    """Listens on loopback, and passes on to a port of loopback.

    Attributes
    ----------
    port
        Where to connect in place of the server.
    passed_bytes
        What it has passed on, both ways.
    """

    def __init__(self, to_port: int) -> None:
        self._to = ("127.0.0.1", to_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_LOOK_S)
        self.port: int = self._listener.getsockname()[1]
        self.passed_bytes = 0
        self._counting = threading.Lock()
        self._held: set[str] = set()
        self._refusing = False
        self._ended = threading.Event()
        self._pairs: list[_Pair] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._threads[0].join(10)
        self.cut()
        for thread in self._threads[1:]:
            thread.join(10)
        self._listener.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(not pair.over.is_set() for pair in self._pairs)

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        for pair in self._pairs:
            pair.reset()

    def forget(self) -> None:
        """Pass nothing on for any connection there is, and tell nobody; new ones are welcome.

        A firewall does this that was started anew.
        """
        for pair in self._pairs:
            pair.forgotten = True

    @contextmanager
    def away(self) -> Iterator[None]:
        """Reset every connection, old or new, meanwhile."""
        self._refusing = True
        self.cut()
        try:
            yield
        finally:
            self._refusing = False

    @contextmanager
    def held(self, *ways: str) -> Iterator[None]:
        """Let nothing through these ways meanwhile; afterwards it arrives, late, if anybody waits.

        To both sides it looks as if the other said nothing: a cable that was pulled.
        """
        self._held |= set(ways)
        try:
            yield
        finally:
            self._held -= set(ways)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                pair = _Pair(client, socket.create_connection(self._to, 5))
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            self._pairs = [one for one in self._pairs if not one.over.is_set()] + [pair]
            ends = (client, pair.server)
            both = [
                threading.Thread(target=self._pass, args=(pair, *sides, way), daemon=True)
                for sides, way in ((ends, TO_SERVER), (ends[::-1], FROM_SERVER))
            ]
            for thread in both:
                thread.start()
            closing = threading.Thread(target=_close, args=(pair, both), daemon=True)
            closing.start()
            self._threads = [t for t in self._threads if t.is_alive()] + [closing]

    def _pass(self, pair: _Pair, source: socket.socket, sink: socket.socket, way: str) -> None:
        source.settimeout(None)
        while not pair.over.is_set():
            try:
                chunk = source.recv(_CHUNK)
                while (way in self._held or pair.forgotten) and not pair.over.wait(_LOOK_S):
                    pass
                if not chunk or pair.over.is_set():
                    break
                sink.sendall(chunk)
                with self._counting:
                    self.passed_bytes += len(chunk)
            except OSError:
                break
        pair.over.set()
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RD)


def _close(pair: _Pair, threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
    pair.client.close()
    pair.server.close()
