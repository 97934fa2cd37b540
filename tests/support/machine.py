"""A host of a test's own: the root of this machine with a layer of its own above it (overlayfs).

It is seen in a mount name space that ends with the test; only root can make one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from limen.command.install import Release
from tests.support.services import REPOSITORY, require_service

__all__ = ["Machine", "give_packages"]


class Machine:
    """A root folder that ``limen install --root`` works on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self._holder: subprocess.Popen[str] | None = None

    def start(self, *, devices: bool = True) -> None:
        """Lay the root; ``devices`` where nothing else brings /dev."""
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir()
        mount = f"lowerdir=/,upperdir={self.folder}/upper,workdir={self.folder}/work"
        more = '&& mount --rbind /dev "$1/dev"' if devices else ""
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c"]
            + [f'mount -t overlay overlay -o "$0" "$1" {more} && echo up && exec cat', mount]
            + [str(self.root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        self._holder = holder
        require_service(holder.stdout.readline() == "up\n", "no overlayfs for a root of its own")

    def stop(self) -> None:
        """Let go of the root."""
        assert self._holder is not None
        with self._holder:  # its input ends, and with it the name space
            pass

    def run(
        self, *words: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program that sees the root of this machine below ``root``."""
        assert self._holder is not None
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIMEN_", "PYTHON"))}
        return subprocess.run(
            ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", *words],
            env={**kept, **(env or {})}, cwd="/", capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def begin(self, *words: str, env: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
        """Start a program as ``run`` does, and do not wait for its end."""
        assert self._holder is not None
        with output.open("wb") as out:
            return subprocess.Popen(
                ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", *words],
                env={**os.environ, **env}, cwd="/", stdin=subprocess.DEVNULL, stdout=out,
                stderr=out,
            )  # fmt: skip

    def end(self, begun: subprocess.Popen[bytes]) -> None:
        """Kill a program and all that it started; the init of a host outlives what booted it."""
        for pid in _descendants(begun.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        begun.kill()
        begun.wait(30)

    def install(
        self, word: str, *words: str, source: Path = REPOSITORY
    ) -> subprocess.CompletedProcess[str]:
        """Run the installer of a source tree, with a Python that has nothing else."""
        python = getattr(sys, "_base_executable", sys.executable)
        command = [python, "-m", "limen.command.install", word, "--root", str(self.root), *words]
        return self.run(*command, env={"PYTHONPATH": str(source)})

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine as its root."""
        return self.run("chroot", str(self.root), *words)

    def look(self, path: str) -> str:
        """Return what a shell says of a path: kind, mode, owner, group."""
        return self.inside("stat", "-c", "%F %a %U %G", f"/{path}").stdout.strip()


def _descendants(pid: int) -> Iterator[int]:
    """Yield what a process has started, and what that has."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text("ascii").split():
            yield from _descendants(int(child))
            yield int(child)


def give_packages(machine: Machine, source: Path) -> None:
    """Put the packages of this test run where the installer would put them."""
    # The account of the services has to reach Python, wherever that is on this machine.
    places = [Path(sys.prefix).resolve(), Path(sys.executable).resolve(), REPOSITORY]
    for folder in {str(parent) for place in places for parent in place.parents}:
        machine.inside("chmod", "o+x", folder)
    base = getattr(sys, "_base_executable", sys.executable)
    version = machine.run(base, "-c", "import sys; print(sys.version, end='')").stdout
    assert version == sys.version
    # chroot takes the python3 of PATH; a release names its packages by lock file and version.
    venv, ours = Release(source).venv, Path(sys.prefix).resolve()
    machine.inside("mkdir", "-p", venv)
    for name in ("bin", "lib", "pyvenv.cfg"):
        machine.inside("ln", "-s", f"{ours}/{name}", f"{venv}/{name}")
    machine.inside("touch", f"{venv}/.complete")
