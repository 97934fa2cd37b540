"""I2, I3, I4: a journal that is damaged is refused, and rebuilt from what lies beside it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.journals import paths
from tests.support.node import Node, copy_study, until


def told(node: Node, study_uid: str) -> dict[str, Any]:
    """What people read, and every byte that the node has of it."""
    roots = (node.config.results_dir, node.config.archive_dir)
    kept = {str(path): path.read_bytes() for root in roots for path in root.rglob("*.*")}
    return kept | {"page": node.on_web(study_uid)}


def run(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Limen; nothing of this process has the journal open."""
    node.journal.close()
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=node.env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def is_at_rest(node: Node) -> bool:
    return all(
        row.state == "done" and all(work.state == "done" for work in (*row.jobs, *row.deliveries))
        for row in node.journal.status.studies()
    )


@pytest.mark.timeout(600)
def test_a_truncated_journal_is_refused_and_rebuilt_and_everybody_reads_what_they_read_before(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    uid, files = copy_study(sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm")), tmp_path / "a")
    ledger, node = Ledger(), Node(own_folder)
    try:
        node.start()
        for revision, some in ((1, files[:-1]), (2, files)):  # a straggler made a second revision
            assert not node.send(some).failed
            node.finished(uid, revision, timeout_s=120)
        ledger.note(files)
        before, kept = told(node, uid), paths(node.journal)
        running = run(node, "limen", "doctor", "--repair")
        assert (running.returncode, "has the journal" in running.stderr) == (1, True)
        node.stop()
        node.journal.close()
        file = node.config.data_dir / "journal.db"
        with closing(sqlite3.connect(file)) as db:  # else its log may hold all of it
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size // 2)
        refused = run(node, "scp")
        assert refused.returncode == 1
        assert "is damaged" in refused.stderr
        assert "`limen doctor --repair`" in refused.stderr
        repaired = run(node, "limen", "doctor", "--repair", "--json")
        assert repaired.returncode == 0, repaired.stderr
        done = json.loads(repaired.stdout)
        assert Path(done["kept_as"]).is_file()
        assert (done["instances"], done["results"], done["analyses"]) == (len(files), 2, 0)
        assert paths(node.journal) == kept
        node.start()
        until(lambda: is_at_rest(node), 120, "all to be delivered once more", node.tell)
        assert not node.send(files).failed  # what is sent again is known
        assert audit(node, ledger) == []
        assert told(node, uid) == before
        assert [row.revision for row in node.rows(uid)] == [2, 1]
    finally:
        node.close()
