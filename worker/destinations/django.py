"""The results server: one POST of the document and its images."""

from __future__ import annotations

from pathlib import Path

import requests

from limen.errors import Rejected, Transient, Unreachable
from worker.destinations import Parcel

__all__ = ["DjangoDestination"]

_CONFLICT, _UNAUTHORISED, _FORBIDDEN, _TOO_MANY, _TIMEOUT = 409, 401, 403, 429, 408
_ANSWER_LENGTH = 300


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
    """

    def __init__(self, url: str, token_file: Path, timeout_s: float) -> None:
        self._url = f"{url}/api/v1/results"
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc between us and our own server

    def deliver(self, parcel: Parcel) -> None:
        """Post a parcel; 201 and 200 (there already) are success. See ``Destination``."""
        parts = [("result", ("result.json", parcel.document, "application/json"))]
        try:
            # Read, not opened: requests puts the body together in memory anyway, and a study may
            # have more images than this process may have open files.
            parts += [(n, (n, p.read_bytes(), "image/png")) for n, p in parcel.files.items()]
        except OSError as exc:
            raise Transient(f"a file of the parcel cannot be read ({exc.strerror})") from exc
        self._check(self._post(parts))

    def _post(self, parts: list[tuple[str, tuple[str, bytes, str]]]) -> requests.Response:
        try:
            return self._session.post(
                self._url,
                files=parts,
                headers={"Authorization": f"Bearer {self._token()}"},
                timeout=self._timeout_s,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            raise Unreachable(
                f"results server {self._url} does not answer ({type(exc).__name__}); "
                "is `limen web` running?"
            ) from exc

    def _token(self) -> str:
        try:
            return self._token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise Unreachable(
                f"token file {self._token_file} cannot be read; "
                "make it with `python -m web setup --node NAME --token-file FILE`"
            ) from exc

    def _check(self, answer: requests.Response) -> None:
        status = answer.status_code
        if status in {200, 201}:
            return
        said = f"results server answered {status}"
        if status in {_UNAUTHORISED, _FORBIDDEN}:
            # The token can be put right; the result must then arrive without anybody's help.
            raise Unreachable(f"{said}: it does not know the token in {self._token_file}")
        if status in {_TIMEOUT, _TOO_MANY} or status >= 500:
            raise Unreachable(said)
        if status == _CONFLICT:
            raise Rejected(f"{said}: it holds another result of this study, revision and phase")
        raise Rejected(f"{said}: {_plain(answer)}")


def _plain(answer: requests.Response) -> str:
    """What a refusal says, when it is short JSON of our own server; it names paths, not values."""
    if not answer.headers.get("Content-Type", "").startswith("application/json"):
        return "no reason given"
    return answer.text[:_ANSWER_LENGTH]
