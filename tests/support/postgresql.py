"""A PostgreSQL of a test's own: its cluster, port and folder, to be killed and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.services import program, require_service

__all__ = ["PostgreSQL", "postgresql"]


class PostgreSQL:
    """A cluster that lets everybody in as ``postgres``.

    Parameters
    ----------
    address
        Where it listens besides loopback, where that is another.
    """

    def __init__(self, programs: Path, folder: Path, port: int, address: str) -> None:
        self._address = address
        self._programs = programs
        self._folder = folder
        self._as = [program("setpriv", "util-linux"), "--reuid=postgres", "--regid=postgres"]
        self.port = port

    def run(self, name: str, *words: str) -> None:
        """Run one of its programs, as its account."""
        with (self._folder / "output").open("ab") as output:
            done = subprocess.run(
                [*self._as, "--clear-groups", self._programs / name, *words],
                stdout=output, stderr=output, cwd=self._folder, timeout=90,
                env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
        assert done.returncode == 0, (self._folder / "output").read_text("utf-8")

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://postgres@{self._address}:{self.port}/{database}"

    def log(self) -> str:
        """Return all that it logged."""
        return (self._folder / "output").read_text("utf-8", "replace")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        there = ",".join(dict.fromkeys(("127.0.0.1", self._address)))
        options = f"-c listen_addresses={there} -p {self.port} -k {self._folder}"
        self.run("pg_ctl", f"--pgdata={self._folder}/data", "--wait", f"-o {options}", "start")

    def kill(self) -> None:
        """End it as a crash would: nothing is written, and the next start recovers."""
        self.run("pg_ctl", f"--pgdata={self._folder}/data", "--mode=immediate", "stop")


@contextmanager
def postgresql(
    *databases: str, address: str = "127.0.0.1", settings: str = ""
) -> Iterator[PostgreSQL]:
    """Start a cluster with some databases and settings; skip where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    require_service(found, "postgresql is not installed")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="limen-") as name:
        folder = Path(name)
        shutil.chown(folder, "postgres", "postgres")
        server = PostgreSQL(found[-1], folder, port, address)
        server.run("initdb", f"--pgdata={folder}/data", "--username=postgres", "--auth=trust")
        with (folder / "data" / "pg_hba.conf").open("a", encoding="utf-8") as allowed:
            allowed.write("host all all samenet trust\n")
        with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as more:
            more.write(settings)
        server.start()
        try:
            for database in databases:
                words = ["--username=postgres", "--host=127.0.0.1", f"--port={port}", database]
                server.run("createdb", *words)
            yield server
        finally:
            server.kill()
