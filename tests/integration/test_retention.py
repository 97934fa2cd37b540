"""`limen purge`: what was delivered goes, and what is said of a study afterwards stays true."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study


@pytest.fixture(params=["with an archive", "without"])
def node(request: pytest.FixtureRequest, own_folder: Path) -> Iterator[Node]:
    archive = str(request.param == "with an archive").lower()
    made = Node(own_folder, LIMEN_DESTINATION__ARCHIVE__ENABLED=archive)
    try:
        made.start("scp", "worker", "web")
        yield made
    finally:
        made.close()


def limen(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limen", *words],
        env=node.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_purged_study_stays_on_the_worklist_and_is_never_called_negative_without_its_slices(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    files = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    uid, copies = copy_study(files, tmp_path)
    first, last = copies[:-1], copies[-1:]
    assert node.send(first).sent == len(first)
    key = node.finished(uid).study_key
    would = json.loads(limen(node, "purge", uid, "--dry-run", "--json").stdout)
    gone = json.loads(limen(node, "purge", uid, "--json").stdout)
    assert (gone["studies"], gone["size_bytes"]) == (1, would["size_bytes"])
    assert not list((node.config.spool_dir / key).glob("*"))
    assert node.on_web(uid)["study_uid"] == uid
    again = limen(node, "purge", uid)
    assert (again.returncode, "purged already" in again.stderr) == (1, True)

    replayed = limen(node, "replay", uid)
    if node.config.destination.archive.enabled:
        assert replayed.returncode == 0
        assert node.finished(uid, revision=2).outcome == node.finished(uid).outcome
        return
    assert replayed.returncode == 1
    assert "have the study sent again" in replayed.stderr
    assert node.send(last).sent == 1  # a late slice: what came before is no longer there
    row = node.finished(uid, revision=2)
    assert row.outcome in {"partial", "not_analysed"}
    lost = f"{len(first)} of {len(copies)} instances cannot be read: it is no longer kept here"
    assert lost in row.reason
    assert node.send(copies).sent == len(copies)  # and all of it again, as it is asked for
    assert limen(node, "replay", uid).returncode == 0
    assert node.finished(uid, revision=3).outcome == "negative"
