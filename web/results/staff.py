"""Pages of those who run Limen: operations, models, who saw what."""

from __future__ import annotations

import re

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from web.results import audit, roles, trail
from web.results import operations as nodes
from web.results.errors import error_page
from web.results.models import Bulletin, ModelVersion, Order
from web.results.roles import Role

__all__ = ["models", "operations", "order", "who_saw"]

AUDIT_ROWS = 500
_KEY = re.compile("[0-9a-f]{32}")
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
    context = {"versions": rows, "deployed": nodes.deployed()}
    return render(request, "results/models.html", context)


def _not_asked(query: QueryDict, study_key: str) -> str:
    """Return why a list would be none that was asked for; "" where it would."""
    unknown = [name for name in query if name not in {"study", "who"}]
    if unknown or any(len(values) > 1 for _, values in query.lists()):
        return "It is asked for by study and who, each once."
    if study_key and not _KEY.fullmatch(study_key):
        return "A study is named by its key: the 32 characters in the address of its page."
    return ""


@require_safe
@roles.needs(lambda role: role is Role.ADMIN, "Who saw what is shown to administrators.")
def who_saw(request: HttpRequest) -> HttpResponse:
    """Show an administrator who was shown which study."""
    study_key, who = (request.GET.get(name, "").strip() for name in ("study", "who"))
    wrong = _not_asked(request.GET, study_key)
    if wrong:
        return error_page(request, 400, "This list cannot be shown", wrong)
    rows = trail.read(study=study_key, who=who)[:AUDIT_ROWS]
    context = {"rows": rows, "study": study_key, "who": who, "most": AUDIT_ROWS}
    return render(request, "results/audit.html", context)
