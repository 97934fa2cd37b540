"""``limen demo`` and ``limen up``, as a person runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from limen.command.send import Peer, send
from limen.journal import Journal
from models.ich.phantom import DemoStudy
from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.results_server import log_in
from tests.support.services import answers


def _limen(*words: str) -> list[str]:
    return [sys.executable, "-m", "limen", *words]


def _quiet_environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")}
    return {**kept, **more}


def test_the_demo_ends_with_every_outcome_right_and_pictures_on_the_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        _limen("demo", "--json", "-o", str(tmp_path / "demo")),
        env=_quiet_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    studies = json.loads(done.stdout)["studies"]
    assert len(studies) == 6
    assert all(study["right"] for study in studies), studies
    assert {study["truth"] for study in studies} == {"positive", "negative", "no route"}
    for study in studies:
        assert study["predicted_s"] > 0
        if study["truth"] == "positive":
            assert study["explained_s"] > study["predicted_s"]
            assert study["overlays"]
            assert all(Path(p).read_bytes()[:4] == b"\x89PNG" for p in study["overlays"])


def test_the_demo_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    done = subprocess.run(
        _limen("demo", "-o", str(tmp_path)),
        env=_quiet_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_up_on_a_terminal_prints_one_login_link_that_works_and_ends_on_sigterm(
    tmp_path: Path,
) -> None:
    scp_port, web_port = free_ports(2)
    env = _quiet_environment(LIMEN_SCP__PORT=str(scp_port), LIMEN_WEB__PORT=str(web_port))
    screen, terminal = pty.openpty()
    os.set_blocking(screen, False)
    shown = bytearray()

    def read() -> str:
        with contextlib.suppress(BlockingIOError):
            shown.extend(os.read(screen, 1 << 16))
        return shown.decode()

    with (tmp_path / "up.log").open("wb") as out:
        up = subprocess.Popen(_limen("up"), env=env, cwd=tmp_path, stdout=terminal, stderr=out)
    try:
        until(lambda: "Limen is up" in read(), 90, "limen up", read)
        link = re.search(r"http://\S+/login/\S+", read())
        assert link is not None
        assert requests.get(link[0], timeout=10).status_code == 200
        status = subprocess.run(
            _limen("status"), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert (status.returncode, "No study yet" in status.stdout) == (0, True)
        echo = subprocess.run(
            _limen("echo", f"LIMEN@127.0.0.1:{scp_port}"),
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert echo.returncode == 0, echo.stderr
        busy = subprocess.run(
            _limen("scp"), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert busy.returncode == 3
        assert "cannot listen" in busy.stderr
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(40) == 0
        os.close(screen)
        os.close(terminal)


def test_a_service_logs_no_login_link_but_the_command_that_prints_one(tmp_path: Path) -> None:
    scp_port, web_port = free_ports(2)
    log = tmp_path / "up.log"
    env = _quiet_environment(PYTHONUNBUFFERED="1")
    (tmp_path / "config.toml").write_text(
        f"[scp]\nport = {scp_port}\n[web]\nport = {web_port}\n[node]\ndata_dir = 'kept'\n"
    )
    with log.open("wb") as out:
        up = subprocess.Popen(_limen("up"), env=env, cwd=tmp_path, stdout=out, stderr=out)
    try:
        until(lambda: "Limen is up" in log.read_text(), 90, "limen up", log.read_text)
        assert "/login/" not in log.read_text()
        hint = re.search(r"^ *limen (web link admin)$", log.read_text(), re.MULTILINE)
        assert hint is not None
        made = subprocess.run(
            _limen(*hint[1].split()), env=env, cwd=tmp_path, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        link = re.search(rf"http://127.0.0.1:{web_port}/login/\S+", made.stdout)
        assert link is not None, made.stderr
        assert log_in(requests.Session(), link[0]).url.endswith("/password/")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["config.toml", "kept", "up.log"]
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(40) == 0


def test_processes_that_are_started_one_by_one_deliver_without_any_set_up(
    tmp_path: Path, phantoms: dict[str, DemoStudy]
) -> None:
    scp_port, web_port = free_ports(2)
    env = _quiet_environment(PYTHONUNBUFFERED="1")
    (tmp_path / "config.toml").write_text(
        f"[scp]\nport = {scp_port}\nrelease_quiet_s = 0.3\n[web]\nport = {web_port}\n"
        "[queue]\nprobe_s = 1\nretry_base_s = 0.5\n"
    )
    log = tmp_path / "log"
    running = []

    def ended() -> bool:
        told = subprocess.run(
            _limen("status", "--json"), env=env, cwd=tmp_path, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        studies = json.loads(told.stdout)["studies"] if told.stdout else []
        deliveries = [d["state"] for s in studies for d in s["deliveries"]]
        return bool(deliveries) and set(deliveries) == {"done"}

    try:
        for name in ("worker", "scp", "web"):
            with log.open("ab") as out:
                running.append(
                    subprocess.Popen(_limen(name), env=env, cwd=tmp_path, stdout=out, stderr=out)
                )
        until(lambda: answers(scp_port) and answers(web_port), 90, "the ports", log.read_text)
        assert send(
            sorted(phantoms["mr-not-routed"].folder.iterdir()),
            Peer("LIMEN", "127.0.0.1", scp_port),
            "TESTSCU",
        ).sent
        until(ended, 90, "the result to arrive", log.read_text)
    finally:
        for process in running:
            process.terminate()
        assert [process.wait(40) for process in running] == [0, 0, 0]
    assert "/login/" not in log.read_text()


@pytest.mark.parametrize("words", [("up",), ("scp",), ("worker",), ("status",)])
def test_a_journal_of_a_newer_version_is_told_in_one_sentence(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    env = _quiet_environment(
        LIMEN_NODE__DATA_DIR=str(tmp_path), LIMEN_SCP__PORT="0", LIMEN_WEB__PORT="0"
    )
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    journal.migrate()
    with journal.database.writing() as db:
        db.execute(sa.text("update alembic_version set version_num = '0999'"))
    journal.close()
    done = subprocess.run(
        _limen(*words), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "was written by a newer Limen" in done.stderr


def test_settings_faults_are_told_at_once_with_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[scp]\nport = 99999\nprot = 1\n[nodes]\nname = "x"\n')
    done = subprocess.run(
        _limen("up"), env=_quiet_environment(), cwd=tmp_path, capture_output=True, text=True,
        timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    for key in ("scp.port", "scp.prot", "nodes"):
        assert key in done.stderr
    assert "Traceback" not in done.stderr


def test_up_that_is_killed_outright_leaves_no_process_behind_and_starts_again(
    tmp_path: Path,
) -> None:
    scp_port, web_port = free_ports(2)
    env = _quiet_environment(
        LIMEN_SCP__PORT=str(scp_port), LIMEN_WEB__PORT=str(web_port), PYTHONUNBUFFERED="1"
    )
    for round_ in range(2):
        log = tmp_path / f"up{round_}.log"
        with log.open("wb") as out:
            up = subprocess.Popen(_limen("up"), env=env, cwd=tmp_path, stdout=out, stderr=out)
        until(lambda log=log: "Limen is up" in log.read_text(), 90, "limen up", log.read_text)
        up.kill()
        up.wait(10)
        until(
            lambda: not answers(scp_port) and not answers(web_port), 40, "free ports", log.read_text
        )
