"""limen.cli: exit codes, JSON, and what people read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from limen import __version__, cli, telemetry
from limen.journal import Delivery, Job, Journal, Summary
from limen.result import Outcome
from limen.uids import key_of
from scp.server import Receiver
from tests.node import free_ports
from tests.samples import (
    STUDY_UID,
    SUMMARY,
    Clock,
    data_set,
    new_instance,
    settings,
    write_file,
)
from tests.services import REPOSITORY

KEY = key_of(STUDY_UID)
Captured = pytest.CaptureFixture[str]


# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The commands leave the logging of the tests alone, and find an empty folder."""
    monkeypatch.setattr(telemetry, "configure", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture
def kept(sqlite_journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal that the commands open."""
    monkeypatch.setenv("LIMEN_JOURNAL__URL", sqlite_journal.url)
    return sqlite_journal


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    receiver = Receiver(settings(tmp_path_factory.mktemp("node")))
    yield receiver.start()
    receiver.stop()


def receive(journal: Journal, study_uid: str = STUDY_UID) -> None:
    journal.record([new_instance(n, study_uid) for n in (1, 2, 3)])
    assert journal.complete(key_of(study_uid), 1)


def run(*words: str) -> int:
    """Run a command as ``main`` does, exit of the parser included."""
    try:
        return cli.main(list(words))
    except SystemExit as exc:
        return int(exc.code or 0)


# -- usage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["status", "--colour"], ["send"], ["echo"], ["retry"], ["echo", "LIMEN"]]
    + [["echo", "A@h:1", "--calling", "A" * 17], ["echo", "A@h:1", "--calling", ""]]
    + [["send", "x", "--associations", "0"], ["send", "x", "--retries", "-1"]],
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: Captured) -> None:
    assert run(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


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


def test_the_version_is_printed(capsys: Captured) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"limen {__version__}"


@pytest.mark.parametrize(
    "command",
    ["up", "demo", "scp", "worker", "web", "send", "echo"]
    + ["status", "retry", "replay", "explain", "model"],
)
def test_every_command_of_the_contract_is_there(command: str, capsys: Captured) -> None:
    assert run("--help") == 0
    assert f"    {command} " in capsys.readouterr().out


HEAVY = "tensorflow keras numpy pydicom pynetdicom celery sqlalchemy django google.cloud"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from limen.cli import main; main(['--help'])", HEAVY),
        ("from limen.cli import main; main(['send', '--help'])", HEAVY),
        (
            "import limen.broker, limen.config, limen.demo, limen.dispatch, limen.errors, "
            "limen.journal, limen.readiness, limen.result, limen.scu, limen.send, limen.states, "
            "limen.supervisor, limen.telemetry, limen.uids, limen.cli",
            "tensorflow keras django.apps google.cloud worker scp web",
        ),
        ("import scp.server, scp.__main__", "tensorflow keras django.apps google.cloud worker web"),
        (
            # pydicom takes numpy along where it finds it; the receiver needs none.
            "sys.modules['numpy'] = None\nimport scp.server, scp.__main__, limen.send",
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


# -- send and echo ---------------------------------------------------------------------------------


def test_sending_everything_is_exit_code_0(port: int, tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "in" / "a.dcm", data_set())
    assert run("send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}") == 0
    assert "1 of 1 sent to LIMEN@127.0.0.1" in capsys.readouterr().out


def test_sending_a_part_is_exit_code_5(port: int, tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "in" / "a.dcm", data_set())
    write_file(tmp_path / "in" / "b.dcm", data_set(2, StudyInstanceUID=None))
    (tmp_path / "in" / "c.txt").write_text("x")
    assert run("send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}", "--json") == 5
    said = json.loads(capsys.readouterr().out)
    failed = str(tmp_path / "in" / "b.dcm")
    assert said.pop("seconds") > 0
    assert said.pop("bytes") == (tmp_path / "in" / "a.dcm").stat().st_size
    assert "0020,000D" in said.pop("comments")[failed].upper()
    assert said == {
        "sent": 1,
        "failed": {failed: "0xC000"},
        "skipped": [str(tmp_path / "in" / "c.txt")],
        "statuses": {"0x0000": 1, "0xC000": 1},
        "retried": 0,
        "refusals": [],
    }


def test_an_instance_that_was_not_stored_is_exit_code_5_although_nothing_else_was_sent(
    port: int, tmp_path: Path, capsys: Captured
) -> None:
    write_file(tmp_path / "in" / "b.dcm", data_set(2, StudyInstanceUID=None))
    assert run("send", str(tmp_path / "in"), "--to", f"LIMEN@127.0.0.1:{port}") == 5
    said = capsys.readouterr().out
    assert "0 of 1 sent" in said
    assert "peer cannot understand it" in said


def test_files_that_are_no_dicom_are_exit_code_1(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert run("send", str(tmp_path / "notes.txt"), "--to", "LIMEN@127.0.0.1:1") == 1
    assert "1 not DICOM" in capsys.readouterr().out


def test_plain_lines_tell_how_far_a_send_is(port: int, tmp_path: Path, capsys: Captured) -> None:
    for n in range(3):
        write_file(tmp_path / "in" / f"{n}.dcm", data_set(n))
    to = f"LIMEN@127.0.0.1:{port}"
    assert run("send", str(tmp_path / "in"), "--to", to, "--associations", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("of 3")] == ["1 of 3", "2 of 3", "3 of 3"]


def test_a_file_of_tls_that_cannot_be_used_is_exit_code_2(tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    (tmp_path / "ca.pem").write_text("no certificate")
    ca = ["--ca", str(tmp_path / "ca.pem")]
    assert run("send", str(tmp_path / "a.dcm"), "--to", "LIMEN@127.0.0.1:1", *ca) == 2
    assert run("echo", "LIMEN@127.0.0.1:1", *ca) == 2
    assert run("echo", "LIMEN@127.0.0.1:1", "--key", str(tmp_path / "ca.pem")) == 2
    said = capsys.readouterr().err
    assert "holds no certificates in PEM" in said
    assert "name the certificate too" in said


def test_a_file_that_is_not_there_is_exit_code_1(tmp_path: Path, capsys: Captured) -> None:
    assert run("send", str(tmp_path / "absent"), "--to", "LIMEN@127.0.0.1:1") == 1
    assert "no such file" in capsys.readouterr().err


def test_a_peer_that_refuses_is_exit_code_4(port: int, tmp_path: Path, capsys: Captured) -> None:
    write_file(tmp_path / "a.dcm", data_set())
    assert run("send", str(tmp_path / "a.dcm"), "--to", f"OTHER@127.0.0.1:{port}") == 4
    assert run("echo", f"OTHER@127.0.0.1:{port}") == 4
    assert "called AE title" in capsys.readouterr().err


def test_a_peer_that_is_away_is_exit_code_1(tmp_path: Path, capsys: Captured) -> None:
    assert run("echo", f"LIMEN@127.0.0.1:{free_ports(1)[0]}") == 1
    assert "does not answer" in capsys.readouterr().err


def test_an_echo_that_is_answered_is_exit_code_0(port: int, capsys: Captured) -> None:
    assert run("echo", f"LIMEN@127.0.0.1:{port}") == 0
    assert "answers C-ECHO" in capsys.readouterr().out


# -- status, retry, replay -------------------------------------------------------------------------


def test_status_without_a_journal_says_what_to_do(capsys: Captured) -> None:
    assert run("status") == 1
    assert "limen up" in capsys.readouterr().err


def test_status_of_an_empty_journal_says_what_to_do(kept: Journal, capsys: Captured) -> None:
    assert run("status") == 0
    assert "limen send" in capsys.readouterr().out
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"studies": [], "queues": {}}


def test_status_prints_one_json_object_with_the_keys_of_the_contract(
    kept: Journal, capsys: Captured
) -> None:
    receive(kept)
    kept.commit(kept.claim(Job, f"{KEY}-1-prediction", "a", 30), "a", SUMMARY, ["gcs"])
    assert run("status", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    (study,) = tree["studies"]
    wanted = (
        "study_uid revision state outcome reason probability positive_images images "
        "received_at complete_at predicted_at explained_at deliveries"
    )
    assert set(wanted.split()) <= set(study)
    assert (study["outcome"], study["images"], study["state"]) == ("positive", 3, "done")
    (delivery,) = study["deliveries"]
    wanted = "destination phase state attempts last_error"
    assert set(wanted.split()) <= set(delivery)
    assert tree["queues"]["gcs"]["queued"] == 1


def test_status_prints_a_table_and_every_reason(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    summary = Summary(Outcome.NOT_ANALYSED, "x", None, None)
    job = kept.claim(Job, f"{KEY}-1-prediction", "a", 30)
    kept.commit(job, "a", summary, ["gcs"], failed="the worker died in each of 3 attempts")
    assert run("status") == 0
    said = capsys.readouterr().out
    assert KEY[:12] in said
    assert "not analysed" in said
    assert "dead after 1: the worker died in each of 3 attempts" in said
    assert "gcs: 1 waiting, 0 running, 0 dead" in said


def test_the_status_of_one_study_is_asked_for_by_key_or_uid(
    kept: Journal, capsys: Captured
) -> None:
    receive(kept)
    for text in (KEY[:6], STUDY_UID):
        assert run("status", text, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)["studies"]) == 1
    assert run("status", "ffff") == 1
    assert "no study ffff" in capsys.readouterr().err


def test_a_dead_delivery_is_queued_again(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    kept.commit(kept.claim(Job, f"{KEY}-1-prediction", "a", 30), "a", SUMMARY, ["gcs"])
    key = f"{KEY}-1-prediction-gcs"
    kept.bury(kept.claim(Delivery, key, "a", 30), "a", "answered 409")
    assert run("retry", key) == 0
    assert "queued again" in capsys.readouterr().out
    assert kept.study(KEY, 1).deliveries[0].state == "queued"


def kill_job(journal: Journal) -> str:
    key = f"{KEY}-1-prediction"
    summary = Summary(Outcome.NOT_ANALYSED, "x", None, None)
    journal.commit(journal.claim(Job, key, "a", 30), "a", summary, [], failed="x")
    return key


def test_a_dead_job_runs_again_as_a_new_revision(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert run("retry", kill_job(kept)) == 0
    assert "runs again as revision 2" in capsys.readouterr().out


def test_a_dead_job_is_found_however_many_studies_came_since(
    kept: Journal, clock: Clock, capsys: Captured
) -> None:
    receive(kept)
    key = kill_job(kept)
    clock.forward(60)
    kept.record([new_instance(1, f"1.2.{n}", at=clock.now) for n in range(101)])
    assert run("retry", key) == 0
    assert "revision 2" in capsys.readouterr().out


def test_what_is_not_dead_is_not_retried(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    for key in (f"{KEY}-1-prediction", "nothing", KEY):
        assert run("retry", key) == 1
        assert "is not a dead job or delivery" in capsys.readouterr().err


def test_a_study_is_replayed_as_a_new_revision(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert run("replay", STUDY_UID) == 0
    assert "revision 2" in capsys.readouterr().out


def test_a_study_that_is_still_arriving_is_not_replayed(kept: Journal, capsys: Captured) -> None:
    kept.record([new_instance()])
    assert run("replay", KEY) == 1
    assert "still being received" in capsys.readouterr().err


def test_a_beginning_of_several_keys_is_not_replayed(kept: Journal, capsys: Captured) -> None:
    uids = {key_of(f"1.2.{n}")[0]: f"1.2.{n}" for n in range(60)}
    shared = next(key_of(f"1.3.{n}") for n in range(60) if key_of(f"1.3.{n}")[0] in uids)
    other = next(f"1.3.{n}" for n in range(60) if key_of(f"1.3.{n}") == shared)
    receive(kept, uids[shared[0]])
    receive(kept, other)
    assert run("replay", shared[0]) == 1
    assert "matches 2 studies" in capsys.readouterr().err
    assert run("replay", "nothing") == 1
