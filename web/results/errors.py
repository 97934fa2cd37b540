"""Error pages and error answers: an id to quote, no traceback, no PHI."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from rest_framework.response import Response
from rest_framework.views import exception_handler

__all__ = [
    "api_exception",
    "bad_request",
    "csrf_failure",
    "error_page",
    "forbidden",
    "not_found",
    "server_error",
]

LOG = logging.getLogger(__name__)


def error_page(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    """Return an error page, or JSON where a script asked."""
    error_id = getattr(request, "error_id", "")
    if request.path.startswith("/api/"):
        return JsonResponse({"detail": f"{title}. {text}", "id": error_id}, status=status)
    # Without the request: an error page must not need a session, or the database.
    theme = "light" if request.COOKIES.get("limen_theme") == "light" else "dark"
    context = {"status": status, "title": title, "text": text, "id": error_id, "theme": theme}
    return HttpResponse(render_to_string("results/error.html", context), status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    """400."""
    return error_page(
        request, 400, "The request cannot be understood", "Go back and try it once more."
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403, with the reason that a view gave."""
    text = str(exception) or "Ask the person who gave you your account."
    return error_page(request, 403, "You may not do this", text)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001
    """403: the form is old, or comes from somewhere else."""
    return error_page(
        request, 403, "This form is no longer good", "Reload the page it was on and send it again."
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    """404."""
    return error_page(
        request, 404, "There is no such page", "The study may have been removed, or never arrived."
    )


def server_error(request: HttpRequest) -> HttpResponse:
    """500."""
    return error_page(
        request, 500, "Something went wrong on this server", "The log names it by the id below."
    )


def api_exception(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Answer an error of the API, with the id that the log repeats."""
    response = exception_handler(exc, context)
    if response is not None and isinstance(response.data, dict):
        response.data["id"] = getattr(context["request"], "error_id", "")
    return response
