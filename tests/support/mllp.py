"""A receiver of HL7 over MLLP that does what a script says, and drops what it has already."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Ris:
    """What came, and what is done next: the script first, then ``otherwise``.

    A step is the code of an acknowledgement (``AA``, ``AE``, ``AR``), or ``silent``, ``hang up``,
    ``garbage``, ``half``, ``another`` (acknowledges another message), ``lost`` (takes the message,
    and hangs up before it says so).

    Attributes
    ----------
    came
        Every message that came, whole.
    took
        Those that it took, by MSH-10: what came again is not taken again.
    """

    port: int = 0
    script: list[str] = field(default_factory=list)
    otherwise: str = "AA"
    came: list[str] = field(default_factory=list)
    took: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, message: str) -> bytes | None:
        """Return the bytes to answer with; none: say nothing; None: hang up."""
        self.came.append(message)
        key = message.split("\r", maxsplit=1)[0].split("|")[9]
        step = self.script.pop(0) if self.script else self.otherwise
        if step in {"AA", "lost"}:
            self.took.setdefault(key, message)
        if step == "silent":
            return b""
        if step == "garbage":
            return b"HTTP/1.1 400 Bad Request\r\n\r\n"
        if step in {"lost", "hang up"}:
            return None
        about = "X" if step == "another" else key
        code = "AA" if step in {"another", "half"} else step
        msh = message.split("\r", maxsplit=1)[0].replace("ORU^R01^ORU_R01", "ACK^R01^ACK")
        error = "ERR||PID^1^5|102^Data type error^HL70357|E||||Doe^Jane\r" if code != "AA" else ""
        whole = f"\x0b{msh}\rMSA|{code}|{about}|of Doe^Jane\r{error}\x1c\r".encode()
        return whole[: len(whole) // 2] if step == "half" else whole


def _serve(ris: Ris, server: socket.socket, context: ssl.SSLContext | None) -> None:
    while not ris.over.is_set():
        try:
            plain, _ = server.accept()
        except OSError:
            return
        with suppress(OSError), plain:
            sock = context.wrap_socket(plain, server_side=True) if context else plain
            sock.settimeout(5)
            data = b""
            while not data.endswith(b"\x1c\r"):
                block = sock.recv(65536)
                if not block:
                    break
                data += block
            if data.endswith(b"\x1c\r") and data.startswith(b"\x0b"):
                said = ris.answer(data[1:-2].decode())
                if said:
                    sock.sendall(said)
                elif said is not None:
                    sock.recv(1)  # until who waits for an answer hangs up
            sock.close()


@contextmanager
def receiver(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Ris]:
    """Run a receiver; with a context it speaks TLS."""
    ris = Ris()
    with socket.create_server(("127.0.0.1", port)) as server:
        ris.port = server.getsockname()[1]
        thread = threading.Thread(target=_serve, args=(ris, server, context))
        thread.start()
        try:
            yield ris
        finally:
            ris.over.set()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()
