"""Operations: what nodes tell of themselves, and orders that they carry out, over the wire."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests

from limen.bulletin import Bulletin
from limen.journal import Delivery, Holding, Job, Journal, WorkerSign
from limen.states import HoldingState
from limen.uids import key_of
from tests.support.results_server import Server, log_in
from tests.support.samples import SUMMARY, new_instance, settings

OPERATIONS = "/operations/"


class Node:
    """A node whose receiver tells a results server how it stands, a round at a time."""

    def __init__(self, folder: Path, server: Server) -> None:
        token = folder / "token"
        token.write_text(server.token)
        self.config = settings(
            folder,
            web={"port": server.port},
            destination={"django": {"token_file": token}},
            scp={"peer": [{"ae_title": "CT7", "address": "10.0.0.7"}]},
        )
        self.config.spool_dir.mkdir(parents=True)
        self.journal = Journal(f"sqlite:///{folder}/journal.db")
        self.journal.migrate()
        self.bulletin = Bulletin(self.config, self.journal)

    def round(self) -> None:
        """Tell, hear, and do."""
        self.bulletin.round()

    def bury(self, number: int) -> str:
        """Predict a study whose delivery dies; return its key."""
        uid = f"1.2.{number}"
        self.journal.receiving.record([new_instance(1, uid)])
        assert self.journal.receiving.complete(key_of(uid), 1)
        job = f"{key_of(uid)}-1-prediction"
        work = self.journal.work
        work.commit(work.claim(Job, job, "a", 30), "a", SUMMARY, ["archive"])
        work.bury(work.claim(Delivery, f"{job}-archive", "a", 30), "a", "answered 409")
        return f"{job}-archive"

    def state(self, key: str) -> str:
        """Return the state of a delivery."""
        rows = self.journal.status.studies()
        return next(d.state for row in rows for d in row.deliveries if d.key == key)


class Operator:
    """Somebody who is logged in as an administrator."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.session = requests.Session()
        log_in(self.session, server.login_url)

    def page(self) -> str:
        """Return the operations page."""
        return self.session.get(self.url + OPERATIONS, timeout=30).text

    def ask(self, key: str, action: str, reason: str, bulletin: str = "1") -> int:
        """Ask for something as the form does; return the status of the answer."""
        form = {
            "csrfmiddlewaretoken": self.session.cookies["limen_csrf"],
            "bulletin": bulletin, "key": key, "action": action, "reason": reason,
        }  # fmt: skip
        address = f"{self.url}{OPERATIONS}order"
        headers = {"Referer": address}
        return self.session.post(address, form, headers=headers, timeout=30).status_code


@pytest.fixture(scope="module")
def server(start_server) -> Server:
    return start_server()


@pytest.fixture(scope="module")
def operator(server) -> Operator:
    return Operator(server)


@pytest.fixture
def node(tmp_path: Path, server: Server) -> Node:
    node = Node(tmp_path, server)
    yield node
    node.journal.close()


def test_the_page_tells_how_a_node_stands_and_orders_are_done_once_and_told_back(
    node: Node, operator: Operator
) -> None:
    assert "No receiver has told anything" in operator.page()
    again, never = node.bury(1), node.bury(2)
    node.journal.workers.seen(WorkerSign("abcdef01" * 4, "host-a", "0.1.0", ("archive",)), 30)
    node.round()
    text = operator.page()
    for words in (
        again, never, "answered 409", "archive: 2 dead", "abcdef01 on host-a", "CT7", "not lately",
        "senders are refused below", "CT1",
    ):  # fmt: skip
        assert words in text, words
    assert operator.ask(again, "retry", "the archive was full") == 200
    assert operator.ask(never, "discard", "a test of the modality") == 200
    assert operator.ask(never, "retry", "twice") == 422, "one order at a time"
    assert "the node has not answered yet" in operator.page()
    node.bulletin._told_s = float("-inf")  # half a minute later
    node.round()
    assert (node.state(again), node.state(never)) == ("queued", "discarded")
    node.round()
    text = operator.page()
    assert "because: <bdi>the archive was full</bdi>. Done:" in text
    assert "Not answered yet" not in text
    assert "Dead work" not in text
    (event,) = [e for e in node.journal.events.of(key_of("1.2.2")) if e.kind == "discard"]
    assert "admin (results server)" in str(event)


def test_an_order_whose_answer_was_lost_is_not_done_twice(node: Node, operator: Operator) -> None:
    key = node.bury(3)
    node.round()
    assert operator.ask(key, "retry", "once") == 200
    for _ in range(2):  # the node ends each time before it has told
        node.bulletin = Bulletin(node.config, node.journal)
        node.round()
    assert node.state(key) == "queued"
    node.round()
    assert f"Not done: {key} is not dead any more." in operator.page()


def test_what_nobody_can_mean_is_refused(node: Node, operator: Operator) -> None:
    key = node.bury(4)
    node.round()
    assert operator.ask(key, "purge", "x") == 422
    assert operator.ask(key, "discard", "  ") == 422
    assert operator.ask("0" * 32, "retry", "x") == 422
    assert operator.ask(key, "retry", "x", bulletin="999") == 404
    assert operator.ask(key, "retry", "x", bulletin="²") == 404


def test_the_page_of_models_tells_which_version_looks_at_studies_and_by_whose_word(
    tmp_path: Path, server: Server, operator: Operator
) -> None:
    node = Node(tmp_path, server)
    deployments, worker = node.journal.deployments, "abcdef01" * 4
    node.journal.workers.seen(WorkerSign(worker, "host-a", "0.1.0", ("prediction",)), 30)
    for version, percent, state in (
        ("1.0", 100, HoldingState.READY),
        ("2.0", 5, HoldingState.READY),
        ("3.0", 100, HoldingState.FAILED),
    ):
        made = deployments.ask("heads", version, version * 20, percent, "anna@reading")
        deployments.report(worker, [Holding(worker, "heads", made.id, state, "golden <differ>")])
    node.round()
    node.journal.close()
    page = operator.session.get(f"{operator.url}/models/", timeout=30).text
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    for words in (
        "heads 1.0 serves 95 % of studies",
        "heads 2.0 serves 5 % of studies",
        "heads 3.0 refused : worker abcdef01 on host-a: golden &lt;differ&gt; nothing",
        "anna@reading",
    ):
        assert words in text, text
