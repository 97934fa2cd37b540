"""``limen up``: receiver, worker and results server as children of one process.

Each is started with ``python -m``, says when it is ready (``limen.readiness``), is started again
when it dies, and gets SIGTERM when this process is told to end.
"""

from __future__ import annotations

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

from limen.config import Config
from limen.errors import LimenError

__all__ = ["PROCESSES", "Supervisor", "environment", "set_up_web"]

log = structlog.get_logger("limen.up")

PROCESSES = ("web", "scp", "worker")
_FATAL_CODES = {2, 3}  # settings, cannot bind: starting again would not help
_BACKOFF_S, _BACKOFF_LIMIT_S, _STEADY_S = 1.0, 30.0, 60.0
_POLL_S = 0.1
_STOP_S = 35.0
# When this process is killed outright, the children must not keep the ports (util-linux).
_END_WITH_US = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class StartFailed(LimenError):
    """A child ended, or was not ready in time; ``code`` is the exit code to pass on."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def environment(config: Config, file: Path | None) -> dict[str, str]:
    """Return the environment of a child: ours, and what the results server needs of the settings.

    The results server reads no ``config.toml``; it knows the same keys by their environment names.
    """
    env = dict(os.environ)
    if file is not None:
        env["LIMEN_CONFIG"] = str(file.resolve())
    env["LIMEN_NODE__DATA_DIR"] = str(config.data_dir)
    env["LIMEN_WEB__HOST"] = config.web.host
    env["LIMEN_WEB__PORT"] = str(config.web.port)
    env["LIMEN_WEB__PUBLIC_URL"] = config.web_url
    if config.web.database_url:
        env["LIMEN_WEB__DATABASE_URL"] = config.web.database_url
    if config.web.secret_key_file is not None:
        env["LIMEN_WEB__SECRET_KEY_FILE"] = str(config.web.secret_key_file)
    return env


def set_up_web(config: Config, env: dict[str, str]) -> dict[str, Any]:
    """Prepare the results server: database, this node's token, the first account.

    Returns
    -------
    dict
        ``login_url`` is there when an account was just made.

    Raises
    ------
    LimenError
        It failed; the text is what it said.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "web", "setup", "--node", config.node.name]
            + ["--token-file", str(config.token_file), "--admin", "admin", "--json"],
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
        raise LimenError(f"the results server cannot be set up: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


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
                self._await_ready(child, on_ready)
                code = child.process.poll()
                if code is not None:
                    self.stop()
                    raise StartFailed(
                        f"{child.name} ended with code {code} while starting{self._where(child)}",
                        code if code in _FATAL_CODES else 1,
                    )
            if time.monotonic() > deadline:
                late = [c.name for c in self._children.values() if not c.ready]
                self.stop()
                raise StartFailed(f"{', '.join(late)} not ready in {timeout_s:.0f} s", 1)
            time.sleep(_POLL_S)

    def watch(self) -> int:
        """Keep the processes running until SIGTERM or SIGINT; return an exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask_to_stop())
        while not self._stopping:
            for child in list(self._children.values()):
                code = self._revive(child)
                if code is not None:
                    self.stop()
                    return code
            time.sleep(_POLL_S)
        self.stop()
        return 0

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
            self._log_dir.mkdir(parents=True, exist_ok=True)
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

    def _await_ready(self, child: _Child, on_ready: Callable[[str, float], None]) -> None:
        if child.ready:
            return
        try:
            child.ready = b"READY=1" in child.notify.recv(4096)
        except BlockingIOError:
            return
        if child.ready:
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
            child.backoff_s = min(child.backoff_s * 2, _BACKOFF_LIMIT_S)
            log.warning("child.died", process=child.name, code=code, seconds=child.backoff_s)
        elif now >= child.restart_at_s:
            self._spawn(child.name)
        return None

    def _where(self, child: _Child) -> str:
        if self._log_dir is None:
            return ""
        path = self._log_dir / f"{child.name}.log"
        tail = path.read_text("utf-8", "replace").strip().splitlines()[-3:]
        return f"; {path} ends with:\n  " + "\n  ".join(tail)
