"""What the environment says: the same names as the keys of config.toml."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

__all__ = ["Environment", "read"]

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Environment:
    """Settings of the results server; paths are absolute."""

    host: str
    port: int
    data_dir: Path
    database_url: str
    secret_key_file: Path
    public_url: str
    log_level: str

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


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ImproperlyConfigured(
            f"LIMEN_LOG__LEVEL is {text!r}; choose one of {', '.join(LOG_LEVELS)}"
        )
    return text.lower()


def read() -> Environment:
    """Read the environment.

    Raises
    ------
    ImproperlyConfigured
        A value cannot be used; the text names the variable.
    """
    get = os.environ.get
    host = get("LIMEN_WEB__HOST", "127.0.0.1")
    port = _port(get("LIMEN_WEB__PORT", "8042"))
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
        log_level=_log_level(get("LIMEN_LOG__LEVEL", "info")),
    )
