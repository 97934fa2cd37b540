"""A PACS by STOW-RS: one POST for each object (PS3.18 10.5)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import dcmread

from limen.authorities import authorities
from limen.dimse import Kind
from limen.errors import Unreachable, Unwelcome
from limen.instance import CommitmentReport
from limen.scu import NOT_ACCEPTED, Answer
from worker.destinations import DicomObject

__all__ = ["DicomwebWay"]

_FAILED, _REASON = "00081198", "00081197"
_REFERENCED, _WARNING = "00081199", "00081196"
_WHOLE = 1 << 40  # bytes: no transfer in chunks, which proxies do not like

_REJECTS = frozenset({401, 403})
_NOT_STORED = frozenset({400, 409, 413, 415, 422})
_LOOK_AT = {
    404: "nothing takes objects there; url is where /studies is",
    405: "nothing takes objects there; url is where /studies is",
    429: "it asks for fewer requests",
    501: "nothing takes objects there; url is where /studies is",
    502: "something in between does not reach it",
    503: "not now",
    504: "something in between does not reach it",
}
_FULL = 507
_NO_SEARCH = frozenset({400, 404, 405, 406, 501})
_JSON = "application/dicom+json"
_MANY, _NONE = 'multipart/related; type="application/dicom"; boundary=limen', b"--limen--\r\n"


class DicomwebWay:
    """The way to a PACS by HTTP.

    Parameters
    ----------
    name
        What people call it.
    url
        Where ``/studies`` is; redirects are not followed.
    timeout_s
        For the connection, and for each read of the answer.
    username, password_file, token_file
        Who we are; the files are read for each delivery, so that they can be renewed.
    ca_file
        Who signed its certificate (PEM); without one, the public authorities.
    """

    def __init__(
        self,
        name: str,
        url: str,
        timeout_s: float,
        *,
        username: str = "",
        password_file: Path | None = None,
        token_file: Path | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._name = name
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._username = username
        self._password_file = password_file
        self._token_file = token_file
        self._ca_file = ca_file

    @contextmanager
    def open(self, sop_classes: Collection[str], *, ask: bool) -> Iterator[DicomwebLine]:  # noqa: ARG002
        """Open a session; nothing is asked before the first object. See ``Way``."""
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no .netrc between us and the PACS
            session.max_redirects = 0
            session.verify = authorities(self._ca_file, f"{self._name}: ca_file")
            if self._password_file is not None:
                session.auth = (self._username, _secret(self._password_file, self._name))
            if self._token_file is not None:
                token = _secret(self._token_file, self._name)
                session.headers["Authorization"] = f"Bearer {token}"
            yield DicomwebLine(self._name, self._url, session, self._timeout_s)


class DicomwebLine:
    """A session with the PACS."""

    def __init__(self, name: str, url: str, session: requests.Session, timeout_s: float) -> None:
        self._name = name
        self._url = url
        self._session = session
        self._timeout_s = timeout_s
        self._client = DICOMwebClient(url, session, chunk_size=_WHOLE, timeout=timeout_s)
        self._client.set_http_retry_params(retry=False)  # retries live in the journal
        self._heard: requests.Response | None = None
        session.hooks["response"].append(self._hear)

    @property
    def is_open(self) -> bool:
        """A session is open until its end."""
        return True

    def store(self, one: DicomObject) -> Answer:
        """Send an object.

        Raises
        ------
        Unwelcome
            The PACS rejects who we are.
        Unreachable
            It, or what is in between, does not answer.
        """
        assert one.path is not None  # noqa: S101 - what must not leave has none
        self._heard = None
        try:
            self._client.store_instances([dcmread(one.path)])
        except requests.HTTPError:
            pass  # what it says is read below
        except requests.RequestException as exc:
            raise Unreachable(
                f"{self._name} at {self._url} does not answer ({type(exc).__name__})"
            ) from exc
        except (ValueError, TypeError, AttributeError):
            pass  # an answer that the library cannot read: we look at it ourselves
        heard = self._heard
        if heard is None:
            raise Unreachable(f"{self._name} at {self._url} gave no answer")
        return self._meaning(heard)

    def look(self) -> None:
        """Ask for one study (QIDO-RS, PS3.18 10.6); where that is not offered, post no objects.

        Raises
        ------
        Unwelcome
            The PACS rejects who we are.
        Unreachable
            It, or what is in between, does not answer, or as no DICOMweb server does.
        """
        asked = {"params": {"limit": "1"}, "headers": {"Accept": _JSON}}
        said = self._ask("GET", **asked)
        if said.status_code in _NO_SEARCH:
            said = self._ask("POST", headers={"Accept": _JSON, "Content-Type": _MANY}, data=_NONE)
            if said.status_code in _NOT_STORED:  # it would take objects, and none is an error
                return
        status = said.status_code
        if not said.ok:
            why = _LOOK_AT.get(status, "look at its log")
            raise Unreachable(f"{self._name} at {self._url} answers {status}: {why}")
        if "html" in said.headers.get("Content-Type", ""):
            raise Unreachable(
                f"{self._name} at {self._url} answers with a page, as no DICOMweb server does: a "
                "proxy, or another program; url is where /studies is"
            )

    def _ask(self, method: str, **asked: Any) -> requests.Response:
        url = f"{self._url}/studies"
        try:
            said = self._session.request(method, url, timeout=self._timeout_s, **asked)
        except requests.RequestException as exc:
            kind = type(exc).__name__
            raise Unreachable(f"{self._name} at {self._url} does not answer ({kind})") from exc
        if said.status_code in _REJECTS:
            raise Unwelcome(
                f"{self._name} at {self._url} answers {said.status_code}: it rejects us; put its "
                "credentials right"
            )
        return said

    def ask_commitment(self, transaction_uid: str, objects: Sequence[tuple[str, str]]) -> Answer:  # noqa: ARG002
        """There is no storage commitment on this way."""
        return NOT_ACCEPTED

    def report(self, timeout_s: float) -> CommitmentReport | None:  # noqa: ARG002
        """There is none either."""
        return None

    def _hear(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._heard = response

    def _meaning(self, heard: requests.Response) -> Answer:
        """Return what an answer says of the one object that was sent."""
        status = heard.status_code
        said = f"{self._name} answered {status}"
        if status in _REJECTS:
            raise Unwelcome(
                f"{said}: it does not let us in; put its credentials right, then "
                f"`limen retry {self._name}`"
            )
        if "html" in heard.headers.get("Content-Type", ""):
            raise Unreachable(f"{said} with a page: something in between answers")
        if status in _LOOK_AT:
            raise Unreachable(f"{said}: {_LOOK_AT[status]}")
        if status == _FULL:
            return Answer(f"answered {status}", "it has no room", Kind.FULL)
        if heard.ok or status in _NOT_STORED:
            return _of_instance(heard) or _of_http(status, stored=heard.ok)
        return _of_http(status, stored=False, kind=Kind.TRANSIENT)


def _of_instance(heard: requests.Response) -> Answer | None:
    """Return what the response says of the instance (PS3.18 Table I.2-2); None: nothing."""
    try:
        said = heard.json()
        said = said[0] if isinstance(said, list) else said
        for item in said.get(_FAILED, {}).get("Value", []):
            return Answer.of(int(item[_REASON]["Value"][0]))
        for item in said.get(_REFERENCED, {}).get("Value", []):
            if item.get(_WARNING, {}).get("Value"):
                return Answer.of(int(item[_WARNING]["Value"][0]))
            return Answer.of(0)
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    return None


def _of_http(status: int, *, stored: bool, kind: Kind = Kind.PERMANENT) -> Answer:
    return Answer.of(0) if stored else Answer(f"answered {status}", kind=kind)


def _secret(path: Path, name: str) -> str:
    try:
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Unreachable(f"{name}: {path} cannot be read") from exc
    if not text or not text.isprintable():
        raise Unreachable(f"{name}: {path} holds no password or token")
    return text
