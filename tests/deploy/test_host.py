"""A whole host: systemd itself starts what was installed, and a study goes through it.

The root of this machine with a layer of its own, booted by systemd-nspawn with nothing but
loopback. It takes a minute and a half and is asked for by name: TRIAL=1 (continuous
integration does).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.ich.phantom import demo_studies
from tests.support.machine import Machine
from tests.support.node import until
from tests.support.services import REPOSITORY, program, require_service

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRIAL") != "1", reason="asked for by TRIAL=1"),
    pytest.mark.timeout(600),
]
SERVICES = ("limen-scp", "limen-web", "limen-worker@1")
ROOMS = ("limen", "logs", "scp", "worker", "web", "models", "deploy", "docs")
FILES = ("config.toml", "requirements.lock", "README.md", "CHANGELOG.md", "Makefile")
PYTHON, PACKAGES = "/usr/bin/python3", "/opt/packages"
_UNIT = """\
[Service]
Type=oneshot
ExecStart=/bin/bash /trial/run
TimeoutStartSec=8min
"""
_RUN = r"""
exec >/trial/log 2>&1
set -x
export HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tell() { for unit in limen-scp limen-web limen-worker@1; do
  systemctl show -p NRestarts -p ActiveState -p Result $unit | tr '\n' ' '; done > "/trial/$1"; }
cd /trial/limen && make install PYTHON=PYTHON_HERE > /trial/install || exit 1
tell installed
for unit in limen-scp limen-web limen-worker@1; do
  cat /proc/$(systemctl show -p MainPID --value $unit)/status; done > /trial/processes
limen send /trial/study > /trial/sent
for n in $(seq 120); do
  limen status --json > /trial/status
  python3 /trial/ended && break
  sleep 1
done
journalctl --sync
journalctl -q -o json LIMEN_STUDY=$(journalctl -q -F LIMEN_STUDY | head -1) > /trial/story
journalctl -q -o json LIMEN_EVENT=web.listening > /trial/listening
limen web link admin > /trial/link
systemctl list-timers --all --no-legend limen-qa.timer > /trial/timers
for n in 1 2; do systemctl start limen-qa; done
systemctl show -p Result -p ExecMainStatus limen-qa > /trial/qa
limen qa --history --json > /trial/history
limen status --json > /trial/status-after
for folder in limen-scp.service limen-web.service limen-worker@.service; do
  mkdir -p /etc/systemd/system/$folder.d
  printf '[Service]\nWatchdogSec=24\n' > /etc/systemd/system/$folder.d/trial.conf
done
systemctl daemon-reload
systemctl restart limen-scp limen-web limen-worker@1
sleep 26
tell watched
kill -STOP $(systemctl show -p MainPID --value limen-scp)
kill -STOP $(systemctl show -p MainPID --value limen-worker@1)
kill -STOP $(pgrep -P $(systemctl show -p MainPID --value limen-web) | head -1)
for n in $(seq 80); do
  tell revived
  grep -q 'NRestarts=0\|ActiveState=[^a]\|ActiveState=activating' /trial/revived || break
  sleep 1
