"""The log of a process, in a process of tests: configured for a while, and put back."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from logs.journal import JournalHandler

_NAMES = (
    "pydicom", "pynetdicom", "py.warnings", "celery", "kombu", "amqp", "alembic", "urllib3",
    "highdicom", "dicomweb_client", "django", "django.server", "django.request",
    "django.security.DisallowedHost", "gunicorn.error",
)  # fmt: skip


@contextmanager
def logging_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Yield what is written to standard error; afterwards, loggers and hooks are as before."""
    root = logging.getLogger()
    shown = warnings.showwarning
    loggers = [logging.getLogger(name) for name in _NAMES]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in (root, *loggers)]
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        yield stream
    finally:
        logging.captureWarnings(False)
        warnings.showwarning = shown
        for handler in root.handlers:
            if isinstance(handler, JournalHandler):
                handler.close()
        for one, handlers, level, propagate in before:
            one.handlers[:], one.propagate = handlers, propagate
            one.setLevel(level)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        structlog.reset_defaults()
