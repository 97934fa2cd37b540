"""``limen demo`` and ``limen up``, as a person runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import requests

from tests.node import free_ports, until
from tests.services import answers


def _limen(*words: str) -> list[str]:
    return [sys.executable, "-m", "limen.cli", *words]


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


def test_up_prints_a_login_link_that_works_once_and_ends_on_sigterm(tmp_path: Path) -> None:
    scp_port, web_port = free_ports(2)
    log = tmp_path / "up.log"
    env = _quiet_environment(
        LIMEN_SCP__PORT=str(scp_port), LIMEN_WEB__PORT=str(web_port), PYTHONUNBUFFERED="1"
    )
    with log.open("wb") as out:
        up = subprocess.Popen(_limen("up"), env=env, cwd=tmp_path, stdout=out, stderr=out)
    try:
        until(lambda: "Limen is up" in log.read_text(), 90, "limen up", log.read_text)
        link = re.search(r"http://\S+/login/\S+", log.read_text())
        assert link is not None
        first = requests.get(link[0], timeout=10, allow_redirects=False)
        assert first.status_code in {200, 302}
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
