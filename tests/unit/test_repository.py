"""The files around the code: README, compose file, lock file, units of the build."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from limen.command.parser import build
from limen.config import Config

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_in_the_readme_exists_and_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.split("## Commands")[1].split("## Settings")[0]
    told = set(re.findall(r"`limen (\w+)", table)) | set(re.findall(r"`(\w+)`(?=[,\s])", table))
    action = next(a for a in build()._actions if a.choices)
    assert set(action.choices or ()) <= told
    assert set(re.findall(r"`limen (\w+)", table)) <= set(action.choices or ())


def test_every_setting_named_in_readme_and_docs_exists() -> None:
    sections = set(Config.model_fields)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for section, key in re.findall(r"`(\w+)\.(\w+)`", page.read_text("utf-8")):
            if section not in sections or key in {"py", "md", "toml", "db"}:
                continue
            model = Config.model_fields[section].annotation
            assert key in model.model_fields, f"{page.name}: {section}.{key}"


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_every_module_is_found_from_the_architecture() -> None:
    """README -> architecture.md -> module: two hops to any behaviour."""
    page = ROOT / "docs" / "architecture.md"
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8"))
    told = {(page.parent / target).resolve() for target in targets}
    modules = {
        path
        for package in ("limen", "logs", "scp", "worker", "web")
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__") and "migrations" not in path.parts
    }
    assert sorted(str(path.relative_to(ROOT)) for path in modules - told) == []


def test_whatever_program_a_test_asks_for_is_installed_where_all_tests_have_to_run() -> None:
    asked = re.compile(r'program\(\s*"[^"]+",\s*"([^"]+)"')
    packages = {
        package
        for path in (ROOT / "tests").rglob("*.py")
        for package in asked.findall(path.read_text("utf-8"))
    }
    there = {"mount", "util-linux"} | {"erlang-base"}  # of every Debian, and of rabbitmq-server
    installed = set(re.findall(r"[\w.-]+", (ROOT / ".ci/run").read_text("utf-8")))
    assert {"strace", "iproute2"} <= packages
    assert packages - there - installed == set()


LOCKS = sorted([*ROOT.glob("*.lock"), *(ROOT / "deploy/locks").glob("*.lock")])


def pinned(path: Path) -> dict[str, frozenset[str]]:
    """Return what a lock file pins: each package with its version, and its hashes."""
    blocks = re.split(r"\n(?=[a-z0-9])", path.read_text("utf-8"))
    hashes = r"--hash=(sha256:[0-9a-f]{64})\b"
    return {b.split()[0]: frozenset(re.findall(hashes, b)) for b in blocks if "==" in b}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_has_hashes_and_names_no_host(path: Path) -> None:
    assert "://" not in path.read_text("utf-8")
    assert pinned(path)
    assert all(pinned(path).values())


@pytest.mark.parametrize("name", ["scp", "worker", "web"])
def test_an_image_runs_what_is_tested_and_installed_elsewhere(name: str) -> None:
    everything = pinned(ROOT / "requirements.lock")
    assert pinned(ROOT / f"deploy/locks/{name}.lock").items() <= everything.items()
    assert everything.keys() <= pinned(ROOT / "requirements-dev.lock").keys()


def test_what_only_tests_and_checks_need_is_not_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    tools = {re.split(r"[=<>\[]", name)[0] for name in project["optional-dependencies"]["dev"]}
    installed = {line.split("==")[0] for line in pinned(ROOT / "requirements.lock")}
    assert tools & installed == set()


def test_the_lock_file_of_npm_has_hashes_and_names_no_host() -> None:
    packages = json.loads((ROOT / "tests/integration/dcmjs/package-lock.json").read_text("utf-8"))
    installed = [p for name, p in packages["packages"].items() if name]
    assert installed
    assert all(p["integrity"].startswith("sha512-") and "resolved" not in p for p in installed)


@pytest.mark.parametrize("extra", ["scp", "web"])
def test_only_the_worker_installs_tensorflow(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [*project["dependencies"], *project["optional-dependencies"][extra]]
    assert not [n for n in names if n.startswith(("tensorflow", "keras", "lime"))]
