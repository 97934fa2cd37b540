"""``limen model deploy``, ``rollback``, ``list``: what people type, with a worker that listens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limen.command.edge import FAILED, OK, PARTIAL, USAGE
from tests.support.model_host import Console, host_with_versions
from tests.support.tiny_models import write_version
from worker.tools import model_deploy

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def console(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    host = host_with_versions(tmp_path)
    monkeypatch.setenv("SUDO_USER", "anna")
    yield Console.whose_worker_looks(host, capsys, monkeypatch)
    host.stop()
    host.journal.close()


def test_a_version_is_deployed_as_soon_as_the_workers_have_tried_it(console: Console) -> None:
    console.host.start()
    code, said = console.run("deploy", "heads", "1.0")
    assert code == OK
    assert re.search(r"heads 1\.0 looks at all studies: 1 worker loaded and tried it in", said)
    assert console.host.serving() == ["1.0"]
    assert console.host.last().asked_by.startswith("anna@")


def test_a_canary_is_told_with_its_share_and_so_is_the_rest(console: Console) -> None:
    console.host.start()
    console.run("deploy", "heads", "1.0")
    code, said = console.run("deploy", "heads", "2.0", "--percent", "5")
    assert (code, "heads 2.0 looks at 5 % of studies" in said) == (OK, True)
    code, said = console.run("list", "--json")
    shares = {one["version"]: one["studies"] for one in json.loads(said)["versions"]}
    assert (code, shares) == (OK, {"1.0": "95 % of studies", "2.0": "5 % of studies"})


def test_a_version_that_fails_is_told_with_its_reason_and_what_goes_on(console: Console) -> None:
    write_version(console.host.folder, "3.0", golden_off=-0.3)
    console.host.start()
    console.run("deploy", "heads", "1.0")
    code, said = console.run("deploy", "heads", "3.0")
    assert code == FAILED
    assert "heads 3.0 does not serve, heads 1.0 goes on: worker 11111111 on here" in said
    assert "golden tensors differ" in said
    assert console.host.serving() == ["1.0"]


def test_where_no_worker_lives_a_version_is_asked_for_and_waits(console: Console) -> None:
    code, said = console.run("deploy", "heads", "1.0")
    assert (code, "no worker lives that has a route to it" in said) == (PARTIAL, True)
    console.host.start().look()
    assert console.host.serving() == ["1.0"], console.host.last()


def test_a_worker_that_is_slow_is_named_and_not_waited_for_for_ever(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.host.start()
    monkeypatch.setattr(model_deploy.time, "sleep", lambda _: None)
    code, said = console.run("deploy", "heads", "1.0", "--wait", "0.05")
    assert (code, "not ready on 11111111 on here" in said) == (PARTIAL, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("deploy", "chests", "1.0"), "no [[route]] names a folder of versions that is called"),
        (("deploy", "heads", "9.0"), "has no version 9.0 (there: 1.0, 2.0)"),
        (("deploy", "heads", "2.0", "--percent", "5"), "leave out --percent"),
        (("rollback", "heads"), "no version of heads is deployed"),
        (("list", "chests"), "no [[route]] names a folder of versions that is called chests"),
        (("check", "HEADS"), "is a folder of versions (1.0, 2.0); name one of them"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_can(
    words: tuple[str, ...], told: str, console: Console
) -> None:
    code, said = console.run(*(str(console.host.folder) if w == "HEADS" else w for w in words))
    assert (code in {FAILED, USAGE}, told in said) == (True, True), said


def test_a_route_to_one_bundle_is_told_how_to_have_versions(console: Console) -> None:
    text = console.settings.read_text("utf-8")
    console.settings.write_text(text.replace('/heads"', '/heads/1.0"'), "utf-8")
    code, said = console.run("deploy", "1.0", "1.0")
    assert (code, "route head names one bundle, not a folder of versions" in said) == (USAGE, True)


@pytest.fixture
def served(console: Console) -> Callable[..., tuple[int, str]]:
    """A console where 2.0 serves in place of 1.0."""
    console.host.start()
    for version in ("1.0", "2.0"):
        assert console.run("deploy", "heads", version)[0] == OK
    return console.run


def test_a_rollback_says_what_is_gone_and_what_serves(
    served: Callable[..., tuple[int, str]], console: Console
) -> None:
    code, said = served("rollback", "heads", "--reason", "two bleeds were missed")
    assert code == OK
    assert "heads 2.0 is taken back: nothing that it says is committed now" in said
    assert "heads 1.0 looks at all studies" in said
    assert console.host.serving() == ["1.0"]
    code, said = served("list", "heads")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    # The worker loads it again when it looks next; it may have looked.
    assert any(
        re.match(r"heads 1\.0 serving all studies .* anna@\S+ [01] of 1 ready", x) for x in lines
    )
    assert any(re.match(r"heads 2\.0 withdrawn 20.* anna@", x) for x in lines)
    assert any("withdrawn by anna@" in x and "two bleeds were missed" in x for x in lines)


def test_the_list_knows_what_lies_there_and_was_never_deployed(console: Console) -> None:
    code, said = console.run("list")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert code == OK
    assert lines[1:] == ["heads 1.0 not deployed", "heads 2.0 not deployed"]
