"""A whole node under test: its own folder, ports and processes; ended by pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests
from pydicom import dcmread
from pydicom.uid import generate_uid

from limen import config as settings
from limen.command.send import Peer, Report, send
from limen.command.supervisor import Supervisor, environment, set_up_web
from limen.errors import LimenError
from limen.journal import Journal, StudyRow
from limen.states import ARRIVED, OVER, WorkState
from tests.support.ports import free_ports
from tests.support.services import answers

_T = TypeVar("_T")
POLL_S = 0.1
_AWAY_WAIT_S = 0.2
ENDED = {"done", "failed"}
_QUICK = {
    "LIMEN_EXPLAIN__SAMPLES": "100",
    "LIMEN_SCP__QUIET_S": "3",
    "LIMEN_SCP__RELEASE_QUIET_S": "0.3",
    "LIMEN_QUEUE__RETRY_BASE_S": "0.5",
}


class Node:
    """Receiver, worker and results server, as ``limen up`` runs them.

    Parameters
    ----------
    folder
        Where it keeps everything.
    quick
        Whether studies are complete and deliveries tried again sooner than as Limen ships.
    overrides
        ``LIMEN_*`` environment variables on top of all that.
    """

    def __init__(self, folder: Path, *, quick: bool = True, **overrides: str) -> None:
        self.folder = folder
        scp_port, web_port = free_ports(2)
        self.overrides = {
            "LIMEN_NODE__DATA_DIR": str(folder / "data"),
            "LIMEN_SCP__PORT": str(scp_port),
            "LIMEN_SCP__MIN_FREE_BYTES": "1000000",
            "LIMEN_WEB__PORT": str(web_port),
            **(_QUICK if quick else {}),
            **overrides,
        }
        self.config = self._load()
        self.journal = Journal(self.config.journal_url)
        self.supervisor: Supervisor | None = None
        self.login_url = ""
        self._read_token = ""

    def _load(self) -> settings.Config:
        before = dict(os.environ)
        kept = {k: v for k, v in before.items() if not k.startswith("LIMEN_")}
        os.environ.clear()
        os.environ.update(kept, **self.overrides)
        try:
            loaded = settings.load()
            self.env = environment(loaded, None) | self.overrides
            return loaded
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(self, *names: str) -> None:
        """Start processes (all three by default) and wait until they are ready."""
        self.journal.migrate()
        if "web" in names or not names:
            made = set_up_web(self.config, self.env, link=True)
            self.login_url = made["login_url"] or self.login_url
        self.supervisor = Supervisor(self.env, self.folder / "logs")
        self.supervisor.start(names or ("web", "scp", "worker"))

    def stop(self) -> None:
        """End every process."""
        if self.supervisor is not None:
            self.supervisor.stop()
            self.supervisor = None

    def close(self) -> None:
        """End every process and connection."""
        self.stop()
        self.journal.close()

    def kill(self, name: str) -> None:
        """SIGKILL one process: no chance to say goodbye."""
        assert self.supervisor is not None
        os.kill(self.supervisor.pid(name), signal.SIGKILL)

    @property
    def peer(self) -> Peer:
        """Address of the receiver."""
        return Peer(self.config.scp.ae_title, "127.0.0.1", self.config.scp.port)

    def send(self, paths: Iterable[Path], calling: str = "TESTSCU") -> Report:
        """Send files by C-STORE."""
        return send(paths, self.peer, calling)

    def offer(
        self,
        paths: Sequence[Path],
        timeout_s: float = 15.0,
        on_file: Callable[[Path], None] = lambda _: None,
    ) -> list[Path]:
        """Send files to a receiver that may be away; return those that it does not have."""
        if not answers(self.config.scp.port):
            time.sleep(_AWAY_WAIT_S)
            return list(paths)
        try:
            report = send(paths, self.peer, "TESTSCU", timeout_s, on_file)
        except LimenError:  # it has just died
            return list(paths)
        return [path for path in paths if path in report.failed]

    def rows(self, study_uid: str) -> list[StudyRow]:
        """Every revision of a study, newest first."""
        rows = self.journal.status.studies(study_uid)
        return sorted(rows, key=lambda r: -r.revision)

    def finished(self, study_uid: str, revision: int = 1, timeout_s: float = 60) -> StudyRow:
        """Wait until a revision has ended and all its deliveries arrived; return it."""

        def ended() -> StudyRow | None:
            for row in self.rows(study_uid):
                delivered = all(d.state in ARRIVED for d in row.deliveries)
                if row.revision == revision and row.state in ENDED and delivered:
                    return row
            return None

        return until(ended, timeout_s, f"revision {revision} to finish", self.tell)

    def at_rest(self, study_uid: str) -> bool:
        """Whether a study has ended and all its work; while the journal is away nobody knows."""
        over = OVER | {WorkState.DEAD}
        try:
            rows = self.rows(study_uid)
        except LimenError:
            return False
        return bool(rows) and all(
            row.state in ENDED
            and row.jobs
            and row.deliveries
            and all(work.state in over for work in (*row.jobs, *row.deliveries))
            for row in rows
        )

    def tell(self) -> str:
        """What a failing test shows: the journal and the ends of the logs."""
        rows = "\n".join(str(r) for r in self.journal.status.studies())
        logs = "".join(
            f"\n== {p.name}\n" + "\n".join(p.read_text("utf-8", "replace").splitlines()[-15:])
            for p in sorted((self.folder / "logs").glob("*.log"))
        )
        return f"{rows}{logs}"

    def page(self, path: str) -> requests.Response:
        """GET a path of the results server as a client that reads."""
        if not self._read_token:
            self._read_token = read_token(self.env)
        return requests.get(
            f"{self.config.web_url}{path}",
            headers={"Authorization": f"Bearer {self._read_token}"},
            timeout=10,
            allow_redirects=False,
        )

    def on_web(self, study_uid: str) -> dict[str, Any]:
        """What the results server says of a study."""
        answer = self.page(f"/api/v1/studies/{study_uid}")
        assert answer.status_code == 200, answer.text[:500]
        body: dict[str, Any] = answer.json()
        return body

    def logs(self) -> str:
        """Everything that was logged."""
        return "".join(
            p.read_text("utf-8", "replace") for p in (self.folder / "logs").glob("*.log")
        )


def read_token(env: dict[str, str], scope: str = "read") -> str:
    """Make a token that reads, as ``limen web token new`` does."""
    made = subprocess.run(
        [sys.executable, "-m", "web", "token", "new", f"test-{scope}", "--scope", scope, "--json"],
        env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    token: str = json.loads(made.stdout)["token"]
    return token


def until(
    probe: Callable[[], _T | None], timeout_s: float, what: str, tell: Callable[[], str] = str
) -> _T:
    """Poll ``probe`` until it returns something true."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}\n{tell()}")
        time.sleep(POLL_S)


def copy_study(files: Iterable[Path], folder: Path, **attributes: str) -> tuple[str, list[Path]]:
    """Write the same instances as a new study; ``attributes`` by keyword replace those of all.

    Returns
    -------
    tuple
        Its StudyInstanceUID and its files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study_uid = generate_uid()
    series: dict[str, str] = {}
    written = []
    for n, source in enumerate(sorted(files)):
        ds = dcmread(source)
        ds.StudyInstanceUID = study_uid
        ds.SeriesInstanceUID = series.setdefault(ds.SeriesInstanceUID, generate_uid())
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        path = folder / f"{n:04d}.dcm"
        ds.save_as(path)
        written.append(path)
    return study_uid, written


def brighter_study(files: Sequence[Path], folder: Path, hu: int) -> tuple[str, list[Path]]:
    """Write the same instances as a new study, with so many HU added; see ``copy_study``."""
    intercept = float(dcmread(files[0]).RescaleIntercept) + hu
    return copy_study(files, folder, RescaleIntercept=str(intercept))
