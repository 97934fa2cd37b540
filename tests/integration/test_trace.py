"""`limen trace` on a whole node with the settings as they ship: told, reproduced, or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limen.journal import StudyRow
from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study

ACCESSION = "ACC-4711"


@pytest.fixture(scope="module")
def analysed(
    phantoms: dict[str, DemoStudy], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Node, StudyRow]]:
    """A bleeding study that went all the way through a node of its own."""
    node = Node(tmp_path_factory.mktemp("node"), quick=False)
    files = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    copies = tmp_path_factory.mktemp("copies")
    uid, sent = copy_study(files, copies, AccessionNumber=ACCESSION)
    try:
        node.start()
        assert node.send(sent).sent == len(sent)
        row = node.finished(uid, timeout_s=120)
        node.stop()  # what is told and made again needs no process
        yield node, row
    finally:
        node.close()


def trace(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limen", "trace", *words],
        env=node.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def again(node: Node, row: StudyRow) -> tuple[int, dict[str, str]]:
    """Return exit code, and reason by phase, of a trace."""
    done = trace(node, row.study_key, "--json")
    said: dict[str, Any] = json.loads(done.stdout)["reproduced"]
    return done.returncode, {p["phase"]: p["reason"] for p in said["phases"]}


def test_a_positive_study_is_told_and_its_result_is_reproduced_byte_for_byte(
    analysed: tuple[Node, StudyRow],
) -> None:
    node, row = analysed
    assert row.outcome == "positive"
    done = trace(node, ACCESSION)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "received, TESTSCU: 12 instances",
        "association",
        "complete: 12 instances",
        "predicted: positive",
        "bundle ich ",
        "revision 1, prediction: reproduced, document and ",
        "revision 1, explanation: reproduced, document and ",
        "byte for byte",
    ):
        assert text in done.stdout, done.stdout
    assert ACCESSION not in done.stdout
    assert "^" not in done.stdout, "a name of a patient"


@pytest.mark.parametrize("of", ["key", "beginning of the key", "UID", "accession number"])
def test_a_study_is_found_by_whatever_a_person_has(
    analysed: tuple[Node, StudyRow], of: str
) -> None:
    node, row = analysed
    word = {
        "key": row.study_key,
        "beginning of the key": row.study_key[:12],
        "UID": row.study_uid,
        "accession number": ACCESSION,
    }[of]
    done = trace(node, word, "--no-reproduce", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["study_key"] == row.study_key


def test_an_altered_instance_and_an_altered_result_are_told_and_the_exit_code_is_1(
    analysed: tuple[Node, StudyRow],
) -> None:
    node, row = analysed
    instance = next((node.config.spool_dir / row.study_key).glob("*.dcm"))
    result = node.config.results_dir / row.study_key / "1" / "explanation" / "result.json"
    for path in (instance, result):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        code, reasons = again(node, row)
        path.write_bytes(before)
        assert code == 1
        if path is instance:
            assert (
                "1 of 12 instances in the spool are not what was received"
                in (reasons["prediction"])
            )
        else:
            assert reasons == {
                "prediction": "",
                "explanation": "the stored document was altered since",
            }
