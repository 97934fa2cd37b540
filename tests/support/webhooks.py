"""A server that webhooks are sent to: it answers as it is told, and checks every signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


def secret_file(folder: Path, text: str = SECRET) -> Path:
    """Write the secret that ``webhooks`` checks with."""
    path = folder / "webhook-secret"
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


@dataclass
class Receiver:
    """What was received, and what is answered: the script first, then ``status``.

    Attributes
    ----------
    took
        What was answered with success: id and body, in order.
    asked
        Ids of everything that came.
    """

    port: int = 0
    url: str = ""
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    script: list[int] = field(default_factory=list)
    took: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    silent: threading.Event | None = None

    def check(self, headers: Any, body: bytes) -> str:
        """Note what is wrong with a message; return its id."""
        message_id, at = headers["webhook-id"], headers["webhook-timestamp"]
        signed = f"{message_id}.{at}.".encode() + body
        right = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        if headers["webhook-signature"] != f"v1,{right}":
            self.faults.append("signature")
        if abs(time.time() - int(at)) > 60:
            self.faults.append("timestamp")
        if headers["Content-Type"] != "application/json":
            self.faults.append("content type")
        return str(message_id)


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            message_id = receiver.check(self.headers, body)
            receiver.asked.append(message_id)
            if receiver.silent is not None:
                receiver.silent.wait(10)
                return
            status = receiver.script.pop(0) if receiver.script else receiver.status
            if 200 <= status < 300:
                receiver.took.append((message_id, json.loads(body)))
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # a redirect that is followed would come as one

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def webhooks(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Receiver]:
    """Run a server; with a context it speaks TLS."""
    receiver = Receiver()
    http = ThreadingHTTPServer(("127.0.0.1", port), _handler(receiver))
    http.handle_error = lambda *_: None  # type: ignore[method-assign] - who hangs up is no fault
    if context is not None:
        http.socket = context.wrap_socket(http.socket, server_side=True)
    receiver.port = http.server_address[1]
    receiver.url = f"http{'s' if context else ''}://127.0.0.1:{receiver.port}/hook?token=t0ken"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        if receiver.silent is not None:
            receiver.silent.set()
        http.shutdown()
        thread.join()
        http.server_close()
    assert receiver.faults == []
