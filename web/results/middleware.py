"""What every request passes: an id to quote, a count and a duration."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from web.results import metrics

__all__ = ["RequestIdMiddleware"]


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
        metrics.REQUEST_SECONDS.labels(route).observe(time.monotonic() - started)
        return response
