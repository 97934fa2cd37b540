"""The results server: whether it answers, and takes this node's token."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from limen import node_token
from limen.doctor.certificates import judge, of_server
from limen.doctor.check import Finding, Node, failed, ok, skipped
from limen.errors import Unreachable

__all__ = ["web"]

_TIMEOUT_S = 5.0
_TAKEN = 422  # the token is looked at before the empty document is
_UNKNOWN = 401
_MAY_NOT = 403
_SERVER_FAULT = 500


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    is_page: bool


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token goes nowhere else."""

    def redirect_request(self, *_: object) -> None:
        return None


def web(node: Node) -> Iterator[Finding]:
    """Ask whether it is ready, and post it a document that it must refuse for being empty."""
    settings = node.settings.destination.django
    url = node.settings.django_url
    if not settings.enabled:
        yield skipped("destination.django.enabled is false")
        return
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError:
        yield failed(
            f"destination.django.ca_file {settings.ca_file} cannot be read, or has no certificate",
            "name who signed the certificate of the results server",
        )
        return
    try:
        ready = _ask(f"{url}/readyz", context)
    except (OSError, http.client.HTTPException) as exc:
        yield failed(f"{url} does not answer ({_why(exc)})", _remedy(exc))
        return
    if ready.status >= _SERVER_FAULT:
        yield failed(
            f"{url} answers, and its database does not ({ready.status})",
            "look at web.database_url, and at the log of `limen web`",
        )
        return
    if ready.status != http.HTTPStatus.OK or ready.is_page:
        yield failed(
            f"{url} answers {ready.status}, as no results server does",
            "put destination.django.url right; a proxy, or another program, answers there",
        )
        return
    yield ok(f"{url} answers, and its database too")
    if url.startswith("https://"):
        yield judge("the certificate of the results server", of_server(url, context, _TIMEOUT_S))
    yield _token(node.settings.token_file, url, context)


def _token(path: Path, url: str, context: ssl.SSLContext) -> Finding:
    remedy = (
        "`limen web setup` where the results server runs makes it known; where that is another "
        "host, copy the file from there"
    )
    try:
        token = node_token.read(path)
    except Unreachable:
        return failed(f"there is no token in {path}, or this account may not read it", remedy)
    try:
        answer = _ask(f"{url}/api/v1/deliveries", context, token)
    except (OSError, http.client.HTTPException) as exc:
        return failed(f"{url} does not answer a post ({_why(exc)})", _remedy(exc))
    if answer.status == _TAKEN and not answer.is_page:
        return ok("it takes the token of this node")
    if answer.status == _UNKNOWN:
        return failed(f"it does not know the token in {path}", remedy)
    if answer.status == _MAY_NOT:
        return failed(f"the token in {path} may not post results", remedy)
    return failed(
        f"a post is answered {answer.status}", "look at the log of `limen web`, and at its proxy"
    )


def _ask(url: str, context: ssl.SSLContext, token: str = "") -> _Answer:
    """Return the answer to a GET, or with a token to a POST of an empty JSON object."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310 - the settings hold nothing but http and https
        url, data=b"{}" if token else None, headers=headers if token else {}
    )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # none between us and our own server
        urllib.request.HTTPSHandler(context=context),
        _NoRedirects,
    )
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as said:
            return _Answer(said.status, "html" in said.headers.get("Content-Type", ""))
    except urllib.error.HTTPError as exc:
        with exc:
            return _Answer(exc.code, "html" in exc.headers.get("Content-Type", ""))


def _reason(error: Exception) -> BaseException:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return inner if isinstance(inner, BaseException) else error


def _why(error: Exception) -> str:
    reason = _reason(error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return reason.verify_message
    return getattr(reason, "strerror", None) or type(reason).__name__


def _remedy(error: Exception) -> str:
    reason = _reason(error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            "name who signed its certificate in destination.django.ca_file, put the host name in "
            "destination.django.url right, or renew the certificate"
        )
    if isinstance(reason, ssl.SSLError):
        return "it speaks no TLS there; put destination.django.url right"
    return "start it: `limen web`, or put destination.django.url right"
