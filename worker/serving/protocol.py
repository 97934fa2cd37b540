"""The Open Inference Protocol v2 over HTTP: what is asked of a server of models, and what it says.

Triton, KServe, OpenVINO Model Server and MLServer speak it: metadata and readiness of a model in
JSON, tensors in JSON too, or, where the server has the extension ``binary_tensor_data``, as
little-endian bytes behind a JSON head. Nothing here knows a bundle; nothing is asked twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import requests
from numpy.typing import NDArray
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as Late

from limen.authorities import authorities
from limen.config import RemoteModels
from limen.errors import LimenError, Unreachable

__all__ = ["Away", "Described", "Refused", "Server", "TensorFacts"]

MOST_BYTES: Final = 64 << 20
"""An answer that is larger is none of ours."""

_CHUNK: Final = 1 << 16
_CONNECT_S: Final = 5.0
_LOOK_S: Final = 10.0
"""What a server that is well needs no longer for than to describe a model."""

_SAID: Final = 200
_LATER: Final = frozenset({408, 425, 429, 502, 503, 504})
_HEAD: Final = "Inference-Header-Content-Length"
_FLOATS: Final = {"FP32": "<f4", "FP64": "<f8"}
"""Types of an answer, and how their bytes are read."""


class Away(LimenError):
    """The server does not answer, or says that it cannot now."""


class Refused(LimenError):
    """The server answered, with something that is no answer to what was asked."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a server says of a tensor; -1 is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """What a server says of a version of a model."""

    versions: tuple[str, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


class Server:
    """One server of models. From one thread at a time.

    Parameters
    ----------
    url
        Scheme, host and port; redirects are not followed, and no proxy is asked.
    settings
        ``[engine.remote]``: token, authorities, timeout.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, url: str, settings: RemoteModels, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url.rstrip("/")
        self._settings = settings
        self._clock = clock
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc between us and the model
        self._takes_bytes: bool | None = None

    def describe(self, model: str, version: str) -> Described:
        """Ask for the metadata of a version, once the model is ready.

        Raises
        ------
        Away
            It does not answer, or has yet to load the model.
        Refused
            It has no such model or version, or does not speak the protocol.
        """
        server = self._get("v2")
        self._takes_bytes = "binary_tensor_data" in _texts(server.get("extensions"))
        where = f"v2/models/{model}/versions/{version}"
        found = self._get(where)
        self._ready(f"{where}/ready")
        return Described(
            _texts(found.get("versions")),
            _tensors(found.get("inputs")),
            _tensors(found.get("outputs")),
        )

    def infer(
        self, model: str, version: str, given: Mapping[str, NDArray[np.float32]], wanted: str
    ) -> NDArray[np.float32]:
        """Run a batch.

        Parameters
        ----------
        given
            By the name of the input: (n, ...) float32.
        wanted
            The name of the output.

        Returns
        -------
        NDArray[np.float32]
            (n, ...) float32.

        Raises
        ------
        Away
            It does not answer in time.
        Refused
            It refuses the tensor, or answers with something else.
        """
        inputs: list[dict[str, Any]] = [
            {"name": name, "datatype": "FP32", "shape": list(tensor.shape)}
            for name, tensor in given.items()
        ]
        head: dict[str, Any] = {"inputs": inputs, "outputs": [{"name": wanted}]}
        where = f"v2/models/{model}/versions/{version}/infer"
        if self._takes_bytes:
            parts = [np.ascontiguousarray(tensor, "<f4").tobytes() for tensor in given.values()]
            for one, part in zip(inputs, parts, strict=True):
                one["parameters"] = {"binary_data_size": len(part)}
            head["outputs"][0]["parameters"] = {"binary_data": True}
            text = json.dumps(head).encode()
            told = {_HEAD: str(len(text)), "Content-Type": "application/octet-stream"}
            body, headers = self._ask("POST", where, b"".join([text, *parts]), told)
        else:
            for one, tensor in zip(inputs, given.values(), strict=True):
                one["data"] = tensor.ravel().tolist()
            text = json.dumps(head).encode()
            body, headers = self._ask("POST", where, text, {"Content-Type": "application/json"})
        return _answer(body, headers.get(_HEAD), version, wanted)

    def close(self) -> None:
        """Give the connection up."""
        self._session.close()

    def _ready(self, where: str) -> None:
        try:
            self._ask("GET", where, most_s=_LOOK_S)
        except Refused as exc:
            raise Away(f"has yet to load the model ({exc})") from exc

    def _get(self, where: str) -> dict[str, Any]:
        body, _ = self._ask("GET", where, most_s=_LOOK_S)
        return _tree(body, where)

    def _ask(
        self,
        method: str,
        where: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most_s: float = np.inf,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return the body and the headers of an answer of 200."""
        timeout_s = min(self._settings.timeout_s, most_s)
        ends_s = self._clock() + timeout_s
        wait_s = (min(_CONNECT_S, timeout_s), timeout_s)
        told = {**(headers or {}), **self._who(), "Accept-Encoding": "identity"}
        try:
            with self._session.request(
                method,
                f"{self.url}/{where}",
                data=body or None,
                headers=told,
                timeout=wait_s,
                allow_redirects=False,
                stream=True,
                verify=authorities(self._settings.ca_file, "engine.remote.ca_file"),
            ) as response:
                found = self._read(response, ends_s)
                return _judged(response, found, where), response.headers
        except (requests.RequestException, HTTPError) as exc:
            raise Away(f"does not answer ({_why(exc)})") from exc
        except Unreachable as exc:
            raise Away(f"is not asked: {exc}") from exc

    def _read(self, response: requests.Response, ends_s: float) -> bytes:
        """Return the body, which comes in time and is not too long."""
        parts, size = [], 0
        while part := response.raw.read1(_CHUNK):  # what has come: a whole chunk may never
            size += len(part)
            if size > MOST_BYTES:
                raise Refused(f"answers with more than {MOST_BYTES >> 20} MB")
            if self._clock() > ends_s:
                raise Away("did not end its answer in time (engine.remote.timeout_s)")
            parts.append(part)
        return b"".join(parts)

    def _who(self) -> dict[str, str]:
        """Return the header with the token; the file is read anew, so that it can be renewed."""
        token, file = self._settings.token.get_secret_value(), self._settings.token_file
        if file is not None:
            try:
                token = file.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise Away(
                    f"is not asked: engine.remote.token_file {file} cannot be read "
                    f"({type(exc).__name__})"
                ) from exc
        return {"Authorization": f"Bearer {token}"} if token else {}


def _judged(response: requests.Response, body: bytes, where: str) -> bytes:
    status = response.status_code
    if status == requests.codes.ok:
        return body
    said = f"{status} {_error(body)}".strip()
    if status in {401, 403}:
        raise Away(f"does not let us in ({said}): put engine.remote.token or token_file right")
    if status in _LATER or (status == 404 and "not ready" in said) or "not at ready" in said:
        raise Away(f"cannot now ({said})")
    raise Refused(f"answers {where} with {said}")


def _error(body: bytes) -> str:
    """Return what a server says of its refusal, shortened."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = ""
    return "".join(c for c in text if c.isprintable())[:_SAID]


def _why(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted, see engine.remote.ca_file"
    late = isinstance(error, requests.Timeout | Late)
    return "in time" if late else type(error).__name__


def _answer(body: bytes, head: str | None, version: str, wanted: str) -> NDArray[np.float32]:
    size = int(head) if head is not None and head.isdigit() else len(body)
    tree, values = _tree(body[:size], "infer"), body[size:]
    said = str(tree.get("model_version") or version)
    if said != version:
        raise Refused(f"answers with version {said}, asked was {version}")
    listed = tree.get("outputs")
    start = 0
    for one in listed if isinstance(listed, list) else []:
        if not isinstance(one, dict):
            break
        parameters = one.get("parameters")
        length = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if one.get("name") == wanted:
            return _array(one, None if length is None else values[start : start + int(length)])
        start += int(length or 0)
    raise Refused(f"answers without the output {wanted}")


def _array(said: dict[str, Any], values: bytes | None) -> NDArray[np.float32]:
    kind = _FLOATS.get(str(said.get("datatype")))
    if kind is None:
        raise Refused(f"answers with {said.get('datatype')}; FP32 is needed")
    try:
        if values is None:
            found = np.array(said["data"], np.float64).ravel()
        else:
            found = np.frombuffer(values, kind)
        return np.asarray(found.reshape([int(n) for n in said["shape"]]), np.float32)
    except (KeyError, TypeError, ValueError) as exc:
        raise Refused(
            f"answers with data that do not fill their shape {said.get('shape')}"
        ) from exc


def _tree(body: bytes, where: str) -> dict[str, Any]:
    try:
        tree = json.loads(body)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise Refused(f"answers {where} with something that is no JSON of the protocol")
    return tree


def _texts(found: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in found) if isinstance(found, list) else ()


def _tensors(found: Any) -> tuple[TensorFacts, ...]:
    try:
        return tuple(
            TensorFacts(str(t["name"]), str(t["datatype"]), tuple(int(n) for n in t["shape"]))
            for t in found
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise Refused("describes its tensors in a way that is not the protocol's") from exc
