"""Serve with gunicorn, in the foreground, until a signal ends it."""

from __future__ import annotations

import logging
import resource
import socket
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connections
from gunicorn.app.base import BaseApplication

from web import guard, logs, prepare, readiness
from web.results import media

__all__ = ["CannotBind", "serve"]

LOG = logging.getLogger(__name__)
THREADS = 16
BACKLOG = 512
# A drained stop within the 30 s that a supervisor waits.
GRACE_S = 20
# One worker process: SQLite has one writer, and the metrics one registry.
WORKERS = 1
# Each image of a large result is a file while it comes.
OPEN_FILES = 65_536
# A worker that does not answer its supervisor for so long is replaced.
STUCK_S = 120


class CannotBind(Exception):
    """The address is taken, or is not this machine's."""


class _Server(BaseApplication):
    """Gunicorn, configured from code: no command line, no configuration file."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        """Hand the options over."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application."""
        return get_wsgi_application()


def serve() -> None:
    """Migrate, then serve until SIGTERM or SIGINT.

    Raises
    ------
    CannotBind
        The address cannot be listened on.
    ChildProcessError
        The process that serves does not come up.
    """
    where = settings.ENVIRONMENT
    listener = _listen(where.host, where.port)
    prepare.migrate()
    media.sweep()
    _close_connections()
    _allow_open_files()
    host, port = listener.getsockname()[:2]
    LOG.info("web.listening", extra={"host": host, "port": port, "address": where.public_url})
    try:
        supervisor = readiness.Supervisor(host, port)
        _Server(_options(listener, supervisor)).run()
    except SystemExit as exc:
        # Gunicorn's own codes mean other things than ours.
        if exc.code:
            raise ChildProcessError("the serving process ended; the lines above say why") from exc


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(
            (host, port),
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as exc:
        raise CannotBind(
            f"cannot listen on {host} port {port}: {exc.strerror}; "
            "stop what uses it, or set LIMEN_WEB__PORT"
        ) from exc


def _close_connections() -> None:
    """Close the database: the serving process must not inherit what is open here."""
    connections.close_all()


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _options(listener: socket.socket, supervisor: readiness.Supervisor) -> dict[str, Any]:
    return {
        "bind": [f"fd://{listener.fileno()}"],
        "worker_class": guard.GuardedWorker,
        "worker_connections": guard.CONNECTIONS,
        "workers": WORKERS,
        "threads": THREADS,
        "timeout": STUCK_S,
        "graceful_timeout": GRACE_S,
        "keepalive": 5,
        "backlog": BACKLOG,
        "proc_name": "limen-web",
        "accesslog": None,  # the path of an API request holds a UID, its query a search
        "logger_class": logs.GunicornLogger,
        "control_socket_disable": True,
        "preload_app": False,
        # A header is what a client says, never where this application lies or who asks.
        "forwarder_headers": "",
        "limit_request_fields": 64,
        "post_worker_init": lambda _: supervisor.watch(),
        "on_exit": lambda _: supervisor.say("STOPPING=1"),
    }
