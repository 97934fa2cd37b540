"""Pages of those who run Limen: operations, models, who saw what."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from web.results import audit, roles, trail
from web.results import operations as nodes
from web.results.errors import error_page
from web.results.models import Bulletin, ModelVersion, Order
from web.results.roles import Role

__all__ = ["models", "operations", "order", "who_saw"]

AUDIT_ROWS = 500
_for_operators = roles.needs(
    lambda role: role.sees_operations, "Operations are shown to administrators and integrators."
)


@require_safe
@_for_operators
def operations(request: HttpRequest) -> HttpResponse:
    """Show how the nodes stand: alarms, queues, destinations, dead work, workers, disk, peers."""
    context = {"hosts": nodes.hosts(), "reason_length": nodes.REASON_LENGTH}
    return render(request, "results/operations.html", context)


@require_POST
@_for_operators
def order(request: HttpRequest) -> HttpResponse:
    """Ask a node for dead work again, or never."""
    action, key, reason = (request.POST.get(name, "") for name in ("action", "key", "reason"))
    if action == Order.Action.DISCARD and not roles.of(request.user).may_discard:
        raise PermissionDenied("Dead work is discarded by administrators; ask one, or retry it.")
    number = request.POST.get("bulletin", "")
    is_number = number.isascii() and number.isdecimal() and len(number) < 19
    row = get_object_or_404(Bulletin, pk=int(number) if is_number else 0)
    try:
        audit.ordered(request, nodes.ask(row, request.user, action, key, reason))
    except ValueError as exc:
        return error_page(request, 422, "This was not asked for", f"{exc}.".capitalize())
    return redirect("operations")


@require_safe
def models(request: HttpRequest) -> HttpResponse:
    """Show which versions of which models results came from, and what they are for."""
    rows = ModelVersion.objects.order_by("-last_at")
    return render(request, "results/models.html", {"versions": rows})


@require_safe
@roles.needs(lambda role: role is Role.ADMIN, "Who saw what is shown to administrators.")
def who_saw(request: HttpRequest) -> HttpResponse:
    """Show an administrator who was shown which study."""
    study_key = request.GET.get("study", "")[:32]
    who = request.GET.get("who", "")[:150]
    rows = trail.read(study=study_key, who=who)[:AUDIT_ROWS]
    context = {"rows": rows, "study": study_key, "who": who, "most": AUDIT_ROWS}
    return render(request, "results/audit.html", context)
