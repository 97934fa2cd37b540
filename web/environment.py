"""What the environment says: the same names as the keys of config.toml."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

__all__ = ["Environment", "read"]

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json", "journald")
_OURS = "LIMEN_WEB"
_KEYS = ("HOST", "PORT", "PUBLIC_URL", "VIEWER_URL", "DATABASE_URL", "SECRET_KEY_FILE")


@dataclass(frozen=True, slots=True)
class Environment:
    """Settings of the results server; paths are absolute."""

    host: str
    port: int
    data_dir: Path
    database_url: str
    secret_key_file: Path
    public_url: str
    viewer_url: str
    log_level: str
    log_format: str
    picture_days: float
    audit_is_on: bool
    audit_max_waiting: int

    @property
    def is_wildcard(self) -> bool:
        """Tell whether the server listens on every address of this machine."""
        return self.host in {"0.0.0.0", "::", ""}  # noqa: S104

    @property
    def allowed_hosts(self) -> list[str]:
        """Names by which a request may call this server.

        A server that listens everywhere is reached by names it cannot know (the
        name of its container, of its proxy); the links it prints are built from
        ``public_url`` and never from the name in a request.
        """
        if self.is_wildcard:
            return ["*"]
        names = {self.host, "localhost", "127.0.0.1", "[::1]", urlsplit(self.public_url).hostname}
        return sorted(name for name in names if name)

    @property
    def origin(self) -> str:
        """Scheme and authority of the public URL."""
        parts = urlsplit(self.public_url)
        return f"{parts.scheme}://{parts.netloc}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise ImproperlyConfigured(f"LIMEN_WEB__PORT is {text!r}; a port is a number 0 to 65535")
    return int(text)


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise ImproperlyConfigured(f"{name} is {text!r}; it is a whole number from 1 on")
    return int(text)


def _days(name: str, text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise ImproperlyConfigured(f"{name} is {text!r}; it is a number of days, 0 for ever")
    return float(text)


def _viewer_url(text: str) -> str:
    if text and (not text.startswith(("http://", "https://")) or "{study_uid}" not in text):
        raise ImproperlyConfigured(
            f"LIMEN_WEB__VIEWER_URL is {text!r}; it starts with http:// or https:// and has "
            "{study_uid} where the UID of the study goes"
        )
    return text


def _public_url(text: str, host: str, port: int) -> str:
    if not text:
        shown = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104
        return f"http://{_bracketed(shown)}:{port}"
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ImproperlyConfigured(
            f"LIMEN_WEB__PUBLIC_URL is {text!r}; it starts with http:// or https:// and a host"
        )
    return text.rstrip("/")


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def _one_of(name: str, text: str, known: tuple[str, ...]) -> str:
    if text.lower() not in known:
        raise ImproperlyConfigured(f"{name} is {text!r}; choose one of {', '.join(known)}")
    return text.lower()


def _refuse_what_is_not_understood() -> None:
    """Refuse a variable of ours that would change nothing; the likeliest slip is one underscore."""
    known = {f"{_OURS}_{key}": f"{_OURS}__{key}" for key in _KEYS}
    for name in sorted(n for n in os.environ if n.startswith(_OURS)):
        # Kubernetes says SERVICE_HOST, PORT_... of a service that is called limen-web.
        if name in known.values() or f"{_OURS}_SERVICE_HOST" in os.environ:
            continue
        found = difflib.get_close_matches(name.replace("__", "_"), known, 1)
        hint = (
            f"did you mean {known[found[0]]}?" if found else f"known: {', '.join(known.values())}"
        )
        raise ImproperlyConfigured(f"{name} is no setting; {hint}")


def read() -> Environment:
    """Read the environment.

    Raises
    ------
    ImproperlyConfigured
        A value cannot be used; the text names the variable.
    """
    _refuse_what_is_not_understood()
    get = os.environ.get
    host = get("LIMEN_WEB__HOST", "127.0.0.1")
    port = _port(get("LIMEN_WEB__PORT", "8642"))
    data_dir = Path(get("LIMEN_NODE__DATA_DIR") or "limen-data").absolute()
    return Environment(
        host=host,
        port=port,
        data_dir=data_dir,
        database_url=get("LIMEN_WEB__DATABASE_URL") or f"sqlite:///{data_dir / 'web.db'}",
        secret_key_file=Path(
            get("LIMEN_WEB__SECRET_KEY_FILE") or data_dir / "secrets" / "web-secret-key"
        ).absolute(),
        public_url=_public_url(get("LIMEN_WEB__PUBLIC_URL", ""), host, port),
        viewer_url=_viewer_url(get("LIMEN_WEB__VIEWER_URL", "")),
        log_level=_one_of("LIMEN_LOG__LEVEL", get("LIMEN_LOG__LEVEL") or "info", LOG_LEVELS),
        log_format=_one_of("LIMEN_LOG__FORMAT", get("LIMEN_LOG__FORMAT") or "text", LOG_FORMATS),
        picture_days=_days(
            "LIMEN_RETENTION__PICTURE_DAYS", get("LIMEN_RETENTION__PICTURE_DAYS") or "365"
        ),
        audit_is_on=bool(get("LIMEN_AUDIT__HOST")),
        audit_max_waiting=_count(
            "LIMEN_AUDIT__MAX_WAITING", get("LIMEN_AUDIT__MAX_WAITING", "50000")
        ),
    )
