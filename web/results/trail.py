"""Who was shown which study, and when: the one place where a view is noted.

Who opens a study again within ten minutes is noted once. A note holds the key of the study and
nothing of the patient. Notes leave after three years. What is noted of a study goes to the audit
trail of the node too, where there is one (web/results/audit.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from datetime import datetime, timedelta

from django.conf import settings
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from web.results import audit
from web.results.models import Study, StudyView
from web.results.tokens import ClientIdentity

__all__ = ["forget", "read", "viewed"]

LOG = logging.getLogger(__name__)
AGAIN_S = 600
DAY_S = 86400
# Pairs of who and what that are remembered, so that sixty images are one row.
REMEMBERED = 10_000

_lock = threading.Lock()
_seen: OrderedDict[tuple[str, ...], float] = OrderedDict()
_forgotten_at = -float(DAY_S)


def viewed(request: HttpRequest, study: Study | None, what: StudyView.What) -> None:
    """Note that who asks is shown a study; None for a list of studies.

    A view that cannot be noted is shown all the same, and logged: a full disk must not come
    between a reader and a finding.
    """
    by_token = isinstance(request.user, ClientIdentity)
    by = StudyView.By.TOKEN if by_token else StudyView.By.ACCOUNT
    key = study.key if study else ""
    who = request.user.get_username()
    mark = (by, who, key, what)
    if not _is_new(mark):
        return
    if study is not None:
        audit.viewed(request, study)
    try:
        StudyView.objects.create(study_key=key, who=who, by=by, what=what, at=timezone.now())
        _forget_daily()
    except DatabaseError:
        with _lock:
            _seen.pop(mark, None)
        LOG.exception("view.not_noted", extra={"id": getattr(request, "error_id", None)})


def _is_new(mark: tuple[str, ...]) -> bool:
    now = time.monotonic()
    with _lock:
        noted = _seen.get(mark)
        if noted is not None and now - noted < AGAIN_S:
            return False
        _seen[mark] = now
        _seen.move_to_end(mark)
        while len(_seen) > REMEMBERED:
            _seen.popitem(last=False)
    return True


def _forget_daily() -> None:
    global _forgotten_at  # noqa: PLW0603 - one clock for the process
    with _lock:
        if time.monotonic() - _forgotten_at < DAY_S:
            return
        _forgotten_at = time.monotonic()
    forget()


def forget() -> int:
    """Delete the notes that are too old; return how many there were."""
    oldest = timezone.now() - timedelta(days=settings.TRAIL_DAYS)
    number, _ = StudyView.objects.filter(at__lt=oldest).delete()
    return number


def read(*, study: str = "", who: str = "", since: datetime | None = None) -> QuerySet[StudyView]:
    """Return notes, the latest first."""
    rows = StudyView.objects.order_by("-at", "-id")
    if study:
        rows = rows.filter(study_key=study)
    if who:
        rows = rows.filter(who=who)
    return rows.filter(at__gte=since) if since else rows
