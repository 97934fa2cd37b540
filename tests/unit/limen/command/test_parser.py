"""limen.command.parser: the words of the contract, and what a process imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from limen import __version__
from tests.support.command import run
from tests.support.services import REPOSITORY

pytestmark = pytest.mark.usefixtures("quiet")
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["status", "--colour"], ["send"], ["echo"], ["retry"], ["echo", "LIMEN"]]
    + [["echo", "A@h:1", "--calling", "A" * 17], ["echo", "A@h:1", "--calling", ""]]
    + [["send", "x", "--associations", "0"], ["send", "x", "--retries", "-1"]],
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: Captured) -> None:
    assert run(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_version_is_printed(capsys: Captured) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"limen {__version__}"


@pytest.mark.parametrize(
    "command",
    ["up", "demo", "scp", "worker", "web", "send", "echo"]
    + ["status", "retry", "replay", "explain", "model", "doctor", "qa"],
)
def test_every_command_of_the_contract_is_there(command: str, capsys: Captured) -> None:
    assert run("--help") == 0
    assert f"    {command} " in capsys.readouterr().out


HEAVY = "tensorflow keras numpy pydicom pynetdicom celery sqlalchemy django google.cloud"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from limen.command.parser import main; main(['--help'])", HEAVY),
        ("from limen.command.parser import main; main(['send', '--help'])", HEAVY),
        (
            "import limen.broker, limen.config, limen.command.demo, limen.dispatch, limen.errors, "
            "limen.journal, limen.readiness, limen.result, limen.scu, "
            "limen.command.send, limen.states, limen.command.supervisor, "
            "limen.telemetry, limen.uids, limen.command.parser",
            "tensorflow keras django.apps google.cloud worker scp web",
        ),
        ("import scp.server, scp.__main__", "tensorflow keras django.apps google.cloud worker web"),
        (
            # pydicom takes numpy along where it finds it; the receiver needs none.
            "sys.modules['numpy'] = None\nimport scp.server, scp.__main__, limen.command.send",
            "tensorflow numpy.core",
        ),
    ],
)
def test_a_process_imports_only_what_it_needs(code: str, absent: str) -> None:
    program = (
        "import sys\ntry:\n    exec(sys.argv[1])\nexcept SystemExit:\n    pass\n"
        "print('found:', *sorted(set(sys.argv[2].split()) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, code, absent],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1].strip() == "found:", done.stderr
