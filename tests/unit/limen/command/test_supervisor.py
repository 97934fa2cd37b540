"""limen.command.supervisor: children that get ready, die, refuse to start, refuse to go."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from limen.command import supervisor as module
from limen.command.supervisor import StartFailed, Supervisor, environment, set_up_web
from limen.config import Config, Web
from limen.errors import LimenError
from tests.support.node import until
from tests.support.samples import settings

READY = "from limen.readiness import say_ready\nsay_ready()\n"
COUNT = "import os\nwith open(os.environ['STARTS'], 'a') as f:\n    f.write('x')\n"
STAY = "import signal\nsignal.sigwait([signal.SIGUSR1])\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
Make = Callable[..., Supervisor]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Write modules by name and return a supervisor that can start them."""
    made: list[Supervisor] = []

    def write(**modules: str) -> Supervisor:
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(COUNT + code, "utf-8")
        path = os.pathsep.join([str(tmp_path), str(Path(module.__file__).parents[2])])
        env = {**os.environ, "PYTHONPATH": path, "STARTS": str(tmp_path / "starts")}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        made.append(Supervisor(env, tmp_path / "logs"))
        return made[-1]

    yield write
    for one in made:
        one.stop()


@pytest.fixture(autouse=True)
def signals_put_back() -> Iterator[None]:
    """``watch`` takes SIGTERM and SIGINT of this process."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def starts(tmp_path: Path) -> int:
    path = tmp_path / "starts"
    return len(path.read_text()) if path.exists() else 0


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_start_returns_when_every_child_has_said_that_it_is_ready(make: Make) -> None:
    ready: list[str] = []
    supervisor = make(child_a=READY + STAY, child_b=READY + STAY)
    supervisor.start(("child_a", "child_b"), 30, lambda name, seconds: ready.append(name))
    assert sorted(ready) == ["child_a", "child_b"]
    pids = [supervisor.pid("child_a"), supervisor.pid("child_b")]
    assert all(map(is_alive, pids))
    supervisor.stop()
    assert not any(map(is_alive, pids))


def test_a_child_that_ends_while_starting_takes_the_others_down(make: Make) -> None:
    supervisor = make(child_a=READY + STAY, child_b="raise SystemExit('no such colour')")
    with pytest.raises(StartFailed, match="child_b ended with code 1") as caught:
        supervisor.start(("child_a", "child_b"), 30)
    assert "no such colour" in str(caught.value)
    assert caught.value.exit_code == 1
    assert not is_alive(supervisor.pid("child_a"))


@pytest.mark.parametrize("code", [2, 3])
def test_the_code_of_a_child_that_cannot_start_is_passed_on(make: Make, code: int) -> None:
    supervisor = make(child_a=f"raise SystemExit({code})")
    with pytest.raises(StartFailed) as caught:
        supervisor.start(("child_a",), 30)
    assert caught.value.exit_code == code


def test_a_child_that_never_gets_ready_is_ended_in_time(make: Make) -> None:
    supervisor = make(child_a=STAY)
    with pytest.raises(StartFailed, match="child_a not ready in 1 s"):
        supervisor.start(("child_a",), 1.0)
    assert not is_alive(supervisor.pid("child_a"))


def watch_until(supervisor: Supervisor, probe: Callable[[], object]) -> int:
    """Watch in this thread until another sees what it waits for."""

    def look() -> None:
        try:
            until(probe, 20, "the supervisor")
        finally:
            supervisor.ask_to_stop()

    looker = threading.Thread(target=look)
    looker.start()
    code = supervisor.watch()
    looker.join()
    return code


def test_a_child_that_dies_is_started_again_with_growing_waits(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.05)
    supervisor = make(child_a=READY + STAY)
    supervisor.start(("child_a",), 30)
    first = supervisor.pid("child_a")
    os.kill(first, signal.SIGKILL)
    with capture_logs() as logs:
        assert watch_until(supervisor, lambda: starts(tmp_path) == 2) == 0
    assert supervisor.pid("child_a") != first
    assert not is_alive(supervisor.pid("child_a"))
    # What is told is the wait before this start; the next one is twice as long.
    assert [e["seconds"] for e in logs if e["event"] == "child.died"] == [0.05]
    assert supervisor._children["child_a"].backoff_s == pytest.approx(0.1)


def test_a_child_is_revived_however_often_and_heard_when_it_is_ready_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that nobody reads holds eleven datagrams; whoever sends the twelfth hangs."""
    monkeypatch.setattr(module, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "_BACKOFF_LIMIT_S", 0.01)
    supervisor = make(child_a=READY + "say_ready()\n" * 2 + "raise SystemExit(1)")
    supervisor._spawn("child_a")
    with capture_logs() as logs:
        assert watch_until(supervisor, lambda: starts(tmp_path) > 6) == 0
    assert sum(e["event"] == "child.ready" for e in logs) > 3


@pytest.mark.parametrize("code", [2, 3])
def test_a_child_that_can_never_start_again_ends_the_rest(make: Make, code: int) -> None:
    supervisor = make(child_a=READY + f"raise SystemExit({code})", child_b=READY + STAY)
    supervisor._spawn("child_a")
    supervisor._spawn("child_b")
    assert supervisor.watch() == code
    assert not is_alive(supervisor.pid("child_b"))


def test_sigterm_ends_the_watch_and_the_children(make: Make) -> None:
    supervisor = make(child_a=READY + STAY)
    supervisor.start(("child_a",), 30)
    ours = signal.getsignal(signal.SIGTERM)

    def ask() -> None:
        until(lambda: signal.getsignal(signal.SIGTERM) != ours, 10, "the handler")
        # Called as the signal would: whoever runs the tests in this process is not ended by it.
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # type: ignore[operator, misc]

    asker = threading.Thread(target=ask)
    asker.start()
    assert supervisor.watch() == 0
    asker.join()
    assert not is_alive(supervisor.pid("child_a"))


def test_a_child_that_ignores_sigterm_is_killed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.2)
    supervisor = make(child_a=STUBBORN + READY + STAY)
    supervisor.start(("child_a",), 30)
    supervisor.stop()
    assert supervisor._children["child_a"].process.returncode == -signal.SIGKILL


def test_the_children_know_what_the_results_server_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMEN_WEB__DATABASE_URL_FILE", "/run/secrets/read-already")
    config: Config = settings(tmp_path).model_copy(
        update={"web": Web(port=9000, database_url="postgresql://web@db/web")}
    )
    env = environment(config, tmp_path / "config.toml")
    assert env["LIMEN_CONFIG"] == str(tmp_path / "config.toml")
    assert env["LIMEN_NODE__DATA_DIR"] == str(config.data_dir)
    assert env["LIMEN_WEB__PORT"] == "9000"
    assert env["LIMEN_WEB__PUBLIC_URL"] == "http://127.0.0.1:9000"
    assert env["LIMEN_WEB__DATABASE_URL"] == "postgresql://web@db/web"
    assert "LIMEN_WEB__DATABASE_URL_FILE" not in env, "the results server knows no such variable"
    assert "LIMEN_WEB__SECRET_KEY_FILE" not in env


def test_a_results_server_that_cannot_be_set_up_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'database is away' >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(LimenError, match="database is away"):
        set_up_web(settings(tmp_path), dict(os.environ))
