"""The results server: one POST of the document and its images."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from requests_toolbelt.multipart.encoder import MultipartEncoder

from limen import node_token
from limen.authorities import authorities
from limen.errors import LimenError, Rejected, Transient, Unreachable
from worker.destinations import ARRIVED, Parcel, Receipt

__all__ = ["DjangoDestination"]

_ANSWER_LENGTH = 300
_OTHER_BYTES = (
    "it holds another result of this study, revision and phase; `limen replay STUDY` makes the "
    "next revision, which it takes"
)

_WRONG = {400: "{reason}", 409: _OTHER_BYTES, 413: "{reason}", 422: "{reason}"}
"""What the results server says of this document, and will say again."""

_LOOK_AT = {
    401: "it does not know the token in {token_file}; `limen web setup` there makes it known",
    403: "the token in {token_file} may not post results; `limen web setup` there makes one",
    404: "nothing takes results there; is destination.django.url its base URL?",
    405: "nothing takes results there; is destination.django.url its base URL?",
    413: "something in between takes less than a result may have; raise its limit to 512 MiB "
    "(nginx: client_max_body_size)",
    502: "something in between does not reach it; is `limen web` running?",
    503: "it cannot store now: {reason}",
    504: "something in between does not reach it; is `limen web` running?",
}
"""What can be put right, after which the result must arrive without anybody's help."""

_NO_HTTP = "what listens there speaks no HTTP, or hangs up"
_NO_ANSWER: tuple[tuple[type[BaseException], str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "its certificate is not trusted; name who signed it in destination.django.ca_file, or "
        "put the host name in destination.django.url right",
    ),
    (ssl.SSLError, "no TLS with it; does it speak https at that port?"),
    (socket.gaierror, "its host name is not known; put destination.django.url right"),
    (requests.exceptions.InvalidURL, "put destination.django.url right"),
    (http.client.HTTPException, _NO_HTTP),
    (ConnectionResetError, _NO_HTTP),
    (BrokenPipeError, _NO_HTTP),
    (requests.Timeout, "is it overloaded, or a firewall in between?"),
)
"""What lies behind an error of the library: the first that is in its chain is told."""

_TYPES = {".png": "image/png", ".jls": "image/jls"}


class DjangoDestination:
    """Posts results to ``<url>/api/v1/results``.

    Parameters
    ----------
    url
        Base URL of the results server; redirects are not followed.
    token_file
        File with this node's bearer token; read for each delivery, so that it can be renewed.
    timeout_s
        For the connection, and for each read of the answer.
    ca_file
        Who signed its certificate (PEM); without one, the public authorities.
    """

    def __init__(
        self, url: str, token_file: Path, timeout_s: float, ca_file: Path | None = None
    ) -> None:
        self._url = f"{url}/api/v1/results"
        self._deliveries_url = f"{url}/api/v1/deliveries"
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc between us and our own server

    def deliver(self, parcel: Parcel) -> Receipt:
        """Post a parcel; 201 and 200 (there already) are success. See ``Destination``."""
        if parcel.update:
            answer = self._post(self._deliveries_url, parcel.update, "application/json")
            if (fault := self._fault(answer)) is not None:
                raise fault
            return ARRIVED
        with ExitStack() as stack:
            document = ("result", ("result.json", parcel.document, "application/json"))
            images = [
                (name, (name, stack.enter_context(_File(path)), _TYPES[Path(name).suffix]))
                for name, path in parcel.files.items()
            ]
            form = MultipartEncoder([document, *images])
            answer = self._post(self._url, form, form.content_type)
        if (fault := self._fault(answer)) is not None:
            raise fault
        return ARRIVED

    def _post(self, url: str, body: MultipartEncoder | bytes, kind: str) -> requests.Response:
        token = node_token.read(self._token_file)
        try:
            return self._session.post(
                url,
                data=body,
                headers={"Authorization": f"Bearer {token}", "Content-Type": kind},
                timeout=self._timeout_s,
                allow_redirects=False,
                verify=authorities(self._ca_file, "destination.django.ca_file"),
            )
        except requests.RequestException as exc:
            raise Unreachable(
                f"results server {self._url} does not answer ({type(exc).__name__}): {_cause(exc)}"
            ) from exc

    def _fault(self, answer: requests.Response) -> LimenError | None:
        """Return what an answer means; None when the result has arrived.

        A page is never an answer of the results server, whatever its status: a login page of a
        proxy says 200, and a proxy whose limit is too low says 413.
        """
        status = answer.status_code
        page = "html" in answer.headers.get("Content-Type", "")
        if status in {200, 201} and not page:
            return None
        said = f"results server answered {status}{' with a page' if page else ''}"
        if status in _WRONG and not page:
            return Rejected(f"{said}: {_WRONG[status].format(reason=_plain(answer))}")
        if answer.is_redirect:
            return Unreachable(
                f"{said}: it sends elsewhere ({_origin(answer)}), where the token does not go "
                "along; set destination.django.url to where results are taken"
            )
        other = "something in between answers, or destination.django.url leads to something else"
        look_at = _LOOK_AT.get(status, other if page or status < 500 else "not now")  # noqa: PLR2004
        return Unreachable(
            f"{said}: {look_at.format(token_file=self._token_file, reason=_plain(answer))}"
        )


class _File:
    """A file that is opened when its turn comes and closed at its end.

    A study may have more images than this process may have open files.

    Attributes
    ----------
    len
        Bytes that are left, as the encoder asks for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        try:
            self.len = path.stat().st_size
        except OSError as exc:
            raise _unreadable(exc.strerror) from exc

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size`` of them unless it is negative."""
        wanted = self.len if size < 0 else min(size, self.len)
        try:
            if self._stream is None:
                self._stream = self._path.open("rb")
            block = self._stream.read(wanted)
        except OSError as exc:
            raise _unreadable(exc.strerror) from exc
        if len(block) < wanted:
            raise _unreadable("it became shorter")
        self.len -= wanted
        if not self.len:
            self._stream.close()
        return block


def _unreadable(reason: str | None) -> Transient:
    return Transient(f"a file of the parcel cannot be read ({reason})")


def _cause(error: BaseException) -> str:
    chain = list(_chain(error))
    for kind, look_at in _NO_ANSWER:
        for link in chain:
            if isinstance(link, kind):
                said = getattr(link, "verify_message", "")
                return f"{said}; {look_at}" if said else look_at
    return "is `limen web` running, and destination.django.url right?"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _origin(answer: requests.Response) -> str:
    """Return where a redirect leads, without its path: a query may hold anything."""
    parts = urlsplit(answer.headers.get("Location", ""))
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another path"


def _plain(answer: requests.Response) -> str:
    """What a refusal says, when it is short JSON of our own server; it names paths, not values."""
    if not answer.headers.get("Content-Type", "").startswith("application/json"):
        return "no reason given"
    return answer.text[:_ANSWER_LENGTH]
