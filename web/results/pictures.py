"""Old pictures leave the results server; what was found in them stays.

Each result that comes lets up to three others go whose pictures are older than
``retention.picture_days``: more leave than come, and none is waited for long.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, transaction
from django.utils import timezone

from web.results import media
from web.results.models import RenderedImage, Report

__all__ = ["drop_old"]

LOG = logging.getLogger(__name__)
AT_ONCE = 3


def drop_old() -> int:
    """Drop the pictures of the oldest results; return of how many.

    What cannot be dropped now stays for the next time, and is logged: the result that came is kept.
    """
    if not settings.PICTURE_DAYS:
        return 0
    try:
        return _drop_old()
    except (DatabaseError, OSError):
        LOG.exception("pictures.not_dropped")
        return 0


def _drop_old() -> int:
    now = timezone.now()
    oldest = now - timedelta(days=settings.PICTURE_DAYS)
    with transaction.atomic():
        old = Report.objects.filter(posted_at__lt=oldest, dropped_at=None).order_by("posted_at")
        free = old.select_for_update(skip_locked=True)
        reports = list(free.values_list("pk", flat=True)[:AT_ONCE])
        images = RenderedImage.objects.filter(report__in=reports)
        files = set(images.values_list("sha256", flat=True))
        images.delete()
        Report.objects.filter(pk__in=reports).update(dropped_at=now)
    # Others may show the same bytes: a slice is in the result of both phases.
    files -= set(RenderedImage.objects.filter(sha256__in=files).values_list("sha256", flat=True))
    for sha256 in files:
        media.drop(sha256)
    return len(reports)
