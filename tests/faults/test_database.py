"""I1, I3, I10: a PostgreSQL that dies takes nothing with it, and nobody has to come.

With the timers as they ship; journal and results server share the server, which is the test's own.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study, until
from tests.support.postgresql import postgresql

AWAY_S = 6.0


@pytest.mark.timeout(300)
def test_a_database_that_dies_while_studies_come_and_are_worked_on_loses_and_doubles_nothing(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    slices = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    (before, early), (during, late) = (copy_study(slices, tmp_path / n) for n in ("a", "b"))
    ledger = Ledger()
    with postgresql("journal", "web") as server:
        node = Node(
            own_folder,
            LIMEN_JOURNAL__URL=server.url("journal"),
            LIMEN_WEB__DATABASE_URL=server.url("web"),
            LIMEN_EXPLAIN__MAX_EXPLAINED="1",
        )
        try:
            node.start()
            assert node.send(early).sent == len(early)
            ledger.note(early)
            until(
                lambda: [
                    job
                    for row in node.rows(before)
                    for job in row.jobs
                    if (job.phase, job.state) == ("explanation", "running")
                ],
                60,
                "an explanation to run",
            )
            server.kill()
            down = threading.Timer(AWAY_S, server.start)
            down.start()
            left = late
            while left:  # as a modality does: what is not taken is sent again
                report = node.send(left)
                ledger.note(p for p in left if p not in report.failed)
                left = [p for p in left if p in report.failed]
            down.join()
            back = time.monotonic()
            for uid in (before, during):
                until(lambda uid=uid: node.rows(uid), 60, "the journal to know the study")
                row = node.finished(uid, node.rows(uid)[0].revision)
                assert (row.state, row.outcome) == ("done", "positive")
                # No worker died: no lease had to end, and no attempt was lost.
                assert {job.attempts for job in row.jobs} == {1}
            assert time.monotonic() - back < node.config.queue.lease_s
            assert audit(node, ledger) == []
        finally:
            node.close()
