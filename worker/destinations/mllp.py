"""MLLP: one HL7 message, framed, over TCP or TLS, and the one that answers it.

The Minimal Lower Layer Protocol of HL7 v2 (Transport Specification MLLP, release 1): 0x0B, the
message, 0x1C 0x0D. One connection for each message: what a receiver has not answered within the
time, or in the middle of which it hangs up, has not arrived.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from limen.errors import Unreachable

__all__ = ["Receiver"]

_BEGIN, _END = b"\x0b", b"\x1c\x0d"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where messages go.

    Attributes
    ----------
    name
        What people call it.
    tls
        Whether TLS is spoken: 1.2 or 1.3.
    ca_file
        Who signed its certificate (PEM); without one, whom this machine trusts.
    certificate_file, key_file
        Who we are, for a receiver that asks; read for each message, so that they can be renewed.
    timeout_s
        For the connection, and from the message to the end of its answer.
    """

    name: str
    host: str
    port: int
    timeout_s: float
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def exchange(self, message: bytes) -> bytes:
        """Send a message, and return the one that answers it, without its frame.

        Raises
        ------
        Unreachable
            Nobody listens, answers in time, or in a frame; or our files of TLS cannot be read.
        """
        where = f"{self.name} at {self.host}:{self.port}"
        try:
            with socket.create_connection((self.host, self.port), self.timeout_s) as plain:
                if not self.tls:
                    return self._exchange(plain, message, where)
                with self._context().wrap_socket(plain, server_hostname=self.host) as secure:
                    return self._exchange(secure, message, where)
        except TimeoutError as exc:
            raise Unreachable(f"{where} does not answer within {self.timeout_s:g} s") from exc
        except ssl.SSLCertVerificationError as exc:
            raise Unreachable(
                f"{where}: its certificate is not trusted ({exc.verify_message}); name who signed "
                "it in ca_file"
            ) from exc
        except ssl.SSLError as exc:
            raise Unreachable(f"{where}: no TLS with it ({exc.reason})") from exc
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            raise Unreachable(f"{where} does not answer ({why})") from exc

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as exc:
            raise Unreachable(
                f"{self.name}: ca_file, certificate_file or key_file cannot be read, or is no PEM"
            ) from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _exchange(self, sock: socket.socket, message: bytes, where: str) -> bytes:
        deadline_s = time.monotonic() + self.timeout_s
        sock.sendall(_BEGIN + message + _END)
        answer = bytearray()
        while not answer.endswith(_END):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            sock.settimeout(left_s)
            block = sock.recv(65536)
            if not block:
                how = "in the middle of its answer" if answer else "without an answer"
                raise Unreachable(f"{where} hangs up {how}")
            answer += block
            if not answer.startswith(_BEGIN) or len(answer) > _MOST_BYTES:
                raise Unreachable(f"{where} answers with what is no HL7: another program listens")
        return bytes(answer[len(_BEGIN) : -len(_END)])
