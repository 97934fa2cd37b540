"""Who logged in, saw which study, had dead work retried or discarded: for the audit trail.

The notes of this host go into ``<data_dir>/audit``, as those of the node do; its receiver or a
worker takes them to the collector (limen/audit/). Nothing is noted while ``LIMEN_AUDIT__HOST`` is
not set. A page is never held up by a note that cannot be written: that is counted and logged.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest

from web.results.models import Order, Study

__all__ = ["listen", "ordered", "viewed"]

log = logging.getLogger("web.audit")

_FAILED = 4  # PS3.15 A.5.1: minor failure, such as a wrong password
_MOST_FAILURES = 100
"""Failed logins that are noted in a minute."""
_naming = threading.Lock()
_last_ns = 0
_minute = 0
_failed_in_it = 0


def listen() -> None:
    """Note logins, logouts and failed logins from now on."""
    user_logged_in.connect(_logged_in, dispatch_uid="limen.audit")
    user_logged_out.connect(_logged_out, dispatch_uid="limen.audit")
    user_login_failed.connect(_login_failed, dispatch_uid="limen.audit")


def viewed(request: HttpRequest, study: Study) -> None:
    """Note that whoever asks has been shown a study."""
    _note(
        "viewed",
        request,
        request.user.get_username(),
        study_uid=study.study_uid,
        accession=study.accession,
        patient_id=study.patient_id,
    )


def ordered(request: HttpRequest, order: Order) -> None:
    """Note what somebody asked a receiver for, and of which study it is."""
    # The key of work begins with that of its study; that of a destination does not.
    study = Study.objects.filter(key=order.key[:32]).first()
    of = ("study_uid", "accession", "patient_id") if study else ()
    _note(
        "ordered",
        request,
        order.who,
        peer=order.host,
        asked=f"{order.action} {order.key}",
        reason=order.reason,
        **{name: getattr(study, name) for name in of},
    )


def _logged_in(sender: object, request: HttpRequest, user: Any, **_: object) -> None:
    _note("logged-in", request, user.get_username())


def _logged_out(sender: object, request: HttpRequest, user: Any, **_: object) -> None:
    if user is not None:
        _note("logged-out", request, user.get_username())


def _login_failed(
    sender: object, credentials: dict[str, Any], request: HttpRequest | None = None, **_: object
) -> None:
    global _minute, _failed_in_it  # noqa: PLW0603 - one counter for the process
    minute = int(time.monotonic() / 60)
    with _naming:
        _failed_in_it = _failed_in_it + 1 if minute == _minute else 1
        _minute = minute
        if _failed_in_it > _MOST_FAILURES:  # who tries names all day must not fill the folder
            return
    name = str(credentials.get("username", ""))[:150]
    _note("logged-in", request, name, outcome=_FAILED, reason="wrong name or password")


def _note(kind: str, request: HttpRequest | None, user: str, **more: object) -> None:
    """Write one note, durable before this returns: a JSON object as limen/audit/event.py reads."""
    if not settings.AUDIT_IS_ON:
        return
    note = {
        "kind": kind,
        "at": datetime.now(UTC).isoformat(),
        "process": "web",
        "pid": os.getpid(),
        "user": user,
        "address": request.META.get("REMOTE_ADDR", "") if request is not None else "",
        **more,
    }
    folder = settings.AUDIT_DIR
    part = folder / f".{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if sum(1 for _ in os.scandir(folder)) >= settings.AUDIT_MAX_WAITING:
            _drop("the collector has been away for too long")
            return
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(note).encode())
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder / _name())
    except OSError as exc:
        part.unlink(missing_ok=True)
        _drop(f"the folder cannot be written ({exc.strerror})")


def _name() -> str:
    """Return the next name: notes are sent in the order of their names."""
    global _last_ns  # noqa: PLW0603 - one counter for the process
    with _naming:
        _last_ns = max(time.time_ns(), _last_ns + 1)
        return f"{_last_ns:020d}-{os.getpid():07d}.json"


def _drop(reason: str) -> None:
    """Count a note that is lost: ``dropped`` is a byte long for each."""
    log.error("audit.dropped", extra={"reason": reason})
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(settings.AUDIT_DIR / "dropped", flags, 0o600)
        os.write(descriptor, b".")
        os.close(descriptor)
    except OSError:
        log.error("audit.not_counted")
