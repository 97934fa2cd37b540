"""`limen qa` on a whole node: what is compared, what is an alarm, and that nobody else sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from limen.alarms import Kind, of_qa
from limen.qa.history import History, Verdict
from tests.support.node import Node, until

HEADS = ["no-bleed", "bleed"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node as it ships, and quick only in what costs a test its time."""
    started = Node(tmp_path_factory.mktemp("node"))
    try:
        started.start()
        yield started
    finally:
        started.close()


def begin(node: Node, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "limen", "qa", *words],
        env=node.env | variables, cwd=node.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def qa(node: Node, *words: str, **variables: str) -> tuple[int, dict[str, Any]]:
    begun = begin(node, "--json", *words, **variables)
    said, error = begun.communicate(timeout=120)
    assert said, error
    return begun.returncode, json.loads(said)


def alarms(node: Node) -> list[tuple[Kind, str]]:
    return [(one.kind, one.about) for one in of_qa(node.config)]


@pytest.fixture(scope="module")
def first(node: Node) -> tuple[int, dict[str, Any]]:
    return qa(node)


def test_the_first_run_is_the_baseline_and_both_heads_are_called_what_they_are(
    node: Node, first: tuple[int, dict[str, Any]]
) -> None:
    code, tree = first
    assert (code, tree["verdict"]) == (0, "ok"), node.tell()
    assert [(r["head"], r["outcome"]) for r in tree["runs"]] == [
        ("no-bleed", "negative"),
        ("bleed", "positive"),
    ]
    assert {r["baseline"] for r in tree["runs"]} == {"first"}
    assert len({r["bundle_sha256"] for r in tree["runs"]}) == 1
    assert alarms(node) == []


def test_nobody_else_is_shown_a_test_study(node: Node, first: tuple[int, dict[str, Any]]) -> None:
    assert first[0] == 0
    assert node.journal.status.studies() == []
    assert node.page("/api/v1/studies").json()["results"] == []
    tests = node.page("/api/v1/studies?tests=1").json()["results"]
    assert len(tests) >= 2
    assert not node.config.archive_dir.exists()


def test_the_second_run_is_as_the_first_and_says_how_long_it_may_take(
    node: Node, first: tuple[int, dict[str, Any]]
) -> None:
    code, tree = qa(node)
    assert (code, tree["verdict"]) == (0, "ok"), tree
    for before, now in zip(first[1]["runs"], tree["runs"], strict=True):
        assert now["baseline"] == ""
        assert (now["outcome"], now["pixels_sha256"]) == (
            before["outcome"],
            before["pixels_sha256"],
        )
        assert now["probability"] == pytest.approx(before["probability"], abs=1e-6)
        assert now["latency_limit_s"] >= before["latency_s"] + 5


