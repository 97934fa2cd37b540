"""The receivers that are compared, each in a folder of its own, on loopback, ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_ports

REPOSITORY = Path(__file__).resolve().parent.parent
AE_TITLE = "BENCH"
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver that listens.

    Attributes
    ----------
    pid
        Its first process.
    kept
        Folder below which its instances are.
    """

    name: str
    pid: int
    port: int
    kept: Path

    def empty(self) -> None:
        """Give the space of what was received back: the disk of the benchmark is not endless.

        The empty files stay. On ext4 without a journal a new file steps over every inode that was
        freed in the last minutes: with thousands of them deleted after each run, creating a file
        cost every receiver up to a millisecond, and that was most of what was measured.
        """
        for path in self.kept.rglob("*"):
            if path.suffix not in {".log", ".part"} and path.is_file() and path.stat().st_size:
                os.truncate(path, 0)

    def pids(self) -> list[int]:
        """Return its processes."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text("ascii").split())
        return found

    def rss_bytes(self) -> int:
        """Return the resident memory of its processes."""
        return sum(status_bytes(pid, "VmRSS") for pid in self.pids())

    def cpu_s(self) -> float:
        """Return the processor seconds that its processes used so far."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def storescp(folder: Path, tuned: bool = True, fork: bool = True) -> Iterator[Running]:
    """DCMTK; it syncs nothing.

    Parameters
    ----------
    fork
        A process for each association. As DCMTK comes, one process takes them in turn.
    tuned
        Nagle's algorithm is off: an answer does not wait 40 ms for an acknowledgement of the
        sender. As DCMTK comes it is on.
    """
    (port,) = free_ports(1)
    command = [_program("storescp"), "--quiet", "-aet", AE_TITLE, "-od", str(folder)]
    command += ["--fork"] if fork else []
    name = "storescp" + ("" if tuned else ", untuned") + ("" if fork else ", one process")
    env = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"}
    env |= {"TCP_NODELAY": "1"} if tuned else {}
    with _started(name, [*command, str(port)], port, folder, folder, env) as running:
        yield running


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Running]:
    """Orthanc: SQLite index, no plugin, no HTTP from outside."""
    (port,) = free_ports(1)
    settings = {
        "Name": AE_TITLE,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "DicomAlwaysAllowStore": True,
        "HttpServerEnabled": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    command = [_program("Orthanc"), str(folder / "orthanc.json")]
    env = os.environ | {"TCP_NODELAY": "1"}  # it receives with DCMTK: at its best, as above
    with _started("orthanc", command, port, folder, folder / "storage", env) as running:
        yield running


@contextlib.contextmanager
def pynetdicom(folder: Path) -> Iterator[Running]:
    """pynetdicom's own storescp."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-q"]
    command += ["-aet", AE_TITLE, "-od", str(folder), "-ba", "127.0.0.1"]
    with _started("pynetdicom", command, port, folder, folder) as running:
        yield running


@contextlib.contextmanager
def limen(folder: Path, processes: int = 1, **scp: object) -> Iterator[Running]:
    """Ours: every instance is on the disk before it is answered."""
    (port,) = free_ports(1)
    keys = {
        "port": port,
        "ae_title": AE_TITLE,
        "processes": processes,
        "quiet_s": 3600,
        "release_quiet_s": 3600,
        "min_free_bytes": 0,
    } | scp
    env = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")}
    env |= {f"LIMEN_SCP__{key.upper()}": str(value) for key, value in keys.items()}
    env |= {"LIMEN_NODE__DATA_DIR": str(folder), "LIMEN_LOG__LEVEL": "warning"}
    command = [sys.executable, "-m", "scp"]
    name = f"limen-{processes}"
    with _started(name, command, port, folder, folder / "spool", env) as running:
        yield running


@contextlib.contextmanager
def _started(
    name: str,
    command: list[str],
    port: int,
    folder: Path,
    kept: Path,
    env: dict[str, str] | None = None,
) -> Iterator[Running]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait_for(port, process, folder / f"{name}.log")
        yield Running(name, process.pid, port, kept)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not listen: {log.read_text('utf-8', 'replace')}")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed; it is one of those that are compared")
    return path


def status_bytes(pid: int, key: str) -> int:
    """Return an entry of /proc/PID/status in bytes, 0 for a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0
