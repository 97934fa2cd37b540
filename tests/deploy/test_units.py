"""deploy/systemd: what systemd itself says of the units."""

from __future__ import annotations

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.services import program

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
DRAIN_S = {"limen-scp.service": 20, "limen-worker@.service": 25, "limen-web.service": 20}
LONG_RUNNING = sorted(DRAIN_S)


def setting(unit: str, key: str) -> str:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / unit).read_text("utf-8"))
    return parser["Service"][key]


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    files = []
    for unit in sorted(UNITS.iterdir()):
        if unit.suffix not in {".service", ".target", ".timer"}:
            continue
        # The command is there once it is installed; everything else is judged as it ships.
        text = unit.read_text("utf-8").replace("/opt/limen/current/bin/limen", "/bin/true")
        (tmp_path / unit.name).write_text(text)
        files.append(str(tmp_path / unit.name))
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=yes", *files],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "limen" in line]
    assert (said, done.returncode) == ([], 0), done.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_hardly_exposed(unit: str) -> None:
    done = subprocess.run(
        [program("systemd-analyze", "systemd"), "security", "--offline=true", "--threshold=20"]
        + [str(UNITS / unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= 2.0, done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("unit", LONG_RUNNING)
def test_a_service_has_more_time_to_stop_than_its_drain_takes(unit: str) -> None:
    assert int(setting(unit, "TimeoutStopSec")) >= DRAIN_S[unit] + 10
    assert setting(unit, "KillMode") == "mixed", "the main process ends its children itself"


@pytest.mark.parametrize("unit", LONG_RUNNING)
def test_a_service_is_watched_restarted_for_ever_and_not_when_a_person_is_needed(
    unit: str,
) -> None:
    assert setting(unit, "Type") == "notify"
    assert setting(unit, "WatchdogSec")
    assert setting(unit, "Restart") == "always"
    assert setting(unit, "RestartPreventExitStatus") == "2"
    assert setting(unit, "LimitCORE") == "0"


def test_test_studies_are_sent_every_hour_by_a_unit_that_slow_ones_do_not_fail() -> None:
    timer = (UNITS / "limen-qa.timer").read_text("utf-8")
    assert "OnCalendar=hourly" in timer
    assert "WantedBy=limen.target" in timer
    assert setting("limen-qa.service", "Type") == "oneshot"
    assert setting("limen-qa.service", "SuccessExitStatus") == "5"
    assert "limen qa" in setting("limen-qa.service", "ExecStart")


def test_every_secret_is_handed_over_and_lies_where_no_service_looks() -> None:
    web = (UNITS / "limen-web.service").read_text("utf-8")
    worker = (UNITS / "limen-worker@.service").read_text("utf-8")
    scp = (UNITS / "limen-scp.service").read_text("utf-8")
    assert web.count("\nLoadCredential=") == 2
    assert worker.count("\nLoadCredential=") == 1
    assert scp.count("\nLoadCredential=") == 1
    for text in (web, worker, scp):
        assert "\nInaccessiblePaths=-/etc/limen/secrets " in text