def test_another_outcome_of_the_same_bundle_is_an_alarm_until_it_is_accepted(
    node: Node, first: tuple[int, dict[str, Any]]
) -> None:
    """The baseline is moved, not the model: for the node both are the same."""
    assert first[0] == 0
    kept = History.read(node.config.data_dir)
    moved = [
        run.model_copy(update={"probability": run.probability - 0.05})
        if run.head == "no-bleed" and run.baseline and run.probability
        else run.model_copy(update={"outcome": "partial"})
        if run.head == "bleed" and run.baseline
        else run
        for run in kept.runs
    ]
    History(moved).write(node.config.data_dir)
    code, tree = qa(node)
    assert (code, tree["verdict"]) == (1, "failed")
    said = {run["head"]: run["text"] for run in tree["runs"]}
    assert "the baseline of the same bundle is partial" in said["bleed"]
    assert "qa.probability_tolerance" in said["no-bleed"]
    assert alarms(node) == [(Kind.QA, head) for head in HEADS]
    status = subprocess.run(
        [sys.executable, "-m", "limen", "status"],
        env=node.env, cwd=node.folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert status.returncode == 1
    assert "the baseline of the same bundle is partial" in status.stdout

    code, tree = qa(node, "--accept")
    assert (code, {run["baseline"] for run in tree["runs"]}) == (0, {"accepted"})
    assert alarms(node) == []


def test_a_slow_run_is_a_warning(node: Node, first: tuple[int, dict[str, Any]]) -> None:
    """The worker stands still while both studies are on their way: they wait longer than usual."""
    usual = {r.head: r.latency_s for r in History.read(node.config.data_dir).last.values()}
    assert node.supervisor is not None
    worker = node.supervisor.pid("worker")
    known = {row["study_uid"] for row in node.page("/api/v1/studies?tests=1").json()["results"]}
    slack = {"LIMEN_QA__LATENCY_SLACK_S": "1", "LIMEN_QA__LATENCY_FACTOR": "1.5"}
    os.kill(worker, signal.SIGSTOP)
    try:
        begun = begin(node, "--json", **slack)
        stopped_s = 1.5 * max(s for s in usual.values() if s) + 1
        until(lambda: _waits(node, known, stopped_s), 60, "the study to be late", node.tell)
    finally:
        os.kill(worker, signal.SIGCONT)
    said, error = begun.communicate(timeout=120)
    assert begun.returncode == 5, said + error
    slow, other = json.loads(said)["runs"]
    assert (slow["head"], slow["verdict"], slow["slow"]) == ("no-bleed", "warning", True)
    assert "usual are" in slow["text"]
    assert other["verdict"] == "ok"
    assert alarms(node) == [(Kind.QA, "no-bleed")]


def _waits(node: Node, known: set[str], seconds: float) -> bool:
    """Return whether the newest test study has been there for so long."""
    newest = node.journal.status.studies(_newest_key(node) or "none")
    if not newest or newest[0].study_uid in known:
        return False
    return (node.journal.clock() - newest[0].last_instance_at).total_seconds() > seconds


def _newest_key(node: Node) -> str:
    spool = [p for p in node.config.spool_dir.glob("*") if p.is_dir() and len(p.name) == 32]
    return max(spool, key=lambda p: p.stat().st_mtime).name if spool else ""


def test_where_senders_are_listed_and_we_are_not_nothing_is_sent_and_the_line_is_told(
    node: Node, first: tuple[int, dict[str, Any]]
) -> None:
    before = History.read(node.config.data_dir).runs
    peer = json.dumps([{"ae_title": "CT1", "address": "10.0.0.1"}])
    begun = begin(node, LIMEN_SCP__PEER=peer)
    _, error = begun.communicate(timeout=60)
    assert begun.returncode == 2
    assert 'ae_title = "LIMEN_TEST"' in error
    assert History.read(node.config.data_dir).runs == before


def test_two_at_once_are_refused(node: Node, first: tuple[int, dict[str, Any]]) -> None:
    from limen.qa.history import alone

    with alone(node.config.data_dir):
        begun = begin(node)
        _, error = begun.communicate(timeout=60)
    assert begun.returncode == 1
    assert "another `limen qa` runs" in error


def test_a_node_that_is_down_fails_says_what_to_do_and_is_an_alarm(
    node: Node, first: tuple[int, dict[str, Any]]
) -> None:
    before = History.read(node.config.data_dir).last_success
    node.stop()
    code, tree = qa(node)
    assert (code, tree["ok"]) == (1, False)
    for run in tree["runs"]:
        assert "does not answer" in run["text"]
        assert "limen doctor" in run["next"]
    assert alarms(node) == [(Kind.QA, head) for head in HEADS]
    history = History.read(node.config.data_dir)
    assert history.last_success == before
    assert {run.verdict for run in history.last.values()} == {Verdict.FAILED}
    said, _ = begin(node, "--history").communicate(timeout=60)
    assert said.splitlines()[1].split()[2:5] == ["no-bleed", "ok", "negative"]
    assert said.splitlines()[-1].split()[2:5] == ["bleed", "failed", "-"]
