"""What the commands of the documentation meet: a running node and a folder with what they name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from models.ich.phantom import demo_studies
from tests.support.node import Node
from tests.support.pages import ROOT, Block
from tests.support.ports import free_ports
from tests.support.services import require_service

_LIMIT_S = 240


class Sandbox:
    """A folder where commands run as a reader would run them, and the node that they talk to.

    What pages call ``FOLDER``, ``*.dcm``, ``STUDY`` or a peer is there: as a file of that name, or
    by a word that stands in for it.
    """

    def __init__(self, folder: Path, node: Node, stand_ins: dict[str, str]) -> None:
        self.folder = folder
        self.node = node
        self.stand_ins = stand_ins
        programs = folder / "bin"
        programs.mkdir()
        for name, words in (("limen", "-m limen"), ("python", ""), ("python3", "")):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', "ascii")
            script.chmod(0o755)
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(programs)
        (folder / "models").symlink_to(ROOT / "models")
        self.environment = {
            **{k: v for k, v in node.env.items() if k != "LIMEN_CONFIG"},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "120",
        }

    def as_here(self, command: str) -> str:
        """Return a command with the peers and studies of this sandbox."""
        for said, meant in self.stand_ins.items():
            command = command.replace(said, meant)
        return command

    def run(self, block: Block) -> str:
        """Run the commands of a block; return what they print."""
        said = ""
        for n, command in enumerate(block.commands, 1):
            program = command.split()[0]
            require_service(
                shutil.which(program, path=f"{self.folder}:{self.environment['PATH']}")
                or (self.folder / program).exists(),
                f"{program} is not installed",
            )
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", self.as_here(command)],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
            )
            expected = block.exit_code if n == len(block.commands) else 0
            assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
            said += done.stdout + done.stderr
        return said


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One folder and one node for every page; a study has gone all the way through it."""
    folder = tmp_path_factory.mktemp("reader")
    phantoms = demo_studies(tmp_path_factory.mktemp("phantoms"))
    negative = next(s for s in phantoms if s.size_ml == 0 and s.truth == "negative")
    files = [negative.folder / name for name in negative.files]
    shutil.copytree(negative.folder, folder / "FOLDER")
    for file in files[:2]:
        shutil.copy(file, folder / file.with_suffix(".dcm").name)
    authority = trustme.CA()
    ours = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "authorities.crt")
    ours.cert_chain_pems[0].write_to_path(folder / "limen.crt")
    ours.private_key_pem.write_to_path(folder / "limen.key")
    (tls_port,) = free_ports(1)
    node = Node(
        tmp_path_factory.mktemp("node"),
        LIMEN_SCP__TLS__PORT=str(tls_port),
        LIMEN_SCP__TLS__CERTIFICATE_FILE=str(folder / "limen.crt"),
        LIMEN_SCP__TLS__KEY_FILE=str(folder / "limen.key"),
    )
    try:
        node.start()
        node.send(files)
        port, row = node.config.scp.port, node.finished(negative.study_uid)
        stand_ins = {
            "localhost 11112": f"localhost {port}",
            "DCM4CHEE@10.20.30.40:11112": f"LIMEN@127.0.0.1:{port}",
            "PACS@10.20.30.41:104": f"LIMEN@127.0.0.1:{port}",
            "PACS@10.20.30.41:2762": f"LIMEN@localhost:{tls_port}",
            "STUDY": row.study_key,
        }
        yield Sandbox(folder, node, stand_ins)
    finally:
        node.close()
