"""What every request passes: an id to quote, a count, a bound; text that can be kept."""

from __future__ import annotations

import codecs
import logging
import time
import uuid
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from web.results import errors, metrics

__all__ = ["SMALL_BODY_BYTES", "BodyMiddleware", "RequestIdMiddleware", "TextMiddleware"]

LOG = logging.getLogger(__name__)
# More than any form or vote; the process that serves gathers so much before a thread works on it.
SMALL_BODY_BYTES = 64 << 10
# What a node says of a delivery names each object.
DELIVERY_BODY_BYTES = 4 << 20
# Two hundred studies without a result, fifty pieces of dead work.
BULLETIN_BODY_BYTES = 512 << 10


class RequestIdMiddleware:
    """Give the request an id, that error pages show and the log repeats, and measure it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        request.error_id = uuid.uuid4().hex[:12]  # type: ignore[attr-defined]
        started = time.monotonic()
        response = self._get_response(request)
        response.headers["X-Request-ID"] = request.error_id  # type: ignore[attr-defined]
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault(
            "Permissions-Policy", "camera=(), microphone=(), geolocation=()"
        )
        if not response.has_header("Cache-Control"):
            # Pages and answers hold PHI: no shared or disk cache keeps them.
            response.headers["Cache-Control"] = "private, no-store"
        match = request.resolver_match
        route = match.url_name or "other" if match else "other"
        metrics.REQUESTS.labels(route, request.method, str(response.status_code)).inc()
        took_s = time.monotonic() - started
        metrics.REQUEST_SECONDS.labels(route).observe(took_s)
        LOG.debug(
            "request.answered",
            extra={
                "id": request.error_id,  # type: ignore[attr-defined]
                "method": request.method,
                "route": route,
                "status": response.status_code,
                "seconds": round(took_s, 3),
            },
        )
        return response


class BodyMiddleware:
    """Refuse a body by what its head says, before any of it is read.

    Django reads a form, and writes its files to the disk, to look for the CSRF token: before it
    asks who sent it. So only what a node posts, with a token, may be large.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request, or refuse it."""
        if "HTTP_TRANSFER_ENCODING" in request.META:
            text = "Send the length of the body, not chunks."
            return errors.error_page(request, 411, "The body has no length", text)
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > _most(request):
            text = "No page sends so much."
            return errors.error_page(request, 413, "The body is too large", text)
        return self._get_response(request)


def _most(request: HttpRequest) -> int:
    if not request.headers.get("Authorization", "").startswith("Bearer "):
        return SMALL_BODY_BYTES
    of_nodes = {
        "/api/v1/results": settings.RESULT_MAX_BODY_BYTES,
        "/api/v1/deliveries": DELIVERY_BODY_BYTES,
        "/api/v1/bulletins": BULLETIN_BODY_BYTES,
    }
    return of_nodes.get(request.path, SMALL_BODY_BYTES)


class TextMiddleware:
    """Let in only text that every column can keep and every page can show.

    PostgreSQL keeps no NUL. An encoding that a client names (``charset``) may decode to halves of
    surrogate pairs, which UTF-8 does not have; browsers send UTF-8.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request, or refuse it."""
        if not _is_utf8(request.encoding or "utf-8"):
            return errors.error_page(request, 400, "Text is read in UTF-8 only", "Send it so.")
        if not _is_text(request.META.get("QUERY_STRING", "")):
            # Otherwise it would be read with other characters in their place, and find nothing.
            return errors.error_page(
                request, 400, "The address is not UTF-8", "Write what is no ASCII as UTF-8 in it."
            )
        if any("\x00" in text for name, values in request.GET.lists() for text in (name, *values)):
            return errors.error_page(
                request, 400, "The address holds a NUL", "No study has one; leave it out."
            )
        for name in [name for name, value in request.COOKIES.items() if "\x00" in value]:
            del request.COOKIES[name]  # none of ours, and it would be looked up
        return self._get_response(request)


def _is_text(query: str) -> bool:
    """Tell whether the query of an address, as it came by WSGI, is UTF-8."""
    try:
        unquote_to_bytes(query.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_utf8(charset: str) -> bool:
    try:
        return codecs.lookup(charset).name in {"utf-8", "ascii"}
    except LookupError:
        return True  # Django falls back to UTF-8
