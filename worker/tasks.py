"""The Celery tasks: thin. Each hands its message to ``Jobs.handle``."""

from __future__ import annotations

from celery import Celery

from limen.broker import DELIVER, EXPLAIN, PREDICT
from worker.jobs import Jobs

__all__ = ["register"]


def register(app: Celery, jobs: Jobs) -> None:
    """Give ``app`` the tasks ``limen.predict``, ``limen.explain`` and ``limen.deliver``."""
    for name in (PREDICT, EXPLAIN, DELIVER):
        app.task(jobs.handle, name=f"limen.{name}", acks_late=True, ignore_result=True)
