"""Notices: a webhook is told of each alarm twice, when it is raised and when it is cleared.

The receiver tells them, since it is what runs when nothing else does. What is open and what has yet
to be told is in a file of the data folder, so that a restart repeats nothing and loses nothing. An
address that is away holds nothing up: notices wait in order, and the oldest go when they are many.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from limen.alarms import Alarm, Kind, alarms
from limen.config import Config
from limen.durable import beside, sync_folder, write_new
from limen.errors import LimenError, Rejected, Unreachable
from limen.journal import Journal, backoff_s
from limen.telemetry import METRICS
from limen.webhook import Webhook

__all__ = ["ROUND_S", "Notices", "notices_file"]

log = structlog.get_logger("limen.notices")

ROUND_S: Final = 5.0
"""Between looks at the alarms."""

_MOST_OPEN, _MOST_WAITING = 500, 500
_AT_ONCE = 20
_RETRY_S, _RETRY_MOST_S = 5.0, 900.0
_TEXT_LENGTH = 2000

_Key = tuple[str, str]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Open(_Row):
    """An alarm that was raised."""

    kind: str
    about: str
    text: str
    raised_at: datetime


class _Notice(_Row):
    """What has yet to be told."""

    id: str
    type: Literal["alarm.raised", "alarm.cleared"]
    at: datetime
    alarm: _Open


class _File(_Row):
    schema_number: int = 1
    open: tuple[_Open, ...] = ()
    waiting: tuple[_Notice, ...] = ()


class Notices:
    """Tells ``alarm.webhook`` what is raised and what is cleared.

    Parameters
    ----------
    config
        ``[alarm]``: where, signed with what, after how long.
    clock_s
        Returns seconds that only grow; for tests.
    """

    def __init__(
        self, config: Config, journal: Journal, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        settings = config.alarm
        assert settings.webhook and settings.secret_file is not None  # noqa: S101, PT018 - the settings see to it
        self._config = config
        self._journal = journal
        self._clock_s = clock_s
        self._after_s = settings.after_s
        self._host = socket.gethostname()
        self._webhook = Webhook(
            "alarm.webhook",
            settings.webhook,
            settings.secret_file,
            settings.ca_file,
            settings.timeout_s,
        )
        self._path = notices_file(config.data_dir)
        kept = _read(self._path)
        self._open = {(one.kind, one.about): one for one in kept.open}
        self._waiting = list(kept.waiting)
        self._changed = False
        self._since_s: dict[_Key, float] = {}
        """When an alarm that is not raised was first seen, or one that is was first missed."""
        self._failures = 0
        self._next_s = float("-inf")

    def round(self) -> None:
        """See what is raised and cleared by now, and tell it.

        Raises
        ------
        Unreachable
            The webhook does not answer, or rejects us: it is asked again later.
        """
        self._see(self._found())
        self._keep()
        METRICS.notices_waiting.set(len(self._waiting))
        if self._waiting and self._clock_s() >= self._next_s:
            self._tell()

    # -- what is raised and what is cleared ----------------------------------------------------

    def _found(self) -> dict[_Key, Alarm]:
        status = self._journal.status
        try:
            lanes, workers = status.queues(), status.workers()
            deployed = self._journal.deployments.standing()
        except LimenError as exc:
            text = f"{exc}; what else is not well is not known meanwhile"
            return {(Kind.JOURNAL.value, "journal"): Alarm(Kind.JOURNAL, "journal", text)}
        off_s = self._journal.database.clock_off_s
        found = alarms(self._config, lanes, workers, off_s, deployed)
        return {(one.kind.value, one.about): one for one in found}

    def _see(self, found: dict[_Key, Alarm]) -> None:
        for key, alarm in found.items():
            room = len(self._open) < _MOST_OPEN
            if key not in self._open and room and self._has_lasted(key):
                now = datetime.now(UTC)
                raised = _Open(
                    kind=key[0], about=key[1], text=alarm.text[:_TEXT_LENGTH], raised_at=now
                )
                self._open[key] = raised
                self._add("alarm.raised", now, raised)
        # While the journal is away nothing is known to be well.
        known = (Kind.JOURNAL.value, "journal") not in found
        gone = [key for key in self._open if key not in found and known]
        for key in gone:
            if self._has_lasted(key):
                self._add("alarm.cleared", datetime.now(UTC), self._open.pop(key))
        changing = {key for key in found if key not in self._open} | set(gone)
        self._since_s = {key: at for key, at in self._since_s.items() if key in changing}

    def _has_lasted(self, key: _Key) -> bool:
        """Return whether it has been so for ``alarm.after_s``: what comes and goes tells nobody."""
        now_s = self._clock_s()
        if now_s - self._since_s.setdefault(key, now_s) < self._after_s:
            return False
        del self._since_s[key]
        return True

    def _add(
        self, what: Literal["alarm.raised", "alarm.cleared"], at: datetime, alarm: _Open
    ) -> None:
        self._waiting.append(_Notice(id=f"alarm_{uuid.uuid4().hex}", type=what, at=at, alarm=alarm))
        self._changed = True
        if len(self._waiting) > _MOST_WAITING:
            self._over("dropped")

    # -- telling it ----------------------------------------------------------------------------

    def _tell(self) -> None:
        for notice in self._waiting[:_AT_ONCE]:
            try:
                self._webhook.post(notice.id, self._body(notice))
            except Rejected as exc:
                log.error("notices.refused", reason=str(exc))
                self._over("refused")
            except Unreachable as exc:
                self._failures += 1
                wait_s = max(exc.wait_s, backoff_s(self._failures, _RETRY_S, _RETRY_MOST_S))
                self._next_s = self._clock_s() + wait_s
                self._keep()
                raise
            else:
                self._over("told")
            self._failures = 0
        self._keep()

    def _over(self, end: str) -> None:
        """The first that waits does so no more."""
        del self._waiting[0]
        self._changed = True
        METRICS.notices.labels(end).inc()
        METRICS.notices_waiting.set(len(self._waiting))

    def _body(self, notice: _Notice) -> bytes:
        alarm = notice.alarm
        told = {
            "type": notice.type,
            "timestamp": _time(notice.at),
            "data": {
                "node": self._config.node.name,
                "host": self._host,
                "kind": alarm.kind,
                "about": alarm.about,
                "text": alarm.text,
                "raised_at": _time(alarm.raised_at),
            },
        }
        return json.dumps(told, ensure_ascii=False, sort_keys=True).encode()

    # -- between restarts ----------------------------------------------------------------------

    def _keep(self) -> None:
        """Put it on the disk. A full disk is an alarm too: it is told all the same."""
        if not self._changed:
            return
        file = _File(open=tuple(self._open.values()), waiting=tuple(self._waiting))
        try:
            with beside(self._path) as part:
                write_new(part, [file.model_dump_json(indent=1).encode()])
            sync_folder(self._path.parent)
        except OSError as exc:
            log.warning("notices.not_kept", path=str(self._path), reason=exc.strerror)
            return
        self._changed = False


def notices_file(data_dir: Path) -> Path:
    """Return where a host keeps what it has told."""
    return data_dir / "alarms-told.json"


def _read(path: Path) -> _File:
    """Return what is there. What cannot be read is left: alarms are told once more, not never."""
    try:
        return _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _File()
    except (OSError, ValidationError) as exc:
        log.warning("notices.unreadable", path=str(path), error=exc)
        return _File()


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
