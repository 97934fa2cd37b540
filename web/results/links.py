"""One-time login links: signed, used once, good for a day."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.core import signing
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from web.results.models import LoginLink

__all__ = ["LinkGone", "create", "look", "redeem"]

SALT = "limen.login-link"


class LinkGone(Exception):
    """The link was used, has expired, or was never given out."""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def create(user: User) -> str:
    """Return a new login link of a user, built from the public URL."""
    token = signing.TimestampSigner(salt=SALT).sign(secrets.token_urlsafe(24))
    now = timezone.now()
    LoginLink.objects.filter(expires_at__lt=now).delete()
    LoginLink.objects.create(
        user=user,
        token_sha256=_digest(token),
        expires_at=now + timedelta(hours=settings.LOGIN_LINK_HOURS),
    )
    return settings.PUBLIC_URL + reverse("login-link", args=[token])


def look(token: str) -> User:
    """Return whose link this is, and leave it as it is.

    Raises
    ------
    LinkGone
        The link is not, or no longer, good.
    """
    links = _signed(token).filter(used_at=None, expires_at__gt=timezone.now())
    link = links.select_related("user").first()
    if link is None or not link.user.is_active:
        raise LinkGone
    return link.user


def redeem(token: str) -> User:
    """Return whose link this is, and let nobody use it again.

    Raises
    ------
    LinkGone
        The link is not, or no longer, good.
    """
    now = timezone.now()
    links = _signed(token)
    # One statement decides: of two requests with one link, one changes a row.
    if not links.filter(used_at=None, expires_at__gt=now).update(used_at=now):
        raise LinkGone
    user = links.select_related("user").get().user
    if not user.is_active:
        raise LinkGone
    return user


def _signed(token: str) -> QuerySet[LoginLink]:
    try:
        signing.TimestampSigner(salt=SALT).unsign(
            token, max_age=timedelta(hours=settings.LOGIN_LINK_HOURS)
        )
    except signing.BadSignature as exc:
        raise LinkGone from exc
    return LoginLink.objects.filter(token_sha256=_digest(token))
