"""`limen doctor` on a whole node: all is well, and nobody is shown the test study."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limen import selftest
from limen.doctor import study
from limen.doctor.check import Finding, Verdict
from limen.doctor.check import Node as Looked
from tests.support.node import ENDED, Node, until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    started = Node(tmp_path_factory.mktemp("node"))
    try:
        started.start()
        yield started
    finally:
        started.close()


def doctor(node: Node, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "doctor", "--json", *words],
        env=node.env,
        cwd=node.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_root_of_test_studies_is_the_same_on_both_sides() -> None:
    assert selftest.is_test(selftest.new_uid())
    assert len(f"{selftest.new_uid()}.1.12") <= 64


def test_all_is_well_and_nobody_is_shown_the_test_study(node: Node) -> None:
    code, tree = doctor(node)
    found = {one["name"]: one["findings"] for one in tree["checks"]}
    wrong = [f for name in found for f in found[name] if f["verdict"] in {"failed", "warning"}]
    assert (code, tree["ok"], wrong) == (0, True, []), node.tell()
    assert "positive" in found["study"][0]["text"]
    key = found["study"][0]["text"].split()[2].rstrip(":")
    row = until(
        lambda: next((r for r in node.journal.status.studies(key) if r.state in ENDED), None),
        60,
        "the test study to end",
        node.tell,
    )
    assert {d.destination for d in row.deliveries} == {"django"}
    assert not (node.config.archive_dir / row.study_key).exists()
    assert node.journal.status.studies() == []


def test_a_study_that_no_worker_takes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "_FOLLOWED_S", 3.0)
    alone = Node(tmp_path)
    try:
        alone.start("scp")
        (found,) = _study_of(alone)
        assert found.verdict is Verdict.FAILED
        assert "waits for its prediction" in found.text
        assert "`limen doctor workers broker`" in found.next
    finally:
        alone.close()


def test_a_study_that_the_receiver_does_not_store_is_told_with_its_answer(tmp_path: Path) -> None:
    full = Node(tmp_path, LIMEN_SCP__MIN_FREE_BYTES=str(1 << 60))
    try:
        full.start("scp")
        (found,) = _study_of(full)
        assert found.verdict is Verdict.FAILED
        assert "our receiver did not store the test study: 0xA700" in found.text
        assert "the log of `limen scp`" in found.next
    finally:
        full.close()


def test_where_senders_are_listed_the_line_that_lets_the_study_in_is_told(tmp_path: Path) -> None:
    peer = json.dumps([{"ae_title": "CT1", "address": "10.0.0.1"}])
    listed = Node(tmp_path, LIMEN_SCP__PEER=peer)
    (found,) = _study_of(listed)
    assert found.verdict is Verdict.SKIPPED
    assert selftest.AE_TITLE in found.next
    listed.close()


def _study_of(node: Node) -> list[Finding]:
    return list(study.study(Looked(node.config, None, node.env)))
