"""One signed POST to an address that the settings name, and what its answer means."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests

from limen import signing
from limen.authorities import authorities
from limen.errors import Rejected, Unreachable, Unwelcome

__all__ = ["Webhook"]

_REJECTS_US = frozenset({401, 403})
_REFUSES_THIS = frozenset({400, 406, 409, 413, 415, 422})
_LOOK_AT = {
    404: "nothing takes webhooks there; put its URL right",
    405: "nothing takes webhooks there; put its URL right",
    408: "it waited for us too long",
    410: "nothing takes webhooks there any more; put its URL right",
    429: "it asks for fewer requests",
    502: "something in between does not reach it",
    503: "not now",
    504: "something in between does not reach it",
}
_MOST_WAIT_S = 3600.0


class Webhook:
    """An address that takes signed messages.

    Parameters
    ----------
    name
        What people call it.
    url
        Where messages go; redirects are not followed, no proxy is asked.
    secret_file
        With what each is signed; read for each, so that it can be renewed.
    ca_file
        Who signed its certificate (PEM); without one, the public authorities.
    timeout_s
        For the connection, and for the answer.
    """

    def __init__(
        self, name: str, url: str, secret_file: Path, ca_file: Path | None, timeout_s: float
    ) -> None:
        self._name = name
        self._url = url
        self._secret_file = secret_file
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        parts = urlsplit(url)
        # A path or a query may hold a token: neither is ever told.
        self._said = f"{name} at {parts.scheme}://{parts.netloc}"

    def post(self, message_id: str, body: bytes) -> None:
        """Send a message; any 2xx is success, and what it says is not read.

        Parameters
        ----------
        message_id
            The same for each try, so that who has it already drops it.
        body
            UTF-8 JSON.

        Raises
        ------
        Unwelcome
            It rejects who we are: 401 or 403.
        Rejected
            It will never take this message: 400, 406, 409, 413, 415 or 422.
        Unreachable
            It, or what is in between, does not answer, or not with success; with how long it asks
            us to wait, an hour at most.
        """
        key = signing.secret(self._secret_file)
        signed = signing.headers(key, message_id, int(time.time()), body)
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy and no .netrc: the address is the settings'
                answer = session.post(
                    self._url,
                    data=body,
                    headers={"Content-Type": "application/json", "User-Agent": "limen", **signed},
                    timeout=self._timeout_s,
                    allow_redirects=False,
                    verify=authorities(self._ca_file, f"{self._name}: ca_file"),
                    stream=True,
                )
                answer.close()
        except requests.exceptions.SSLError as exc:
            raise Unreachable(
                f"{self._said}: no TLS with it, or its certificate is not trusted; name who signed "
                "it in ca_file, or put the host name in its URL right"
            ) from exc
        except requests.RequestException as exc:
            raise Unreachable(f"{self._said} does not answer ({type(exc).__name__})") from exc
        self._judge(answer)

    def _judge(self, answer: requests.Response) -> None:
        status = answer.status_code
        if 200 <= status < 300:  # noqa: PLR2004
            return
        said = f"{self._said} answered {status}"
        if status in _REJECTS_US:
            raise Unwelcome(f"{said}: it does not let us in; compare the secrets on both sides")
        if "html" in answer.headers.get("Content-Type", ""):
            raise Unreachable(f"{said} with a page: something in between answers")
        if status in _REFUSES_THIS:
            raise Rejected(f"{said}: it refuses this message")
        if answer.is_redirect:
            raise Unreachable(
                f"{said}: it sends elsewhere, which is not followed; put its URL right"
            )
        raise Unreachable(
            f"{said}: {_LOOK_AT.get(status, 'not now')}",
            _wait_s(answer.headers.get("Retry-After", "")),
        )


def _wait_s(value: str) -> float:
    """Return how long Retry-After asks to wait (RFC 9110 10.2.3), in seconds; 0: it does not."""
    try:
        if value.strip().isdecimal():
            wait_s = float(value)
        else:
            wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), _MOST_WAIT_S)
