"""``limen up``: receiver, worker and results server as children of one process.

Each is started with ``python -m``, says when it is ready (``limen.readiness``), is started again
when it dies, and gets SIGTERM when this process is told to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from limen.command.edge import CANNOT_BIND, FAILED, OK, USAGE
from limen.config import Config
from limen.errors import LimenError

__all__ = ["PROCESSES", "Supervisor", "environment", "check_web", "how_to_log_in", "set_up_web"]

log = structlog.get_logger("limen.up")

PROCESSES = ("web", "scp", "worker")
_FATAL_CODES = {USAGE, CANNOT_BIND}  # starting again would not help
_BACKOFF_S, _BACKOFF_LIMIT_S, _STEADY_S = 1.0, 30.0, 60.0
_POLL_S = 0.1
_STOP_S = 35.0
# When this process is killed outright, the children must not keep the ports (util-linux).
_END_WITH_US = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class StartFailed(LimenError):
    """A child ended, or was not ready in time; its exit code is passed on."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def environment(config: Config, file: Path | None) -> dict[str, str]:
    """Return the environment of a child: ours, and what the results server needs of the settings.

    The results server reads no ``config.toml``; it knows the same keys by their environment names.
    """
    env = dict(os.environ)
    if file is not None:
        env["LIMEN_CONFIG"] = str(file.resolve())
    env["LIMEN_NODE__DATA_DIR"] = str(config.data_dir)
    env["LIMEN_LOG__LEVEL"] = config.log.level
    env["LIMEN_LOG__FORMAT"] = config.log.format
    env["LIMEN_WEB__HOST"] = config.web.host
    env["LIMEN_WEB__PORT"] = str(config.web.port)
    env["LIMEN_WEB__PUBLIC_URL"] = config.web_url
    env["LIMEN_RETENTION__PICTURE_DAYS"] = str(config.retention.picture_days)
    if config.audit.host:  # it notes who sees what; this node sends it
        env["LIMEN_AUDIT__HOST"] = config.audit.host
        env["LIMEN_AUDIT__MAX_WAITING"] = str(config.audit.max_waiting)
    if config.web.viewer_url:
        env["LIMEN_WEB__VIEWER_URL"] = config.web.viewer_url
    env.pop("LIMEN_WEB__DATABASE_URL_FILE", None)  # read already
    if config.web.database_url:
        env["LIMEN_WEB__DATABASE_URL"] = config.web.database_url
    if config.web.secret_key_file is not None:
        env["LIMEN_WEB__SECRET_KEY_FILE"] = str(config.web.secret_key_file)
    return env


def set_up_web(config: Config, env: dict[str, str], *, link: bool = False) -> dict[str, Any]:
    """Prepare the results server: database, this node's token, the first account.

    Parameters
    ----------
    link
        Whether somebody reads the login link of an account that is made now.

    Returns
    -------
    dict
        ``login_url``, None unless an account was made and ``link`` asked for it; ``unused``, the
        name of the first account while nobody has set its password, else None.

    Raises
    ------
    LimenError
        It failed; the text is what it said, the exit code is its own.
    """
    words = ["setup", "--node", config.node.name, "--token-file", str(config.token_file)]
    said = _ask_web(env, [*words, "--admin", "admin", "--json", *(["--link"] if link else [])])
    answer: dict[str, Any] = json.loads(said)
    return answer


def check_web(env: dict[str, str]) -> None:
    """See that the database of the results server is no newer than this version.

    Raises
    ------
    LimenError
        It is, or does not answer.
    """
    _ask_web(env, ["check"])


