"""A server of models that speaks the Open Inference Protocol v2, as it is told, and refuses what is
not the protocol. ``tests/integration/test_model_servers.py`` asks the same of real ones.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.support.synthetic import BrightBlood

HEAD = "Inference-Header-Content-Length"
SIDE = 64


@dataclass
class ModelServer:
    """What is served, and how.

    Attributes
    ----------
    model
        (n, rows, columns, channels) -> (n, outputs); of several inputs the channels of all.
    versions
        More versions of the model, which share all else.
    inputs
        Their names, which share the shape.
    script
        Statuses that are answered first, one for each request to run a batch.
    binary
        Whether it has the extension ``binary_tensor_data``.
    alter
        Changes the answer to a batch before it is sent.
    drip_s
        Seconds after each byte of an answer.
    asked
        Path of each request, in order; ``faults`` is what was wrong with them.
    batches
        How many items each batch had.
    """

    url: str = ""
    name: str = "blood"
    version: str = "3"
    model: Callable[[np.ndarray], np.ndarray] = BrightBlood().predict
    versions: dict[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    shape: tuple[int, ...] = (-1, SIDE, SIDE, 3)
    inputs: tuple[str, ...] = ("image",)
    outputs: int = 1
    datatype: str = "FP32"
    binary: bool = True
    token: str = ""
    ready: bool = True
    script: list[int] = field(default_factory=list)
    alter: Callable[[dict[str, Any]], dict[str, Any]] = lambda tree: tree
    silent: threading.Event | None = None
    drip_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pause: threading.Event = field(default_factory=threading.Event)

    @property
    def all_versions(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        return {self.version: self.model, **self.versions}

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": list(self.all_versions),
            "platform": "python",
            "inputs": [
                {"name": name, "datatype": self.datatype, "shape": list(self.shape)}
                for name in self.inputs
            ],
            "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, self.outputs]}],
        }


class _Refusal(Exception):
    """A status, and what is said."""


def _parsed(body: bytes, head: str | None, names: tuple[str, ...], *, binary: bool) -> np.ndarray:
    """Return the tensors of a request, held to the protocol, channels behind each other."""
    if head is not None and not binary:
        raise _Refusal(400, "no binary_tensor_data here")
    size = len(body) if head is None else int(head)
    tree, values = json.loads(body[:size]), body[size:]
    (wanted,) = tree.get("outputs", [{"name": "p"}])
    given = {one["name"]: one for one in tree["inputs"]}
    is_known = set(given) == set(names) and wanted["name"] == "p"
    if not is_known or any(one["datatype"] != "FP32" for one in given.values()):
        raise _Refusal(400, "unexpected inference input or output")
    if head is not None and wanted["parameters"] != {"binary_data": True}:
        raise _Refusal(400, "asked for JSON")
    found = {}
    for name, one in given.items():
        if head is None:
            flat = np.array(one["data"], np.float32)
        else:
            size = one["parameters"]["binary_data_size"]
            flat, values = np.frombuffer(values[:size], "<f4"), values[size:]
        if flat.size != int(np.prod(one["shape"])):
            raise _Refusal(400, "Shape does not match true shape of 'data' field")
        found[name] = flat.reshape(one["shape"])
    if values:
        raise _Refusal(400, "binary_data_size is not that of the data")
    return np.concatenate([found[name] for name in names], axis=-1)


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answered(self._told)

        def do_POST(self) -> None:
            self._answered(self._run)

        def _answered(self, find: Callable[[], tuple[bytes, dict[str, str]]]) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._body = body
            server.asked.append(self.path)
            try:
                if server.token and self.headers["Authorization"] != f"Bearer {server.token}":
                    raise _Refusal(401, "no")
                status, (answer, headers) = 200, find()
            except _Refusal as exc:
                status, said = exc.args
                answer, headers = json.dumps({"error": said}).encode(), {}
                if status == 400:
                    server.faults.append(said)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            for n in range(0, len(answer), 1 if server.drip_s else len(answer) or 1):
                with suppress(OSError):  # who asked has gone
                    self.wfile.write(answer[n : n + 1] if server.drip_s else answer)
                server.pause.wait(server.drip_s)

        def _told(self) -> tuple[bytes, dict[str, str]]:
            here = [f"/v2/models/{server.name}/versions/{one}" for one in server.all_versions]
            extensions = ["binary_tensor_data"] if server.binary else []
            pages: dict[str, Any] = {
                "/v2": {"name": "scripted", "version": "1", "extensions": extensions},
                **dict.fromkeys(here, server.metadata),
            }
            if self.path in {f"{one}/ready" for one in here} and server.ready:
                return b"", {}
            if self.path not in pages:
                raise _Refusal(404, "Request for unknown model")
            return json.dumps(pages[self.path]).encode(), {}

        def _run(self) -> tuple[bytes, dict[str, str]]:
            asked = re.fullmatch(f"/v2/models/{server.name}/versions/(.*)/infer", self.path)
            version = asked[1] if asked else ""
            if version not in server.all_versions:
                raise _Refusal(404, "Request for unknown model")
            if server.silent is not None:
                server.silent.wait(10)
            if server.script:
                raise _Refusal(server.script.pop(0), "scripted")
            head_size = self.headers.get(HEAD)
            tensor = _parsed(self._body, head_size, server.inputs, binary=server.binary)
            server.batches.append(len(tensor))
            found = np.asarray(server.all_versions[version](tensor), np.float32)
            output: dict[str, Any] = {"name": "p", "datatype": "FP32", "shape": list(found.shape)}
            tree = {
                "model_name": server.name,
                "model_version": version,
                "outputs": [output],
            }
            if HEAD not in self.headers:
                output["data"] = found.ravel().tolist()
                return json.dumps(server.alter(tree)).encode(), {}
            values = found.astype("<f4").tobytes()
            output["parameters"] = {"binary_data_size": len(values)}
            head = json.dumps(server.alter(tree)).encode()
            return head + values, {HEAD: str(len(head)), "Content-Type": "application/octet-stream"}

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def model_server(
    port: int = 0, tls: ssl.SSLContext | None = None, **changes: Any
) -> Iterator[ModelServer]:
    """Serve until the end of the block."""
    served = ModelServer(**changes)
    with ThreadingHTTPServer(("127.0.0.1", port), _handler(served)) as http:
        http.daemon_threads = True
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        scheme = "https" if tls else "http"
        served.url = f"{scheme}://{'localhost' if tls else '127.0.0.1'}:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            served.pause.set()
            if served.silent is not None:
                served.silent.set()
            http.shutdown()
            thread.join()
