"""Slow down who guesses passwords: an account closes after too many tries."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from web.results.models import LoginAttempts

__all__ = ["clear", "may_try"]


def _digest(account: str) -> str:
    return hashlib.sha256(account.casefold().encode()).hexdigest()


def may_try(account: str) -> bool:
    """Count one try and tell whether its password may be looked at.

    Counted before the password is checked, so that many tries at once cannot
    slip past. Accounts that do not exist are counted too: the answer must not
    tell them apart.
    """
    now = timezone.now()
    window = timedelta(minutes=settings.LOCKOUT_MINUTES)
    with transaction.atomic():
        LoginAttempts.objects.filter(since__lt=now - window).delete()
        row, _ = LoginAttempts.objects.select_for_update().get_or_create(
            account_sha256=_digest(account), defaults={"since": now}
        )
        if row.attempts >= settings.LOCKOUT_FAILURES:
            return False
        LoginAttempts.objects.filter(pk=row.pk).update(attempts=F("attempts") + 1)
    return True


def clear(account: str) -> None:
    """Forget the tries of an account that was entered."""
    LoginAttempts.objects.filter(account_sha256=_digest(account)).delete()
