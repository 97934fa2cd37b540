"""``limen install``, ``upgrade``, ``uninstall``: on a host of the test's own.

Its root is this machine's with a layer of its own above it (overlayfs), in a mount name space that
ends with the test. Accounts, folders, secrets, migrations, units and the checks are real; only
the packages come from the environment of the tests, and systemd is asked to turn units on but not
to run them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from limen.command.install import Release
from tests.support.machine import Machine, give_packages
from tests.support.services import REPOSITORY, program, require_service

CONFIG = "etc/limen/config.toml"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    require_service(os.geteuid() == 0, "only root can make a root folder of its own")
    for name, package in (("unshare", "util-linux"), ("systemd-sysusers", "systemd")):
        program(name, package)
    made = Machine(tmp_path)
    made.start()
    try:
        give_packages(made, REPOSITORY)
        yield made
    finally:
        made.stop()


def newer(tmp_path: Path) -> Path:
    """Return the source of a later release."""
    source = tmp_path / "newer"
    for room in ("limen", "logs", "scp", "worker", "web", "models", "deploy", "docs"):
        shutil.copytree(
            REPOSITORY / room, source / room, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("config.toml", "requirements.lock", "README.md", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, source / name)
    with (source / "limen/__init__.py").open("a") as file:
        file.write("\n# later\n")
    return source


def test_a_host_is_installed_upgraded_and_cleared_and_keeps_its_data(
    machine: Machine, tmp_path: Path
) -> None:
    done = machine.install("install")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "limen web link admin" in done.stdout
    assert "/login/" not in done.stdout
    assert machine.look("var/lib/limen") == "directory 700 limen limen"
    for name in ("web-token", "web-secret-key"):
        assert machine.look(f"etc/limen/secrets/{name}") == "regular file 640 root limen"
    assert machine.look("var/lib/limen/journal.db").endswith("limen limen")
    config = tomllib.loads(machine.inside("cat", f"/{CONFIG}").stdout)
    assert config["node"]["data_dir"] == "/var/lib/limen"
    turned_on = machine.inside("ls", "/etc/systemd/system/limen.target.wants").stdout.split()
    assert {"limen-scp.service", "limen-web.service", "limen-worker@1.service"} <= set(turned_on)
    assert "limen-qa.timer" in turned_on
    assert machine.look("usr/local/lib/systemd/system/limen-qa.service").startswith("regular file")

    # The command of the host reads the settings of the services, from anywhere, and as root
    # leaves nothing behind that the services cannot write.
    link = machine.inside("limen", "web", "link", "admin")
    assert "http://127.0.0.1:8642/login/" in link.stdout, link.stderr
    status = machine.inside("limen", "status")
    assert "No study yet" in status.stdout, status.stderr
    others = machine.inside("find", "/var/lib/limen", "!", "-user", "limen").stdout
    assert others == ""

    # Again: nothing changes. With another release: the data stay, and what was set.
    before = machine.inside("sha256sum", f"/{CONFIG}", "/etc/limen/secrets/web-token").stdout
    machine.inside("sh", "-c", f"echo '# ours' >> /{CONFIG}; touch /var/lib/limen/a-study")
    machine.inside("systemctl", "disable", "--quiet", "limen-worker@1.service")
    again = machine.install("install")
    assert (again.returncode, again.stdout.count("there already")) == (0, 2), again.stdout
    source = newer(tmp_path)
    assert machine.install("upgrade", str(source)).returncode == 0
    assert machine.inside("readlink", "/opt/limen/current").stdout.strip() == Release(source).folder
    assert machine.inside("tail", "-n1", f"/{CONFIG}").stdout == "# ours\n"
    assert machine.inside("sha256sum", "/etc/limen/secrets/web-token").stdout in before
    assert machine.look("var/lib/limen/a-study").startswith("regular empty file")
    assert "web.db" in machine.inside("ls", "/var/lib/limen/before-upgrade").stdout
    turned_on = machine.inside("ls", "/etc/systemd/system/limen.target.wants").stdout
    assert "worker" not in turned_on, "what an administrator turned off stays off"

    # A journal of a later version: refused in one sentence, and the release that ran still does.
    for name, statement in (
        ("journal.db", "update alembic_version set version_num = '0999'"),
        ("web.db", "insert into django_migrations (app, name, applied) values "
                   "('results', '0999_later', current_timestamp)"),
    ):  # fmt: skip
        file = tmp_path / "upper" / "var/lib/limen" / name
        kept = file.read_bytes()
        with sqlite3.connect(file) as db:
            db.execute("pragma wal_checkpoint(truncate)")
            db.execute(statement)
        db.close()
        refused = machine.install("install")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "was written by a newer Limen" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        now = machine.inside("readlink", "/opt/limen/current").stdout.strip()
        assert now == Release(source).folder
        machine.inside("sh", "-c", f"rm -f /var/lib/limen/{name}-wal /var/lib/limen/{name}-shm")
        file.write_bytes(kept)

    assert machine.install("uninstall").returncode == 0
    for path in ("opt/limen", "usr/local/bin/limen", "usr/local/lib/systemd/system/limen.target",
                 "usr/local/lib/systemd/system/limen-qa.timer"):  # fmt: skip
        assert machine.look(path) == ""
    assert machine.look("var/lib/limen/a-study").startswith("regular empty file")
    assert machine.install("uninstall", "--delete-data").returncode == 0
    assert (machine.look("var/lib/limen"), machine.look("etc/limen")) == ("", "")


def test_a_dry_run_says_every_step_and_changes_nothing(machine: Machine) -> None:
    def written() -> list[Path]:
        upper = machine.folder / "upper"
        return sorted(p for name in ("etc", "opt", "usr", "var") for p in (upper / name).rglob("*"))

    before = written()
    done = machine.install("install", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would: ") >= 8
    assert written() == before


def test_an_upgrade_of_nothing_and_a_wrong_source_end_with_2(machine: Machine) -> None:
    nothing = machine.install("upgrade")
    assert (nothing.returncode, "make install" in nothing.stderr) == (2, True)
    wrong = machine.install("upgrade", "/etc")
    assert (wrong.returncode, "holds no Limen" in wrong.stderr) == (2, True)


def test_a_host_that_receives_nothing_is_sent_no_test_studies(machine: Machine) -> None:
    assert machine.install("install", "--services", "worker").returncode == 0
    turned_on = machine.inside("ls", "/etc/systemd/system/limen.target.wants").stdout.split()
    assert "limen-worker@1.service" in turned_on
    assert "limen-qa.timer" not in turned_on


def test_a_file_of_a_host_is_never_readable_before_it_is_whole(machine: Machine) -> None:
    assert machine.install("install", "--services", "scp").returncode == 0
    turned_on = machine.inside("ls", "/etc/systemd/system/limen.target.wants").stdout.split()
    assert "limen-scp.service" in turned_on
    assert "limen-worker@1.service" not in turned_on
    token = machine.folder / "upper/etc/limen/secrets/web-token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o640
    assert not list((machine.folder / "upper/etc/limen").rglob(".*.part"))
