"""Each image has what its process and its commands need: its folders, and the packages of its lock.

Where a test runs, everything is installed; Python is told here to find no more than an image has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.services import REPOSITORY

ROOMS = {"limen", "scp", "worker", "web", "models", "tests", "bench"}
# Python reads a module of this name at its start, in every process that finds it.
SITE = """\
import json, os, sys
ABSENT = frozenset(json.loads(os.environ["ABSENT"]))
class _Finder:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in ABSENT
        return None if absent else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(_Finder, sys.meta_path)
"""
WALK = """\
import importlib, pkgutil, sys
for room in sys.argv[1:]:
    for found in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
        if not {"__main__", "migrations"} & set(found.name.split(".")):
            importlib.import_module(found.name)
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def absent(target: str, rooms: set[str]) -> list[str]:
    """Return the modules that an image lacks, of those that are installed here."""
    lock = (REPOSITORY / f"deploy/locks/{target}.lock").read_text("utf-8")
    there = {_normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    modules = packages_distributions()
    lacking = {m for m, owners in modules.items() if not there & set(map(_normal, owners))}
    return sorted((lacking | (ROOMS - rooms)) - rooms)


@pytest.fixture(params=["scp", "worker", "web"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Run]:
    """The name of an image, and what runs Python with no more than it has."""
    target: str = request.param
    text = (REPOSITORY / "deploy/Dockerfile").read_text("utf-8")
    stage = text.split(" AS limen\n")[1].split("\nFROM ")[0]
    stage += text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    copied = set(re.findall(r"^COPY (\w+) \S+$", stage, re.MULTILINE))
    home = tmp_path / "limen"
    home.mkdir()
    for name in copied:
        (home / name).symlink_to(REPOSITORY / name)
    (home / "sitecustomize.py").write_text(SITE, "utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIMEN_", "PYTHON"))}
    environment = {
        **kept,
        "PYTHONPATH": str(home),
        "LIMEN_NODE__DATA_DIR": str(tmp_path / "data"),
        "ABSENT": json.dumps(absent(target, copied & ROOMS)),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return target, run


def test_an_image_has_what_its_process_and_the_commands_of_its_health_need(
    image: tuple[str, Run],
) -> None:
    target, run = image
    everything = {
        # With what limen shares: it sends, asks, and tells.
        "scp": [("-c", WALK, "limen", "scp")],
        "worker": [("-c", WALK, "limen", "worker")],
        "web": [
            ("-m", "limen", "migrate"),
            ("-m", "limen", "web", "link", "admin"),
            ("-m", "limen", "web", "token", "new", "prometheus", "--scope", "metrics"),
        ],
    }
    for words in everything[target]:
        done = run(*words)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


def test_doctor_looks_at_what_an_image_can_reach_and_says_what_it_cannot(
    image: tuple[str, Run],
) -> None:
    target, run = image
    done = run(
        "-m", "limen", "doctor", "--no-study", "--json", "settings", "files", "receiver", "web"
    )
    assert "unexpected fault" not in done.stderr, done.stderr
    verdicts = {}
    for check in json.loads(done.stdout)["checks"]:
        verdicts[check["name"]] = {finding["verdict"] for finding in check["findings"]}
    assert verdicts["settings"] == {"ok"}
    assert verdicts["receiver"] == {"skipped" if target == "web" else "failed"}  # none runs
