"""The service of one process: what it offers, and to whom; the same for all of its associations."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from limen.config import Scp
from scp.guard import Guard
from scp.handlers import Handlers
from scp.intake import Intake
from scp.sop_classes import served_by
from scp.spool import Spool
from scp.tls import Credentials

__all__ = ["Service"]


@dataclass(frozen=True, slots=True)
class Service:
    """What every association of a process shares: who may send, what is taken, where it goes.

    Attributes
    ----------
    served
        Abstract syntaxes, each with the transfer syntaxes it is taken in.
    storage
        Those that are storage SOP classes.
    credentials
        Certificates of the TLS port; None when it is closed.
    """

    settings: Scp
    guard: Guard
    handlers: Handlers
    served: Mapping[str, Container[str]]
    storage: Container[str]
    credentials: Credentials | None

    @classmethod
    def of(
        cls, settings: Scp, spool: Spool, intake: Intake, credentials: Credentials | None
    ) -> Service:
        """Return what a process with these settings serves."""
        served, storage = served_by(settings)
        handlers = Handlers(spool, intake, settings.max_instance_bytes)
        return cls(settings, Guard(settings), handlers, served, storage, credentials)
