"""What came and has no result yet is on the worklist, also where no worker lives."""

from __future__ import annotations

import re
from pathlib import Path

import requests

from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until
from tests.support.results_server import log_in

NO_WORKER = "no worker has given a sign of life"


def test_a_study_that_no_worker_takes_is_on_the_worklist_and_staff_are_told_why(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    node = Node(own_folder)
    try:
        node.start("web", "scp")
        uid, files = copy_study(sorted(Path(phantoms["subdural"].folder).glob("*.dcm")), tmp_path)
        assert node.send(files).sent == len(files)
        with requests.Session() as browser:
            log_in(browser, node.login_url)

            def worklist() -> str:
                return browser.get(f"{node.config.web_url}/", timeout=10).text

            waits = "1 received without a result"
            until(lambda: waits in worklist(), 30, "the study to be listed", node.tell)
            text = worklist()
            assert re.search(rf'<td class="number">{len(files)}</td>', text)
            until(lambda: NO_WORKER in worklist(), 30, "the alarm", node.tell)
            assert "No study yet" not in text
            assert node.supervisor is not None
            node.supervisor.start(("worker",))
            node.finished(uid)
            until(
                lambda: "Everything that was received has a result" in worklist(),
                30,
                "the list to be empty",
                node.tell,
            )
            text = worklist()
            assert NO_WORKER not in text
            assert 'class="badge positive"' in text
    finally:
        node.close()
