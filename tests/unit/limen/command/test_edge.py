"""limen.command.edge: errors become one text and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from limen.command.edge import CANNOT_BIND, FAILED, OK, REFUSED, STOPPED, USAGE, at_the_edge
from limen.errors import ConfigError, LimenError, Unreachable
from limen.scu import Refused
from scp.acceptor import CannotBind
from tests.support.command import run
from tests.support.services import REPOSITORY

pytestmark = pytest.mark.usefixtures("quiet")
Captured = pytest.CaptureFixture[str]


def test_wrong_settings_are_exit_code_2_with_every_fault(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "config.toml").write_text("[scp]\nport = -1\nprot = 1")
    assert run("status") == 2
    said = capsys.readouterr().err
    assert "scp.port" in said
    assert "scp.prot" in said
    assert "Traceback" not in said


def test_a_traceback_is_there_for_who_asks(tmp_path: Path, capsys: Captured) -> None:
    assert run("status", "--debug", "--config", str(tmp_path / "absent.toml")) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LimenError("why"), FAILED),
        (Unreachable("why"), FAILED),
        (ConfigError("why"), USAGE),
        (CannotBind("why"), CANNOT_BIND),
        (Refused("why"), REFUSED),
    ],
)
def test_an_error_of_ours_is_one_text_and_its_exit_code(
    error: LimenError, code: int, capsys: Captured
) -> None:
    def command() -> int:
        raise error

    assert at_the_edge(command) == code
    assert capsys.readouterr().err == "limen: why\n"


def test_a_foreign_error_is_told_by_kind_and_place_and_not_by_its_text(capsys: Captured) -> None:
    def command() -> int:
        raise ValueError("DOE^JANE")

    assert at_the_edge(command) == FAILED
    said = capsys.readouterr().err
    assert "ValueError at test_edge.py:" in said
    assert "--debug" in said
    assert "DOE" not in said


def test_ctrl_c_is_exit_code_130(capsys: Captured) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert at_the_edge(command) == STOPPED
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    program = (
        "from limen.command.edge import at_the_edge\n"
        "raise SystemExit(at_the_edge(lambda: [print('x' * 99) for _ in range(9999)] and 0))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == OK


@pytest.mark.parametrize("module", ["limen", "scp", "worker"])
def test_every_program_ends_with_the_same_exit_codes(module: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[scp]\nport = -1")
    words = ["status"] if module == "limen" else []
    for debug in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-m", module, *words, *debug]
            + ["--config", str(tmp_path / "config.toml")],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == USAGE
        assert "limen: settings of " in done.stderr
        assert ("Traceback" in done.stderr) == bool(debug)


def test_a_tool_started_by_the_command_prints_its_traceback_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "model", "info", str(tmp_path / "absent"), "--debug"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {FAILED, USAGE}
    assert "Traceback" in done.stderr