done
systemctl stop 'limen-*.service'
tell stopped
find /var/lib/limen ! -user limen > /trial/strangers
touch /trial/over
"""
_ENDED = """
import json, sys
states = [d["state"] for s in json.load(open("/trial/status"))["studies"] for d in s["deliveries"]]
sys.exit(not (len(states) == 4 and set(states) == {"done"}))
"""


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a booted host has written down of itself."""
    require_service(os.geteuid() == 0, "only root can boot a host")
    nspawn = program("systemd-nspawn", "systemd-container")
    folder = tmp_path_factory.mktemp("host")
    machine = Machine(folder)
    machine.start(devices=False)
    try:
        _give_packages(machine)
        _prepare(folder / "stage", machine)
        told = folder / "upper/trial"
        booted = machine.begin(
            nspawn, "--register=no", "--keep-unit", "--private-network", "--console=pipe",
            f"--bind-ro={sysconfig.get_path('purelib')}:{PACKAGES}", "-D", str(machine.root), "-b",
            env={"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}, output=folder / "console",
        )  # fmt: skip
        try:
            until((told / "over").is_file, 480, "the trial", lambda: _tail(told / "log"))
        finally:
            machine.end(booted)
        yield told
    finally:
        machine.stop()


def _give_packages(machine: Machine) -> None:
    """Let the Python of the host have the packages of this test run, where it would install them.

    No service sees a home folder, which may be where this run has them.
    """
    code = "from pathlib import Path; from limen.command.install import Release; import sys; "
    code += "print(Release(Path(sys.argv[1])).venv, 'python%d.%d' % sys.version_info[:2])"
    said = machine.run(PYTHON, "-c", code, str(REPOSITORY), env={"PYTHONPATH": str(REPOSITORY)})
    venv, version = said.stdout.split()
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    require_service(version == ours, f"{PYTHON} is not {ours}, for which these packages are")
    machine.inside(PYTHON, "-m", "venv", "--without-pip", venv)
    site = f"{venv}/lib/{version}/site-packages"
    machine.inside("sh", "-c", f"rm -rf {site} && mkdir {PACKAGES} && ln -s {PACKAGES} {site}")
    machine.inside("touch", f"{venv}/.complete")


def _prepare(stage: Path, machine: Machine) -> None:
    source = stage / "limen"
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, source / room, ignore=shutil.ignore_patterns("__pyc*"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, source / name)
    study = next(s for s in demo_studies(stage) if s.name == "intraparenchymal-large")
    study.folder.rename(stage / "study")
    (stage / "run").write_text(_RUN.replace("PYTHON_HERE", PYTHON))
    (stage / "ended").write_text(_ENDED)
    machine.run("cp", "-r", str(stage), f"{machine.root}/trial")
    etc = machine.root / "etc"
    unit = stage / "trial.service"
    unit.write_text(_UNIT)
    wants = f"{etc}/systemd/system/multi-user.target.wants"
    machine.run("cp", str(unit), f"{etc}/systemd/system/trial.service")
    machine.run("mkdir", "-p", wants)
    machine.run("ln", "-s", "../trial.service", f"{wants}/trial.service")
    machine.run("sh", "-c", f"echo {uuid.uuid4().hex} > {etc}/machine-id")
    for service in ("postgresql", "rabbitmq-server", "orthanc"):  # those of this machine
        machine.run("ln", "-sf", "/dev/null", f"{etc}/systemd/system/{service}.service")


def _tail(file: Path) -> str:
    return file.read_text("utf-8", "replace")[-3000:] if file.is_file() else f"no {file.name}"


def states(trial: Path, name: str) -> list[dict[str, str]]:
    """Return what systemd said of each service at a moment."""
    words = (trial / name).read_text("utf-8").split()
    pairs = [word.split("=", 1) for word in words]
    found = [dict(pairs[n : n + 3]) for n in range(0, len(pairs), 3)]
    assert len(found) == len(SERVICES)
    return found


def test_installed_services_are_ready_and_confined(trial: Path) -> None:
    assert [s["ActiveState"] for s in states(trial, "installed")] == ["active"] * 3
    processes = (trial / "processes").read_text("utf-8")
    assert re.findall(r"CapEff:\s*(\w+)", processes) == ["0" * 16] * 3
    assert re.findall(r"NoNewPrivs:\s*(\d)", processes) == ["1"] * 3
    assert re.findall(r"Seccomp:\s*(\d)", processes) == ["2"] * 3


def test_a_study_goes_all_the_way_under_the_sandbox(trial: Path) -> None:
    status: dict[str, Any] = json.loads((trial / "status").read_text("utf-8"))
    (study,) = status["studies"]
    assert (study["state"], study["outcome"]) == ("done", "positive")
    assert [d["state"] for d in study["deliveries"]] == ["done"] * 4
    assert "http://127.0.0.1:8642/login/" in (trial / "link").read_text("utf-8")
    assert (trial / "strangers").read_text("utf-8") == ""


def test_the_journal_of_systemd_tells_the_story_of_a_study_by_its_key(trial: Path) -> None:
    story = [json.loads(line) for line in (trial / "story").read_text("utf-8").splitlines()]
    assert [entry["LIMEN_EVENT"] for entry in story[:3]] == [
        "study.received",
        "study.complete",
        "study.predicted",
    ]
    assert len(story) == 8
    units = {entry["SYSLOG_IDENTIFIER"]: entry["_SYSTEMD_UNIT"] for entry in story}
    assert units == {
        "limen-scp": "limen-scp.service",
        "limen-worker": "limen-worker@1.service",
    }
    assert {entry["PRIORITY"] for entry in story} == {"6"}
    (listening,) = (trial / "listening").read_text("utf-8").splitlines()
    assert json.loads(listening)["_SYSTEMD_UNIT"] == "limen-web.service"


def test_test_studies_go_all_the_way_under_the_sandbox_and_are_on_no_list(trial: Path) -> None:
    assert "limen-qa.timer" in (trial / "timers").read_text("utf-8")
    assert {*(trial / "qa").read_text("utf-8").split()} == {"ExecMainStatus=0", "Result=success"}
    history = json.loads((trial / "history").read_text("utf-8"))
    assert [run["outcome"] for run in history] == ["negative", "positive"] * 2
    assert {run["verdict"] for run in history} == {"ok"}
    status: dict[str, Any] = json.loads((trial / "status-after").read_text("utf-8"))
    assert (len(status["studies"]), status["alarms"]) == (1, [])


def test_a_process_that_stands_still_is_replaced_and_no_other_is(trial: Path) -> None:
    assert [s["NRestarts"] for s in states(trial, "watched")] == ["0"] * 3
    assert [s["ActiveState"] for s in states(trial, "revived")] == ["active"] * 3
    assert all(int(s["NRestarts"]) >= 1 for s in states(trial, "revived"))


def test_a_stop_drains_and_ends_well(trial: Path) -> None:
    assert [s["Result"] for s in states(trial, "stopped")] == ["success"] * 3