def _ask_web(env: dict[str, str], words: list[str]) -> str:
    """Return what a command of the results server prints."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "web", *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise LimenError(
            f"the results server was not set up in {exc.timeout:.0f} s; does its database run?"
        ) from exc
    if done.returncode != 0:
        said = done.stderr.strip()[-500:].removeprefix("web: ")
        code = done.returncode if done.returncode in _FATAL_CODES else FAILED
        raise StartFailed(f"the results server cannot be set up: {said}", code)
    return done.stdout


def how_to_log_in(account: dict[str, Any], file: Path | None) -> str:
    """Return what to tell of the first account, as ``set_up_web`` answered; empty when in use.

    Parameters
    ----------
    file
        The settings that were named on the command line, if any were.
    """
    if account["login_url"]:
        return f"First start: an account was made. Log in once with\n  {account['login_url']}"
    if not account["unused"]:
        return ""
    config = f" --config {file}" if file else ""
    return (
        f"The account {account['unused']} has no password yet; a login link is printed by\n"
        f"  limen web link {account['unused']}{config}"
    )


@dataclass(slots=True)
class _Child:
    name: str
    notify: socket.socket
    process: subprocess.Popen[bytes]
    ready: bool = False
    started_s: float = field(default_factory=time.monotonic)
    restart_at_s: float | None = None
    backoff_s: float = _BACKOFF_S


class Supervisor:
    """Starts, watches and ends the three processes.

    Parameters
    ----------
    env
        Environment of the children, see ``environment``.
    log_dir
        Where their output goes, one file each; None lets it through to this terminal.
    """

    def __init__(self, env: dict[str, str], log_dir: Path | None = None) -> None:
        self._env = env
        self._log_dir = log_dir
        self._folder = tempfile.TemporaryDirectory(prefix="limen-")
        self._children: dict[str, _Child] = {}
        self._stopping = False

    def start(
        self,
        names: tuple[str, ...] = PROCESSES,
        timeout_s: float = 120.0,
        on_ready: Callable[[str, float], None] = lambda name, seconds: None,
    ) -> None:
        """Start the processes side by side and wait until each says that it is ready.

        Raises
        ------
        StartFailed
            One ended or did not get ready in time; the others are stopped.
        """
        for name in names:
            self._spawn(name)
        deadline = time.monotonic() + timeout_s
        while not self._stopping and not all(c.ready for c in self._children.values()):
            for child in self._children.values():
                self._hear(child, on_ready)
                code = child.process.poll()
                if code is not None:
                    self.stop()
                    raise StartFailed(
                        f"{child.name} ended with code {code} while starting{self._where(child)}",
                        code if code in _FATAL_CODES else FAILED,
                    )
            if time.monotonic() > deadline:
                late = [c.name for c in self._children.values() if not c.ready]
                self.stop()
                raise StartFailed(f"{', '.join(late)} not ready in {timeout_s:.0f} s", FAILED)
            time.sleep(_POLL_S)

    def watch(self) -> int:
        """Keep the processes running until SIGTERM or SIGINT; return an exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask_to_stop())
        while not self._stopping:
            for child in list(self._children.values()):
                self._hear(child, _log_ready)
                code = self._revive(child)
                if code is not None:
                    self.stop()
                    return code
            time.sleep(_POLL_S)
        self.stop()
        return OK

    def ask_to_stop(self) -> None:
        """End ``start`` or ``watch`` soon; safe in a signal handler."""
        self._stopping = True

    def stop(self) -> None:
        """SIGTERM to each, and SIGKILL to whichever is still there after 35 s."""
        self._stopping = True
        running = [c for c in self._children.values() if c.process.poll() is None]
        for child in running:
            child.process.terminate()
        deadline = time.monotonic() + _STOP_S
        for child in running:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("child.killed", process=child.name)
                child.process.kill()
                child.process.wait()
        for child in self._children.values():
            child.notify.close()
        self._folder.cleanup()

    def pid(self, name: str) -> int:
        """Return the process id of a child."""
        return self._children[name].process.pid

    def _spawn(self, name: str) -> None:
        address = Path(self._folder.name) / f"{name}.ready"
        old = self._children.get(name)
        if old is None:
            notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            notify.bind(str(address))
            notify.setblocking(False)
        else:
            notify = old.notify
        output: IO[bytes] | None = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            output = (self._log_dir / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [*_END_WITH_US, sys.executable, "-m", name],
            env={**self._env, "NOTIFY_SOCKET": str(address)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        if output is not None:
            output.close()
        backoff_s = old.backoff_s if old is not None else _BACKOFF_S
        self._children[name] = _Child(name, notify, process, backoff_s=backoff_s)

    def _hear(self, child: _Child, on_ready: Callable[[str, float], None]) -> None:
        """Read all that a child has said: a full socket would hold it up in ``say_ready``."""
        said = False
        with contextlib.suppress(BlockingIOError):
            while True:
                said |= b"READY=1" in child.notify.recv(4096)
        if said and not child.ready:
            child.ready = True
            on_ready(child.name, time.monotonic() - child.started_s)

    def _revive(self, child: _Child) -> int | None:
        """Start a dead child again, with back-off; return its code when that is no use."""
        code = child.process.poll()
        if code is None:
            return None
        now = time.monotonic()
        if child.restart_at_s is None:
            if code in _FATAL_CODES:
                log.error("child.cannot_start", process=child.name, code=code)
                return code
            if now - child.started_s > _STEADY_S:
                child.backoff_s = _BACKOFF_S
            child.restart_at_s = now + child.backoff_s
            log.warning("child.died", process=child.name, code=code, seconds=child.backoff_s)
            child.backoff_s = min(child.backoff_s * 2, _BACKOFF_LIMIT_S)
        elif now >= child.restart_at_s:
            self._spawn(child.name)
        return None

    def _where(self, child: _Child) -> str:
        if self._log_dir is None:
            return ""
        path = self._log_dir / f"{child.name}.log"
        tail = path.read_text("utf-8", "replace").strip().splitlines()[-3:]
        return f"; {path} ends with:\n  " + "\n  ".join(tail)


def _log_ready(name: str, seconds: float) -> None:
    log.info("child.ready", process=name, seconds=round(seconds, 1))
