"""Roles: what an account may see and do; the two columns that Django keeps of an account.

A reader sees patients, votes and writes notes. An administrator does too, and sees who saw what,
and the operations of the nodes, and says what of dead work nobody needs. An integrator connects
systems and needs nobody's name: results without the patient, no votes, and the operations, where
dead work is tried again. Nodes and clients have tokens (tokens.py).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

__all__ = ["Role", "assign", "needs", "of", "role"]


class Role(StrEnum):
    """Of an account."""

    READER = "reader"
    INTEGRATOR = "integrator"
    ADMIN = "admin"

    @property
    def sees_patients(self) -> bool:
        """Whether names, numbers, free text and pictures of patients are shown."""
        return self is not Role.INTEGRATOR

    @property
    def sees_operations(self) -> bool:
        """Whether it is shown how the nodes stand."""
        return self is not Role.READER

    @property
    def may_discard(self) -> bool:
        """Whether dead work may be given up: a result then never reaches where it was to go."""
        return self is Role.ADMIN


def of(user: User) -> Role:
    """Return the role of an account."""
    if user.is_superuser:
        return Role.ADMIN
    return Role.INTEGRATOR if user.is_staff else Role.READER


def assign(user: User, role: Role) -> None:
    """Give an account a role."""
    user.is_superuser, user.is_staff = role is Role.ADMIN, role is not Role.READER
    user.save(update_fields=["is_superuser", "is_staff"])


def role(request: HttpRequest) -> dict[str, Any]:
    """Give templates the role of who asks."""
    user = getattr(request, "user", None)
    return {"role": of(user) if user is not None and user.is_authenticated else None}


View = Callable[..., HttpResponse]


def needs(may: Callable[[Role], bool], text: str) -> Callable[[View], View]:
    """Return a decorator of views that are for some roles only; the others are told ``text``."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: object, **named: object) -> HttpResponse:
            if not may(of(request.user)):
                raise PermissionDenied(text)
            return view(request, *args, **named)

        return guarded

    return decorate
