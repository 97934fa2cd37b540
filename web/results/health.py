"""Health of the process and of what it depends on; metrics."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from rest_framework.decorators import api_view, permission_classes

from web.results import bulletins, worklist
from web.results.metrics import REGISTRY, STUDIES
from web.results.tokens import MayReadMetrics

__all__ = ["healthz", "metrics", "readyz"]


@require_safe
@login_not_required
def healthz(request: HttpRequest) -> JsonResponse:  # noqa: ARG001
    """Say that the process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
@login_not_required
def readyz(request: HttpRequest) -> JsonResponse:  # noqa: ARG001
    """Say whether the database answers, and what of the node is not well.

    Only the first says 503: without a worker people still read what there is, and whoever spreads
    the load must not keep them from it.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM results_node")
        reasons = bulletins.reasons()
    except DatabaseError:
        return JsonResponse({"status": "failed", "database": "does not answer"}, status=503)
    status = "unwell" if reasons else "ok"
    return JsonResponse({"status": status, "database": "ok", "reasons": reasons})


@extend_schema(exclude=True)
@api_view(["GET", "HEAD"])
@permission_classes([MayReadMetrics])
def metrics(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Return the metrics in Prometheus' text format."""
    for outcome, _, number in worklist.outcomes():
        STUDIES.labels(outcome).set(number)
    return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)
