"""Who may read what: file modes of the settings, the data and the secrets.

What is in a folder that others may not enter is not open to them, whatever its own mode says.
Rights of a group are left to whoever made the group.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from limen.config import Config

__all__ = ["Exposed", "exposed", "looked_at", "warn"]

log = structlog.get_logger("limen.modes")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A file or folder that every account of this host may read or change.

    Attributes
    ----------
    why
        What that gives away.
    remedy
        A command that ends it.
    """

    path: Path
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}; {self.remedy}"


def warn(config: Config, file: Path | None) -> None:
    """Log what is open to others; a process does this at its start."""
    for one in exposed(config, file):
        log.warning("file.open_to_others", path=str(one.path), reason=f"{one.why}; {one.remedy}")


def looked_at(config: Config, file: Path | None) -> int:
    """Return how many of the files and folders are there."""
    paths = {*_secrets(config, file), *_data(config), *([file] if file else [])}
    return sum(path.exists() for path in paths)


def exposed(config: Config, file: Path | None) -> Iterator[Exposed]:
    """Yield what is open to every account of this host, and must not be.

    Parameters
    ----------
    file
        The settings file; None: there is none.
    """
    for path in dict.fromkeys(_secrets(config, file)):
        if _open(path, stat.S_IROTH):
            yield Exposed(
                path,
                "holds a secret that every account of this host can read",
                f"chmod o-rwx {path}, and renew the secret",
            )
    for path in dict.fromkeys(_data(config)):
        if _open(path, stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH):
            yield Exposed(
                path,
                "holds data of patients and is open to every account of this host",
                f"chmod o-rwx {path}",
            )
    if file is not None and _open(file, stat.S_IWOTH):
        yield Exposed(
            file, "can be changed by every account of this host", f"chmod o-w {file}, and read it"
        )


def _secrets(config: Config, file: Path | None) -> Iterator[Path]:
    places = config.destination
    named = [
        config.token_file,
        config.web.secret_key_file,
        config.journal.url_file,
        config.queue.broker_file,
        config.web.database_url_file,
        config.alarm.secret_file,
        places.archive.credentials_file,
        config.scp.tls.key_file if config.scp.tls.port else None,
        *(entry.key_file or entry.certificate_file for entry in places.pacs if entry.tls),
        *(
            secret
            for entry in places.dicomweb
            for secret in (entry.password_file, entry.token_file)
        ),
        *(entry.secret_file for entry in places.webhook),
        *(entry.key_file or entry.certificate_file for entry in places.hl7 if entry.tls),
    ]
    yield from (path for path in named if path is not None)
    try:
        yield from sorted((config.data_dir / "secrets").glob("*"))
    except OSError:
        return
    if file is not None and _holds_a_password(config, file):
        yield file


def _holds_a_password(config: Config, file: Path) -> bool:
    urls = (config.journal.url, config.queue.broker, config.web.database_url)
    passwords = {urlsplit(url).password for url in urls} - {None}
    try:
        text = file.read_text("utf-8")
    except OSError:
        return False
    return any(f":{password}@" in text for password in passwords)


def _data(config: Config) -> Iterator[Path]:
    yield config.data_dir
    if config.destination.archive.enabled and not config.destination.archive.bucket:
        yield config.archive_dir


def _open(path: Path, modes: int) -> bool:
    """Return whether an account that has nothing to do with the file gets that far."""
    try:
        real = path.resolve(strict=True)
        if not real.stat().st_mode & modes:
            return False
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in real.parents)
    except OSError:  # it is not there, or this account itself may not look
        return False
