"""Pages around an account: log in, log in by link, set a password, log out."""

from __future__ import annotations

import threading

from django.conf import settings
from django.contrib.auth import (
    authenticate,
    login,
    logout,
    password_validation,
    update_session_auth_hash,
)
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from web.results import links, lockout
from web.results.errors import error_page

__all__ = ["log_in", "log_in_by_link", "log_out", "set_password"]

# The session came from a link: the password may be set without the old one.
BY_LINK = "by_link"
WRONG = "This name and password do not belong together."
BUSY = "Many log in at this moment. Try again in a few seconds."
# Argon2 takes 100 MiB and a tenth of a second for each password that is looked at.
LOOKING = threading.BoundedSemaphore(2)
LOCKED = "Too many tries. Wait {minutes} minutes, or ask for a login link."


def _next(request: HttpRequest) -> str:
    target = request.POST.get("next") or request.GET.get("next") or ""
    # Without a slash it would be read as the name of a view.
    if target.startswith("/") and url_has_allowed_host_and_scheme(target, allowed_hosts=None):
        return target
    return reverse(settings.LOGIN_REDIRECT_URL)


@login_not_required
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def log_in(request: HttpRequest) -> HttpResponse:
    """Ask for name and password."""
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(_next(request))
        return render(request, "results/login.html", {"next": _next(request)})
    name = request.POST.get("username", "")[:150].replace("\x00", "")
    # Before anything else that costs: a flood of logins must leave threads to those who read.
    if not LOOKING.acquire(blocking=False):
        return _refuse(request, name, BUSY, 429)
    try:
        if not lockout.may_try(name):
            return _refuse(request, name, LOCKED.format(minutes=settings.LOCKOUT_MINUTES), 429)
        password = request.POST.get("password", "")[:4096]
        user = authenticate(request, username=name, password=password)
    finally:
        LOOKING.release()
    if user is None:
        return _refuse(request, name, WRONG, 200)
    lockout.clear(name)
    login(request, user)
    return redirect(_next(request))


def _refuse(request: HttpRequest, name: str, text: str, status: int) -> HttpResponse:
    context = {"next": _next(request), "username": name, "error": text}
    return render(request, "results/login.html", context, status=status)


@login_not_required
@never_cache
@require_http_methods(["GET", "POST"])
def log_in_by_link(request: HttpRequest, token: str) -> HttpResponse:
    """Log in who brings a one-time link and says so; then ask for a password where there is none.

    To look at the link does not use it up: scanners of mail and previews of chats open it first.
    """
    try:
        if request.method == "GET":
            return render(request, "results/link.html", {"name": links.look(token).get_username()})
        user = links.redeem(token)
    except links.LinkGone:
        if request.user.is_authenticated:
            return redirect("worklist")
        return error_page(
            request,
            410,
            "This login link is no longer good",
            "It was used, or is older than a day. Make a new one on the server with: "
            "limen web link USER",
        )
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.session[BY_LINK] = True
    return redirect("worklist" if user.has_usable_password() else "password")


@never_cache
@sensitive_post_parameters("old", "new", "again")
@require_http_methods(["GET", "HEAD", "POST"])
def set_password(request: HttpRequest) -> HttpResponse:
    """Let the user choose a password."""
    user = request.user
    needs_old = user.has_usable_password() and not request.session.get(BY_LINK)
    context = {
        "needs_old": needs_old,
        "may_skip": not user.has_usable_password(),
        "rules": password_validation.password_validators_help_texts(),
    }
    if request.method != "POST":
        return render(request, "results/password.html", context)
    new = request.POST.get("new", "")[:4096]
    errors: list[str] = []
    if needs_old and not _old_password_is_right(request):
        errors.append("The present password is wrong, or was tried too often.")
    elif new != request.POST.get("again", ""):
        errors.append("The two new passwords differ.")
    else:
        try:
            password_validation.validate_password(new, user)
        except ValidationError as exc:
            errors.extend(exc.messages)
    if errors:
        return render(request, "results/password.html", {**context, "errors": errors}, status=422)
    user.set_password(new)
    user.save(update_fields=["password"])
    request.session.pop(BY_LINK, None)
    update_session_auth_hash(request, user)
    return redirect("worklist")


def _old_password_is_right(request: HttpRequest) -> bool:
    name = request.user.get_username()
    if not lockout.may_try(name):
        return False
    if not request.user.check_password(request.POST.get("old", "")[:4096]):
        return False
    lockout.clear(name)
    return True


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("login")
